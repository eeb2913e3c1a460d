"""Feature maps of other sides: halved, doubled, or with squares of pixels as channels."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

_WINDOW, _STRIDE = 3, 2  # of `max_pool`


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


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """The maxima of 3 x 3 windows around every second pixel of x [B, H, W, C], padded as flax's "SAME" does.

    The gradient goes to the first maximum of a window. For it the maxima's places are kept, a byte each; by rule the
    whole x would be kept and searched again, on a GPU by kernels that move five times as much.
    """
    return _pooled(x)[0]


def _reach(side: int) -> int:
    """Pixels from the first pixel of a side's first window to that of its last."""
    return (side - 1) // _STRIDE * _STRIDE + 1


def _pads(side: int) -> tuple[int, int]:
    """Pixels before and behind a side, as "SAME" divides them."""
    total = _reach(side) - 1 + _WINDOW - side
    return total // 2, total - total // 2


def _offsets() -> itertools.product:
    """(row, column) of each pixel of a window, row by row."""
    return itertools.product(range(_WINDOW), repeat=2)


def _pooled(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    sides = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), *map(_pads, sides), (0, 0)), constant_values=-jnp.inf)
    height, width = map(_reach, sides)
    maxima = place = None
    for index, (row, column) in enumerate(_offsets()):
        seen = padded[:, row : row + height : _STRIDE, column : column + width : _STRIDE]
        if maxima is None:
            maxima, place = seen, jnp.zeros(seen.shape, jnp.uint8)
            continue
        place = jnp.where(seen > maxima, jnp.uint8(index), place)
        maxima = jnp.maximum(maxima, seen)
    return maxima, (place, x[:0])  # none of x but its sides and its type


def _unpooled(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array]:
    place, given = kept
    total = jnp.zeros((len(place), *given.shape[1:]), jnp.float32)
    for index, (row, column) in enumerate(_offsets()):
        reached = jnp.where(place == index, cotangent, jnp.zeros_like(cotangent)).astype(jnp.float32)
        # Back to where the pixel lies in x: the stride's gaps between windows, and the padding off again.
        config = [(0, 0, 0)]
        for side, offset in zip(given.shape[1:3], (row, column), strict=True):
            before = offset - _pads(side)[0]
            config.append((before, side - before - _reach(side), _STRIDE - 1))
        total += jax.lax.pad(reached, jnp.float32(0.0), [*config, (0, 0, 0)])
    return (total.astype(given.dtype),)


max_pool.defvjp(_pooled, _unpooled)
