"""What follows a norm in one operation with it: the map of each channel, an activation, the rounding and dropout.

The gradients of such operations are written by hand, so that little is stored for them: of the activations only the
norm's input is kept, and both the forward and the backward pass read it twice, once for sums and once for the result.
Differentiated by rule, the same layers keep the normalised input, the activation's derivative and their roundings, each
as large as the input.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from soda_jax.models.masks import Drop

Activation = Callable[[jax.Array], jax.Array]
Line = tuple[jax.Array, jax.Array]
Sum = Callable[[jax.Array], jax.Array]
EPSILON = 1e-5


def gelu(x: jax.Array) -> jax.Array:
    """The Gaussian error linear unit's usual approximation, x (1 + tanh a) / 2, as x times the logistic of 2a.

    They are the same function; XLA for NVIDIA's chips fuses a logistic with sums where it stores a hyperbolic tangent.
    """
    return x * jax.nn.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))


def identity(x: jax.Array) -> jax.Array:
    """No activation."""
    return x


class Epilogue(NamedTuple):
    """What follows the map of the channels: an activation, the rounding to a type, and dropout."""

    activation: Activation
    dtype: Any

    def __call__(self, mapped: jax.Array, drop: Drop | None) -> jax.Array:
        """Of float32 `mapped` [B, ..., C]."""
        out = self.activation(mapped).astype(self.dtype)
        return out if drop is None else drop(out)

    def pulled(self, x: jax.Array, line: Line, drop: Drop | None, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(x, the gradient of what the activation is given, a x + b), float32 of x's shape [B, ..., C].

        Behind a barrier the compiler takes x and what comes back for new arrays. Otherwise it would find what all
        passes over x have in common, and store it: float32 arrays of x's shape. XLA for TPUs fuses all of it with the
        convolutions around, where a barrier would be a copy.
        """
        x, drop, cotangent = jax.lax.platform_dependent(
            x, drop, cotangent, tpu=lambda *read: read, default=lambda *read: jax.lax.optimization_barrier(read)
        )
        _, pull = jax.vjp(lambda mapped: self(mapped, drop), along(line, x))
        return x.astype(jnp.float32), pull(cotangent)[0]


def over_pixels(x: jax.Array) -> tuple[int, ...]:
    """The axes of x [B, ..., C] between its first and its last."""
    return tuple(range(1, x.ndim - 1))


def along(line: Line, x: jax.Array) -> jax.Array:
    """a x + b, float32 [B, ..., C], for (a, b) [B or 1, C] each."""
    slope, level = (jnp.expand_dims(part, over_pixels(x)) for part in line)
    return slope * x.astype(jnp.float32) + level


def sums(values: jax.Array, x: jax.Array, summed: Sum) -> tuple[jax.Array, jax.Array]:
    """`summed`, some linear function, of values and of values * x, in one pass over them."""
    one_by_one, as_one = (functools.partial(way, summed=summed) for way in (_one_by_one, _as_one))
    return jax.lax.platform_dependent(values, x, cuda=as_one, default=one_by_one)


def _one_by_one(values: jax.Array, x: jax.Array, summed: Sum) -> tuple[jax.Array, jax.Array]:
    return summed(values), summed(values * x)


def _as_one(values: jax.Array, x: jax.Array, summed: Sum) -> tuple[jax.Array, jax.Array]:
    """As `_one_by_one`, by the sum of one complex array.

    XLA for NVIDIA's chips would store values that two sums read and that take long to compute, float32 of x's shape;
    what one sum reads it computes on the way. And where a sum takes several kernels, so does each of two.
    """
    total = summed(jax.lax.complex(values, values * x))
    return total.real, total.imag
