"""Principal components of each section of codes by itself.

Metrics of single columns say little of a latent whose units are vectors. DisDiff (Yang et al. 2023) and EncDiff (Yang
et al. 2024) reduce each unit to its first principal component before DCI and the FactorVAE score, FDAE (Wu and Zheng
2024) to its first three.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from soda_jax.metrics.disentanglement.dci import DCI, Section, dci_by_section
from soda_jax.metrics.disentanglement.factor_vae import factor_vae_score, kept_columns
from soda_jax.metrics.disentanglement.factors import Kinds, codes_matrix, draw_varying, factor_kinds, matrix


@dataclasses.dataclass(frozen=True)
class PcaScores:
    """DCI and the FactorVAE score of the first k principal components of each of S sections, of several draws.

    Attributes:
      k: components a section.
      parts: DCI of each draw.
      factor_vae: the FactorVAE score of each draw.
      pruned: how many of the S * k columns take no part in it.
    """

    k: int
    parts: list[DCI]
    factor_vae: list[float]
    pruned: int

    @property
    def importance(self) -> np.ndarray:
        """float64 [S * k, K], the mean over draws; rows are section by section, by falling variance."""
        return np.mean([part.importance for part in self.parts], axis=0)

    @property
    def columns(self) -> int:
        """S * k."""
        return len(self.parts[0].importance)

    def by_seed(self) -> dict[str, list[float]]:
        """`d`, `c`, `i` and `factor_vae`, each of every draw."""
        return {
            "d": [part.disentanglement for part in self.parts],
            "c": [part.completeness for part in self.parts],
            "i": [part.informativeness for part in self.parts],
            "factor_vae": self.factor_vae,
        }


def pca_scores(
    train_codes: np.ndarray,
    train_factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    sections: Sequence[Section],
    k: int,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    threshold: float = 0.0,
    num_train: int = 10_000,
    num_test: int = 5_000,
    kinds: Kinds = "auto",
    method: str = "fast",
    jobs: int | None = None,
    progress: bool = False,
) -> PcaScores:
    """DCI and the FactorVAE score of each section's first k principal components, which all training codes settle.

    Args:
      train_codes, train_factors, test_codes, test_factors: [N, d], [N, K], [M, d] and [M, K].
      sections: S ranges of dimensions [start, stop) of the codes.
      k: components a section.
      seeds: each draws the trees' examples, with replacement as disentanglement_lib does, and the votes of the
        FactorVAE score, which are among all examples.
      threshold: of the FactorVAE score, on the components' standard deviations.
      num_train, num_test: examples of a draw, but no more than there are.
      kinds, method, jobs, progress: as for `dci_by_section`.

    Raises:
      ValueError: as `pca_per_section`, `dci` and `factor_vae_score` have them; there are no seeds, or only one column.
      ImportError: the method's library is missing.
    """
    if len(seeds) == 0 or num_train < 1 or num_test < 1:
        raise ValueError(f"seeds={tuple(seeds)}, num_train={num_train}, num_test={num_test}: give one of each at least")
    train_factors, test_factors = matrix(train_factors, "train_factors"), matrix(test_factors, "test_factors")
    train, test = pca_per_section(train_codes, test_codes, sections, k)
    kinds = factor_kinds(train_factors, kinds)  # a draw may show few enough values of a factor for a discrete one
    parts, votes = [], []
    for seed in seeds:
        # The votes first: what they refuse should not show after the trees.
        votes.append(
            factor_vae_score(train, train_factors, test, test_factors, kinds=kinds, threshold=threshold, seed=seed)
        )
        drawn = []
        for split, (codes, factors, limit) in enumerate(
            ((train, train_factors, num_train), (test, test_factors, num_test))
        ):
            rng = np.random.default_rng([seed, split])
            rows = draw_varying(factors, min(limit, len(codes)), rng, replace=True)
            drawn += [codes[rows], factors[rows]]
        options = {"kinds": kinds, "method": method, "jobs": jobs, "seed": seed, "progress": progress}
        parts += dci_by_section(*drawn, [(0, train.shape[1])], **options)
    return PcaScores(k, parts, votes, int((~kept_columns(train, threshold)).sum()))


def pca_per_section(
    train_codes: np.ndarray, test_codes: np.ndarray, sections: Sequence[Section], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first k principal components of each section of codes [N, d] and [M, d], fitted on the training codes.

    Args:
      sections: S ranges of dimensions [start, stop) of the codes.
      k: components a section.

    Returns:
      float64 [N, S * k] and [M, S * k]: section by section, by falling variance, in the codes' units (not whitened),
      minus the training codes' mean. The loading that is largest by size is positive. A component of a section that
      varies in fewer than k directions is 0.

    Raises:
      ValueError: k is below 1, there are no sections, a section lies outside of the codes or has fewer than k
        dimensions, there are fewer than two training codes, widths differ, or values are not finite.
    """
    train, test = codes_matrix(train_codes, "train_codes"), codes_matrix(test_codes, "test_codes")
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train_codes have {train.shape[1]} columns and test_codes {test.shape[1]}: give the same ones"
        )
    if len(train) < 2:
        raise ValueError("there is 1 training code: principal components need at least 2")
    _check(train.shape[1], sections, k)
    columns = [_project(train[:, start:stop], test[:, start:stop], k) for start, stop in sections]
    return tuple(np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True))


def _check(width: int, sections: Sequence[Section], k: int) -> None:
    if k < 1:
        raise ValueError(f"k={k}: give at least 1 principal component a section")
    if not sections:
        raise ValueError("there are no sections: name the dimensions [start, stop) of each")
    for start, stop in sections:
        if not 0 <= start < stop <= width:
            raise ValueError(f"section {start}:{stop} of the codes: they have dimensions 0:{width}")
        if stop - start < k:
            raise ValueError(
                f"section {start}:{stop} has fewer dimensions than k={k} principal components: "
                f"take at most {stop - start}, or wider sections"
            )


def _project(train: np.ndarray, test: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    # Measured from the first code, dimensions that never change are exactly 0 and add no rounding errors of a mean.
    origin = train[0].astype(np.float64)
    centred = train - origin
    mean = centred.mean(axis=0)
    centred -= mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / (len(train) - 1))
    variances, vectors = variances[::-1][:k], vectors[:, ::-1][:, :k]
    vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
    # What is left of a direction without variance is noise, which a metric in units of the variance would read.
    vectors[:, variances <= variances[0] * train.shape[1] * np.finfo(np.float64).eps] = 0
    return centred @ vectors, (test - origin - mean) @ vectors
