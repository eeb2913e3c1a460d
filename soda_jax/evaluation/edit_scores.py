"""The figures of one direction's edits, and of the sections of the latent (SODA 3.2.1, Appendix E.3)."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from einops import rearrange

from soda_jax.evaluation.edit_drawing import Drawing
from soda_jax.evaluation.progress import shown
from soda_jax.evaluation.record import Figures
from soda_jax.inference.directions import Found
from soda_jax.latents import scores
from soda_jax.latents.directions import Direction, move
from soda_jax.latents.finding import LABEL_KINDS
from soda_jax.latents.pca import fit_pca
from soda_jax.metrics.bootstrap import bootstrap, mean_estimate

SECTION_COMPONENTS = 8  # of a section, over which its mean is taken: evenly spaced from the first to the last
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pixel_rmse(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Root mean squared difference of images [B, H, W, 3] in [-1, 1], in units of [0, 1]: [B]."""
    difference = (images.astype(np.float64) - references) / 2
    return np.sqrt((difference**2).mean(axis=(1, 2, 3)))


@dataclasses.dataclass(frozen=True, eq=False)
class DirectionScores:
    """Scores edits along directions on the same images.

    Attributes:
      drawing: of latents.
      found: real codes, and probes of their labels.
      z: [N, d], codes of held-out images.
      sigmas: strengths that are asked for.
      distance: between images.
      least_share, most_leakage: of the safe range.
    """

    drawing: Drawing
    found: Found
    z: np.ndarray
    sigmas: tuple[float, ...]
    distance: Distance
    least_share: float
    most_leakage: float

    def unedited(self) -> tuple[np.ndarray, np.ndarray]:
        """What edits are compared with: images [N, 1, H, W, 3] of the latents themselves, and their codes [N, 1, d]."""
        images = self.drawing.draw(self.z[:, None])
        return images, self.drawing.encode(images)

    def figures(self, direction: Direction, images: np.ndarray, before: np.ndarray) -> tuple[Figures, np.ndarray]:
        """Figures of one direction, by their last name, and the ratios of realised to requested shift, [S].

        Args:
          images, before: `unedited`.

        Returns:
          `slope`, `spearman`, `safe_low`, `safe_high`, `distance`; `leakage` of a direction that leaves sections alone;
          `target` and `dependency` where labels have probes.
        """
        moved = np.stack([move(self.z, {direction: sigma}) for sigma in self.sigmas], axis=1)
        edited = self.drawing.draw(moved)
        after = self.drawing.encode(edited)
        shifts = scores.realised(direction, before, after)
        requested = np.array(self.sigmas)
        figures: Figures = {
            "slope": bootstrap(lambda drawn: scores.slope(requested, drawn), shifts),
            "spearman": mean_estimate(scores.spearman(requested, shifts)),
        }
        leakages = None
        if scores.leaks(direction):
            squares = scores.shift_squares(direction, before, after, self.found.codes.std(axis=0))
            leakages = scores.leakage_of(squares.swapaxes(0, 1))
            if squares[..., 0].any():  # else nothing moved that could leak
                figures["leakage"] = bootstrap(scores.leakage_of, squares.mean(axis=1))
        safe = scores.safe_range(
            requested,
            shifts.mean(axis=0),
            leakages,
            least_share=self.least_share,
            most_leakage=self.most_leakage,
        )
        figures |= dict(zip(("safe_low", "safe_high"), safe, strict=True))
        figures |= self._labels(direction, before, after)
        flat = rearrange(edited, "n s h w c -> (n s) h w c")
        distances = self.distance(flat, np.repeat(images[:, 0], len(requested), axis=0))
        figures["distance"] = mean_estimate(np.reshape(distances, shifts.shape).mean(axis=1))
        return figures, scores.ratios(requested, shifts)

    def _labels(self, direction: Direction, before: np.ndarray, after: np.ndarray) -> Figures:
        """Of the label that the direction is of, and of the others: change of their probes' logits for one sigma."""
        codes, requested = self.found.codes, np.array(self.sigmas)
        label, target = label_of(direction, self.found)
        others = {name: probe for name, probe in self.found.probes.items() if name != label}
        figures: Figures = {}
        if label is not None:
            responses = scores.response(self.found.probes[label], before, after, codes, target)
            figures["target"] = bootstrap(lambda drawn: scores.slope(requested, drawn), responses)
        if others:
            changes = scores.dependency(others, before, after, codes).mean(axis=-1)
            figures["dependency"] = mean_estimate((changes / np.abs(requested)).mean(axis=1))
        return figures


