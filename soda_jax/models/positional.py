"""Sinusoidal encodings (SODA, Appendix C "Positional Encoding")."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

SCALE_FORMS = ("2pi/s", "1/(2pi s)")


def timestep_embedding(t: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Sinusoidal embedding of diffusion timesteps.

    Args:
      t: [B] timesteps on their natural scale 0..1000. Fed as a fraction in [0, 1] every component would be almost
        linear in t, and the embedding would have rank one.
      dim: even width of the embedding.
      max_period: longest period over 2 pi.

    Returns:
      float32 [B, dim], cosines first.
    """
    if dim % 2:
        raise ValueError(f"timestep embedding width must be even, got {dim}")
    # Vaswani et al. 2017, as Ho et al. 2020 use it: w_k = max_period^(-k / (dim / 2)), from 1 down.
    frequencies = np.exp(-np.log(max_period) * np.arange(dim // 2) / (dim // 2))
    angles = t.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sincos_2d(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2D sine-cosine position table for a grid of patches, float32 [height * width, dim]; dim % 4 == 0."""
    if dim % 4:
        raise ValueError(f"2D position width must be a multiple of 4, got {dim}")
    # A quarter of the width each for sine and cosine of row and column (MoCo v3's fixed positions for ViT).
    frequencies = 1.0 / 10_000 ** (np.arange(dim // 4) / (dim // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    parts = [f(rearrange(axis, "h w -> (h w) 1") * frequencies) for axis in (rows, columns) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def top_frequency(scale: float, scale_form: str) -> float:
    """The factor by which coordinates are scaled, in radians a unit: 2 pi / s or 1 / (2 pi s)."""
    if scale_form not in SCALE_FORMS:
        raise ValueError(f"unknown scale_form {scale_form!r}: choose one of {', '.join(SCALE_FORMS)}")
    # Appendix C scales the arguments of sin and cos by a factor made of s = 1e-4 (Table 12). Its form is reconstructed:
    # 2 pi / s is our default, 1 / (2 pi s) the other reading.
    return 2 * np.pi / scale if scale_form == "2pi/s" else 1 / (2 * np.pi * scale)


def coordinate_encoding(coordinates: jax.Array, dim: int, top: float) -> jax.Array:
    """Sinusoidal encoding of coordinates in about [-1, 1] (Appendix C, "Positional Encoding" and Figure 10).

    Coordinate c of K has dim_c channels, and the dim_c sum to `dim` (the first coordinates take the remainder). With
    F = ceil(dim_c / 2), they are sin(w_k x_c) and cos(w_k x_c) at the angular frequencies
        w_k = top ** (1 - k / (F - 1)),  k = 0 .. F - 1,
    from `top` geometrically down to 1 radian a unit, whose sine alone already tells every x in [-1, 1] apart. The
    last cosine is left out where dim_c is odd; a single frequency is 1.

    Args:
      coordinates: [..., K].
      dim: width of the encoding, at least 2 K.
      top: highest angular frequency; see `top_frequency`.

    Returns:
      float32 [..., dim]: for each coordinate its sines, then its cosines.
    """
    num_coordinates = coordinates.shape[-1]
    if dim < 2 * num_coordinates:
        raise ValueError(
            f"encoding width {dim} is too small for {num_coordinates} coordinates: use at least {2 * num_coordinates}"
        )
    parts = []
    # The paper fixes the total width (512, Table 12); how coordinates share it and which frequencies they get is ours.
    for index in range(num_coordinates):
        width = dim // num_coordinates + (index < dim % num_coordinates)
        num_sines = -(-width // 2)
        # w_k = top ** (1 - k / (F - 1)), k = 0 .. F - 1
        frequencies = top ** (1 - np.arange(num_sines) / max(num_sines - 1, 1)) if num_sines > 1 else np.ones(1)
        angles = coordinates[..., index, None].astype(jnp.float32) * frequencies.astype(np.float32)
        parts += [jnp.sin(angles), jnp.cos(angles[..., : width - num_sines])]
    return jnp.concatenate(parts, axis=-1)
