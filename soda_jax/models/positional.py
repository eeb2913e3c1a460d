"""Sinusoidal encodings (SODA, Appendix C "Positional Encoding")."""

import jax
import jax.numpy as jnp
import numpy as np


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
