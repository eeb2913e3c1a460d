"""Feature maps of other sides: halved, doubled, or with squares of pixels as channels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange


def resample(x: jax.Array, mode: str | None) -> jax.Array:
    """Halves (2x2 mean) or doubles (nearest) the sides of x [B, H, W, C]."""
    if mode == "down":
        return nn.avg_pool(x, (2, 2), strides=(2, 2))
    if mode == "up":
        batch, rows, columns, channels = x.shape
        # broadcast_to, which XLA fuses with what follows: einops' `repeat` is a tile, its gradient a sum over 12 axes.
        x = jnp.broadcast_to(rearrange(x, "b h w c -> b h 1 w 1 c"), (batch, rows, 2, columns, 2, channels))
        return rearrange(x, "b h i w j c -> b (h i) (w j) c")
    return x


def to_patches(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] as [B, H / size, W / size, size * size * C], the pixels of a square side by side."""
    return rearrange(x, "b (h i) (w j) c -> b h w (i j c)", i=size, j=size)


def from_patches(x: jax.Array, size: int) -> jax.Array:
    """The inverse of `to_patches`."""
    return rearrange(x, "b h w (i j c) -> b (h i) (w j) c", i=size, j=size)
