"""Noise schedules (SODA, Section 3.4 and Figure 3), as tables of the signal's remaining variance.

A schedule is a function abar(u) of the relative time u = t / T in [0, 1], with abar(0) = 1 (clean)
and abar(1) close to 0 (noise). Everything is float64 NumPy: the tables are made once, on the host.
"""

from collections.abc import Callable

import numpy as np

# Offset of Nichol & Dhariwal's cosine schedule, which the inverted schedule inherits.
_COSINE_OFFSET = 0.008

# Nichol & Dhariwal (2021), Section 3.2: keeps the last steps away from beta = 1, where abar is 0.
MAX_BETA = 0.999


def _cosine(u: np.ndarray) -> np.ndarray:
    """Nichol & Dhariwal (2021), Equation 17: cos^2((u + s) / (1 + s) * pi / 2)."""
    return np.cos((u + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * np.pi / 2) ** 2


def _inverted(u: np.ndarray) -> np.ndarray:
    """SODA, Section 3.4: the inverse function of the cosine schedule.

    Solving u = cos^2((abar + s) / (1 + s) * pi / 2) for abar. Where the cosine is steep (medium
    noise) its inverse is flat, so most timesteps get a medium noise level.
    """
    # arccos(sqrt(u)) = (abar + s) / (1 + s) * pi / 2. The paper prints no formula: this one is reconstructed, from the
    # name and two independent re-implementations. About 95% of its steps have abar in [0.1, 0.9], the cosine's 59%.
    return 2 * (1 + _COSINE_OFFSET) / np.pi * np.arccos(np.sqrt(u)) - _COSINE_OFFSET


def _reflected(u: np.ndarray) -> np.ndarray:
    """The cosine schedule mirrored at the straight line 1 - u."""
    # Our choice, a second reading of the name "inverted".
    return 2 * (1 - u) - _cosine(u) / _cosine(np.zeros(()))


def _sigmoid(u: np.ndarray, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> np.ndarray:
    """Jabri et al. (2022) and Chen (2023), Algorithm 1: a rescaled logistic curve."""

    def logistic(x: np.ndarray | float) -> np.ndarray:
        return 1 / (1 + np.exp(-np.asarray(x) / tau))

    curve = logistic(end) - logistic(start + u * (end - start))
    return curve / (logistic(end) - logistic(start))


def _linear_betas(num_timesteps: int) -> np.ndarray:
    """Ho et al. (2020): betas 1e-4 to 0.02 at T = 1000, rescaled for other T to end in noise."""
    return np.linspace(1e-4, 0.02, num_timesteps) * (1000 / num_timesteps)


_CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverted": _inverted,
    "cosine": _cosine,
    "sigmoid": _sigmoid,
    "reflected": _reflected,
}

SCHEDULES = (*_CURVES, "linear")
"""Names that `alphas_cumprod` knows."""


def alphas_cumprod(name: str, num_timesteps: int) -> np.ndarray:
    """The table abar_t, the share of the image's variance that is left at step t.

    Args:
      name: one of `SCHEDULES`; the paper's own is "inverted".
      num_timesteps: T, the length of the chain (1000 in the paper).

    Returns:
      float64 [T + 1], strictly decreasing, entry 0 exactly 1 (clean), entry T the noisiest. No
      single step removes more than `MAX_BETA` of the variance.

    Raises:
      ValueError: for an unknown name or a chain without steps.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown noise schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps is {num_timesteps}: a diffusion chain needs at least 1")
    if name == "linear":
        betas = _linear_betas(num_timesteps)
    else:
        abar = _CURVES[name](np.arange(num_timesteps + 1) / num_timesteps)
        # Ratios, so that abar(0) cancels where a curve does not start at 1, as the cosine's 0.9998.
        betas = 1 - abar[1:] / abar[:-1]  # beta_t = 1 - abar_t / abar_{t-1}
    # abar_t = prod_{i <= t} (1 - beta_i), and abar_0 = 1: entry 0 is the clean image, where sampling has to end.
    return np.concatenate([[1.0], np.cumprod(1 - np.clip(betas, 0, MAX_BETA))])
