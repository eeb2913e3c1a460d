"""Checks of the codes that users pass: a clear error before anything is computed."""

from typing import Any

import numpy as np


def checked_codes(codes: Any, name: str = "codes", *, least: int = 1, width: int | None = None) -> np.ndarray:
    """Codes as float64 [N, d].

    Args:
      least: the smallest N that will do.
      width: d, where something else gives it.

    Raises:
      ValueError: for another shape, no numbers, NaN or infinite values, or fewer codes.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or 0 in codes.shape or not np.issubdtype(codes.dtype, np.number):
        raise ValueError(
            f"{name} are {codes.dtype} of shape {codes.shape}; give numbers [N, d], a latent a row"
            + (f" (one latent: {name}[None])" if codes.ndim == 1 else "")
        )
    if np.iscomplexobj(codes):
        raise ValueError(f"{name} are complex numbers; give real ones")
    codes = codes.astype(np.float64)
    finite = np.isfinite(codes).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} hold NaN or infinite values, first in row {int(finite.argmin())}; remove that row")
    if width is not None and codes.shape[1] != width:
        raise ValueError(
            f"{name} have {codes.shape[1]} dimensions where {width} are expected: they are of another model"
        )
    if len(codes) < least:
        raise ValueError(
            f"{name} are {len(codes)}, and this needs at least {least}: one image has no spread; encode more images"
        )
    return codes


def checked_number(value: Any, name: str) -> float:
    """A finite number."""
    if np.ndim(value) or not np.isfinite(value):
        raise ValueError(f"{name}={value}: give one finite number")
    return float(value)
