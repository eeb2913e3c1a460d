"""Confidence intervals of measured figures, by the percentile bootstrap (Efron 1979)."""

import dataclasses
from collections.abc import Callable

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
_BLOCK = 1 << 24  # drawn indices held at a time


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval.

    Attributes:
      value: the figure on all of the data, not the mean of the resamples.
      low, high: ends of the interval.
      count: how many units were resampled or left out.
      over: what these are: "images", "objects", "random halves", "groups of images".
    """

    value: float
    low: float
    high: float
    count: int
    over: str = "images"

    def __float__(self) -> float:
        return float(self.value)


def mean_estimate(values: np.ndarray, over: str = "images", *, seed: int = 0) -> Estimate:
    """The mean of values [N] and the spread that another draw of N of their kind would show.

    Raises:
      ValueError: if there are no values, or they are not finite.
    """
    values = np.asarray(values, np.float64)
    _check(values)
    if values.ndim != 1:
        raise ValueError(f"values have shape {values.shape}: give [N], one of each of the {over}")
    return bootstrap(lambda drawn: drawn.mean(axis=-1), values, over=over, seed=seed)


def bootstrap(
    statistic: Callable[..., np.ndarray], *arrays: np.ndarray, over: str = "images", seed: int = 0
) -> Estimate:
    """`statistic` of arrays that share their first axis N, and its interval over resamples of that axis.

    Args:
      statistic: from arrays [R, N, ...], R resamples at once, to [R].
      arrays: [N, ...] each.
      over: what the first axis counts.
      seed: of the resampling.

    Raises:
      ValueError: if lengths differ, are 0, or values are not finite.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(f"arrays have lengths {sorted(lengths)}: give one length")
    for array in arrays:
        _check(array)
    count = lengths.pop()
    value = float(statistic(*(array[None] for array in arrays))[0])
    rng = np.random.default_rng(seed)
    size = max(1, min(RESAMPLES, _BLOCK // max(array.size for array in arrays)))
    drawn = []
    for start in range(0, RESAMPLES, size):
        rows = rng.integers(count, size=(min(size, RESAMPLES - start), count))
        drawn.append(statistic(*(array[rows] for array in arrays)))
    low, high = np.quantile(np.concatenate(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), count, over)


def _check(array: np.ndarray) -> None:
    if len(array) == 0:
        raise ValueError("there are no values to average: the split or the selection is empty")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise ValueError(f"{bad} of {np.size(array)} values are not finite: the figure would mean nothing")
