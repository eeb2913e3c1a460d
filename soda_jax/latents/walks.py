"""Paths through the latent: interpolation, truncation, and sections taken from another image."""

import numpy as np

from soda_jax.latents.checks import checked_codes, checked_number


def interpolate(*codes: np.ndarray, steps: int) -> np.ndarray:
    """Straight lines from one code to the next: z = (1 - l) z1 + l z2 (SODA Appendix E.3).

    Args:
      *codes: two or more arrays [N, d]; series n goes from `codes[0][n]` through all others to the last.
      steps: codes of each series, evenly spaced, both ends included; at least 2.

    Returns:
      float64 [N, steps, d]. The ends are the first and the last codes exactly.

    Raises:
      ValueError: fewer than two arrays, arrays of different shapes, fewer than two steps.
    """
    if len(codes) < 2:
        raise ValueError(f"interpolation goes between codes, and {len(codes)} are given; give two arrays or more")
    if steps < 2:
        raise ValueError(f"steps={steps}: give at least 2, as both ends are shown")
    points = [checked_codes(array, f"codes {i}") for i, array in enumerate(codes)]
    if len({array.shape for array in points}) > 1:
        shapes = ", ".join(str(array.shape) for array in points)
        raise ValueError(f"codes have shapes {shapes}; give as many of each, of one model")
    stacked = np.stack(points)  # [K, N, d]
    place = np.linspace(0, len(points) - 1, steps)
    left = np.minimum(place.astype(int), len(points) - 2)
    share = (place - left)[:, None, None]
    walk = (1 - share) * stacked[left] + share * stacked[left + 1]
    return walk.swapaxes(0, 1)


def truncate(codes: np.ndarray, mean: np.ndarray, truncation: float) -> np.ndarray:
    """Moves codes [N, d] toward the mean code [d]: mean + truncation (z - mean). 1 leaves them, 0 gives the mean.

    Raises:
      ValueError: for a truncation outside 0..1, or codes of another width than the mean.
    """
    truncation = checked_number(truncation, "truncation")
    if not 0 <= truncation <= 1:
        raise ValueError(f"truncation={truncation}: give 0 (the mean code) to 1 (the code itself)")
    mean = np.asarray(mean, np.float64)
    codes = checked_codes(codes, width=len(mean))
    return mean + truncation * (codes - mean)


def take_dims(codes: np.ndarray, other: np.ndarray, dims: np.ndarray) -> np.ndarray:
    """Codes [N, d] of which the dimensions `dims` (bool [d]) come from `other` [N, d] (style mixing, 3.2.1)."""
    codes, other = checked_codes(codes), checked_codes(other, "the other codes", width=np.shape(codes)[1])
    if len(codes) != len(other):
        raise ValueError(f"there are {len(codes)} codes and {len(other)} others; give as many of each")
    return np.where(dims, other, codes)
