"""Finding directions: principal components, labels, two groups of images, the modulation's weights, single axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from soda_jax.latents.checks import checked_codes
from soda_jax.latents.directions import Direction, measured
from soda_jax.latents.pca import fit_pca
from soda_jax.latents.probing import LabelProbe
from soda_jax.latents.sections import dims_of

LABEL_KINDS = ("standardised", "gradient", "means")


def pca_directions(
    codes: np.ndarray, num: int, *, sections: str | None = None, num_sections: int = 0, **tie: Any
) -> list[Direction]:
    """The top `num` principal components of codes [N, d], of the whole latent or of a range of sections; fewer where
    there are fewer. Named pca1, pca2, ..., or pca1_sections_a-b.

    Raises:
      ValueError: see `fit_pca`.
    """
    pca = fit_pca(codes, sections=sections, num_sections=num_sections)
    suffix = "" if sections is None else f"_sections_{sections}"
    return [
        measured(
            pca.components[i],
            codes,
            name=f"pca{i + 1}{suffix}",
            kind="pca",
            source=f"{100 * pca.share[i]:.2g}% of the variance",
            sections=sections,
            num_sections=num_sections,
            **tie,
        )
        for i in range(min(num, len(pca.std)))
    ]


def axis_direction(codes: np.ndarray, index: int, *, num_sections: int = 0, **tie: Any) -> Direction:
    """The single dimension `index` of the latent, named axisN.

    Raises:
      ValueError: there is no such dimension, or codes [N, d] do not vary in it.
    """
    codes = checked_codes(codes, least=2)
    width = codes.shape[1]
    if not 0 <= index < width:
        raise ValueError(f"axis={index}: the latent has dimensions 0..{width - 1}")
    vector = np.zeros(width)
    vector[index] = 1.0
    return measured(vector, codes, name=f"axis{index}", kind="axis", num_sections=num_sections, **tie)


def group_direction(
    from_codes: np.ndarray, to_codes: np.ndarray, codes: np.ndarray | None = None, *, name: str = "groups", **tie: Any
) -> Direction:
    """From the mean code of one group of images to that of another.

    Args:
      from_codes, to_codes: [N, d] and [M, d], one or more of each.
      codes: real codes whose spread gives the sigma; by default both groups together.

    Raises:
      ValueError: the groups have the same mean, or do not fit each other.
    """
    from_codes = checked_codes(from_codes, "from_codes")
    to_codes = checked_codes(to_codes, "to_codes", width=from_codes.shape[1])
    codes = np.concatenate([from_codes, to_codes]) if codes is None else codes
    vector = to_codes.mean(axis=0) - from_codes.mean(axis=0)
    source = f"difference of the means of {len(to_codes)} and {len(from_codes)} images"
    return measured(vector, codes, name=name, kind="means", **{"source": source} | tie)


def label_direction(
    probe: LabelProbe,
    codes: np.ndarray,
    labels: np.ndarray,
    *,
    name: str,
    target: int | None = None,
    kind: str = "standardised",
    sections: str | None = None,
    num_sections: int = 0,
    **tie: Any,
) -> Direction:
    """The direction of a label (SODA Appendix E.3: rows of the linear probe).

    Of a class it is the class's row less the mean of the others', of a two-way label the difference of its two rows. Of
    a label with more classes and no `target` it is sum_k (k - mean k) row_k, the gradient of the expected class where
    all are equally likely, which is meant for classes in an order (of two it is the difference again).

    Args:
      probe: fitted on codes of the same model.
      codes, labels: [N, d] and int [N], whose spread gives the sigma.
      target: the class to move toward; None: toward the higher classes.
      kind: with w the probe's rows so combined and std that of the codes: "standardised" std * w (a step of unit length
        in the standardised space; dimensions of little variance stay so), "gradient" w / std (the gradient of the
        logit), "means" the same combination of the classes' mean codes in the place of the rows.
      sections: a range "a-b" to move alone.

    Raises:
      ValueError: an unknown kind, a class that the label does not have, or that no code has for "means".
    """
    size = len(probe.rows)
    if kind not in LABEL_KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(LABEL_KINDS)}")
    if target is not None and not 0 <= target < size:
        raise ValueError(f"target={target}: label {name!r} has classes 0..{size - 1}")
    codes = checked_codes(codes, least=2)
    present = np.flatnonzero(np.bincount(labels, minlength=size))
    if target is not None and target not in present:
        raise ValueError(f"target={target}: no code has this class of {name!r}; encode images that have")
    weights = class_weights(present, target)
    if kind == "means":
        vector = sum(w * codes[labels == k].mean(axis=0) for k, w in zip(present, weights, strict=True))
    else:
        row = weights @ probe.rows[present]
        vector = row * probe.std if kind == "standardised" else row / probe.std
    return measured(
        vector,
        codes,
        name=name if target is None else f"{name}={target}",
        kind=kind,
        source={"standardised": "probe, std * w", "gradient": "probe, gradient", "means": "difference of means"}[kind],
        sections=sections,
        num_sections=num_sections,
        **tie,
    )


def class_weights(classes: Sequence[int] | np.ndarray, target: int | None) -> np.ndarray:
    """Weights [C] of the classes' rows in a label's direction, summing to 0; see `label_direction`."""
    classes = np.asarray(classes, np.float64)
    if target is None:
        return classes - classes.mean()
    return np.where(classes == target, 1.0, -1.0 / (len(classes) - 1))


def weight_directions(
    projection: np.ndarray,
    codes: np.ndarray,
    num: int,
    *,
    sections: str | None = None,
    num_sections: int = 0,
    **tie: Any,
) -> list[Direction]:
    """Directions to which the network is most sensitive, in closed form and without data: the top singular vectors of
    the projections that the latent's sections feed.

    Args:
      projection: [d, M], the linear map from z to all modulations, as the model's `latent_projection` gives it.
      codes: [N, d], whose spread gives the sigma alone.
      num: how many, at most.
      sections: a range "a-b" to look at alone.

    Raises:
      ValueError: the map does not fit the codes.
    """
    codes = checked_codes(codes, least=2)
    projection = checked_codes(projection, "the projection")
    if len(projection) != codes.shape[1]:
        raise ValueError(f"the projection is of {len(projection)} dimensions, the codes of {codes.shape[1]}")
    dims = dims_of(sections, codes.shape[1], num_sections)
    vectors, singular, _ = np.linalg.svd(projection[dims], full_matrices=False)
    suffix = "" if sections is None else f"_sections_{sections}"
    found = []
    for i in range(min(num, int((singular > singular[0] * 1e-9).sum()))):
        vector = np.zeros(codes.shape[1])
        vector[dims] = vectors[:, i] * np.sign(vectors[np.abs(vectors[:, i]).argmax(), i])
        found.append(
            measured(
                vector,
                codes,
                name=f"weights{i + 1}{suffix}",
                kind="weights",
                source=f"singular value {singular[i]:.3g}",
                sections=sections,
                num_sections=num_sections,
                **tie,
            )
        )
    return found
