"""Sinusoidal encodings (SODA, Appendix C "Positional Encoding")."""

import jax
import jax.numpy as jnp
import numpy as np

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
    frequencies = np.exp(-np.log(max_period) * np.arange(dim // 2) / (dim // 2))
    angles = t.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sincos_2d(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2D sine-cosine position table for a grid of patches, float32 [height * width, dim]; dim % 4 == 0."""
    if dim % 4:
        raise ValueError(f"2D position width must be a multiple of 4, got {dim}")
    frequencies = 1.0 / 10_000 ** (np.arange(dim // 4) / (dim // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    parts = [f(axis.reshape(-1, 1) * frequencies) for axis in (rows, columns) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def top_frequency(scale: float, scale_form: str) -> float:
    """The factor by which coordinates are scaled, in radians a unit: 2 pi / s or 1 / (2 pi s)."""
    if scale_form not in SCALE_FORMS:
        raise ValueError(f"unknown scale_form {scale_form!r}: choose one of {', '.join(SCALE_FORMS)}")
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
    count = coordinates.shape[-1]
    if dim < 2 * count:
        raise ValueError(f"encoding width {dim} is too small for {count} coordinates: use at least {2 * count}")
    parts = []
    for index in range(count):
        width = dim // count + (index < dim % count)
        number = -(-width // 2)
        frequencies = top ** (1 - np.arange(number) / max(number - 1, 1)) if number > 1 else np.ones(1)
        angles = coordinates[..., index, None].astype(jnp.float32) * frequencies.astype(np.float32)
        parts += [jnp.sin(angles), jnp.cos(angles[..., : width - number])]
    return jnp.concatenate(parts, axis=-1)
