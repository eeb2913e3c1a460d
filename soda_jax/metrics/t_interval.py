"""Means over a few repetitions, with Student's t interval: what another set of as many seeds would show."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from soda_jax.metrics.bootstrap import LEVEL, Estimate


def t_interval(values: Sequence[float] | np.ndarray, over: str = "seeds") -> Estimate | None:
    """The mean of values [N] and its 95 % interval, mean +- t(N - 1) s / sqrt(N), s with N - 1 below.

    Args:
      values: one of each repetition, taken as draws of a normal distribution.
      over: what was repeated.

    Returns:
      None for no values; of a single one, which has no spread, an interval without ends: -inf and inf.

    Raises:
      ValueError: values are not finite, or not [N].
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values have shape {values.shape}: give [N], one of each of the {over}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite: leave them out")
    count = len(values)
    if count == 0:
        return None
    mean = float(values.mean())
    if count == 1:
        return Estimate(mean, -np.inf, np.inf, 1, over)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - half, mean + half, count, over)