def label_of(direction: Direction, found: Found) -> tuple[str | None, int | None]:
    """(the label that a direction is of, the class that it moves toward), None where there is none."""
    if direction.name in found.probes:
        return direction.name, None
    label, _, target = direction.name.rpartition("=")
    return (label, int(target)) if label in found.probes and target.isdecimal() else (None, None)


def section_map(drawing: Drawing, z: np.ndarray, images: np.ndarray, codes: np.ndarray, num_sections: int) -> Figures:
    """How much the image changes for one sigma along the principal components of each section alone.

    Args:
      z: [N, d], codes of held-out images.
      images: [N, 1, H, W, 3], what is drawn of them.
      codes: [M, d], real ones.

    Returns:
      "edits/section_K/first": root mean squared difference of pixels in [0, 1] for the first component;
      "edits/section_K/mean": mean of it over `SECTION_COMPONENTS` of the components, evenly spaced in their order.
      A section in which the codes do not vary has neither.
    """
    figures: Figures = {}
    for section in shown(range(num_sections), "sections one by one", num_sections, unit="section"):
        try:
            pca = fit_pca(codes, sections=str(section), num_sections=num_sections)
        except ValueError:  # no variance there
            continue
        count = min(SECTION_COMPONENTS, len(pca.std))
        chosen = np.unique(np.linspace(0, len(pca.std) - 1, count).round().astype(int))
        moved = z[:, None] + pca.std[chosen, None] * pca.components[chosen]
        edited = drawing.draw(moved)
        flat = rearrange(edited, "n k h w c -> (n k) h w c")
        changes = pixel_rmse(flat, np.repeat(images[:, 0], len(chosen), axis=0)).reshape(len(z), -1)
        figures[f"edits/section_{section}/first"] = mean_estimate(changes[:, 0])
        figures[f"edits/section_{section}/mean"] = mean_estimate(changes.mean(axis=1))
    return figures


def chosen_directions(
    found: Found, asked: Sequence[str], *, components: int, per_range: int, most_labels: int
) -> tuple[dict[str, Direction], list[str]]:
    """The directions that `config.eval.edits_directions` asks for, by name, and lines on what is left out.

    Raises:
      ValueError: a name that is neither a kind nor a direction of this model, or nothing is left.
    """
    groups, lines = _groups(found, components, per_range, most_labels), []
    chosen: dict[str, Direction] = {}
    for name in asked:
        if name in groups:
            chosen |= {direction.name: direction for direction in groups[name]}
            if not groups[name]:
                lines.append(f"edits: this model has no directions of the kind {name!r}")
        elif name in found.directions:
            chosen[name] = found.directions[name]
        else:
            raise ValueError(
                f"config.eval.edits_directions: {name!r} is neither one of {', '.join(groups)} nor a direction of this "
                f"model; it has {', '.join(found.directions)}"
            )
    if not chosen:
        raise ValueError(f"config.eval.edits_directions={tuple(asked)}: this model has none of these directions")
    every = len(found.of_kind(*LABEL_KINDS))
    if "labels" in asked and every > most_labels:
        lines.append(f"edits: {most_labels} of {every} label directions are scored, spread over all")
    return chosen, lines


def _groups(found: Found, components: int, per_range: int, most_labels: int) -> dict[str, list[Direction]]:
    pca, labels = found.of_kind("pca"), found.of_kind(*LABEL_KINDS)
    if len(labels) > most_labels:
        labels = [labels[i] for i in np.linspace(0, len(labels) - 1, most_labels).round().astype(int)]
    ranges = dict.fromkeys(direction.sections for direction in pca if direction.sections is not None)
    by_range = [[direction for direction in pca if direction.sections == text][:per_range] for text in ranges]
    return {
        "pca": [direction for direction in pca if direction.sections is None][:components],
        "ranges": [direction for group in by_range for direction in group],
        "labels": labels,
        "weights": found.of_kind("weights")[:components],
    }
