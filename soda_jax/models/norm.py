"""Group normalisation, the map of each channel that follows it, activation and dropout behind that, as one operation.

Its gradient is written by hand, so that little is stored for it: of the activations only the input is kept, and both
the forward and the backward pass read it twice, once for sums and once for the result. Differentiated by rule, the same
layers keep the normalised input, the activation's derivative and their roundings, each as large as the input.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax.models import masks
from soda_jax.models.fixed_input import Channels

Activation = Callable[[jax.Array], jax.Array]
EPSILON = 1e-5


def gelu(x: jax.Array) -> jax.Array:
    """The Gaussian error linear unit's usual approximation, x (1 + tanh a) / 2, as x times the logistic of 2a.

    They are the same function; XLA for NVIDIA's chips fuses a logistic with sums where it stores a hyperbolic tangent.
    """
    return x * jax.nn.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))


def identity(x: jax.Array) -> jax.Array:
    """No activation."""
    return x


class _Affine(nn.Module):
    """A scale and a bias for each of `features` channels, float32 [C]."""

    features: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        return scale, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


class GroupNorm(nn.Module):
    """GroupNorm with `num_groups` groups, or the largest divisor of both it and the channel count; in float32.

    Attributes:
      use_affine: whether a learned scale and bias of each channel follow.
      activation: what follows these.
      dtype: of the result.
      channels: which of the layer's channels x holds, in whole groups; None: all.
    """

    num_groups: int = 32
    use_affine: bool = True
    activation: Activation = identity
    dtype: Any = jnp.float32
    channels: Channels | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        scale: jax.Array | None = None,
        shift: jax.Array | None = None,
        dropout_keys: jax.Array | None = None,
        dropout: float = 0.0,
    ) -> jax.Array:
        """Maps x [B, ..., C] to activation(scale * norm(x) + shift), `dropout` of which are zeroed.

        Args:
          x: [B, ..., C].
          scale, shift: [B, C], or None for 1 and 0. Where `use_affine` they are the layer's own.
          dropout_keys: uint32 [B, 2] as `masks.dropped` takes them; None drops nothing.
          dropout: the share that is dropped.

        Raises:
          ValueError: a scale or shift is given to a layer that has its own.
        """
        batch, channels = x.shape[0], x.shape[-1]
        held = self.channels or Channels.all(channels)
        if self.use_affine:
            if scale is not None or shift is not None:
                raise ValueError("a GroupNorm with use_affine has a scale and shift of its own: give it none")
            scale, shift = (held.of(part) for part in _Affine(held.total, name="norm")())
        scale = jnp.ones(channels) if scale is None else scale.astype(jnp.float32)
        shift = jnp.zeros(channels) if shift is None else shift.astype(jnp.float32)
        maps = (jnp.broadcast_to(part, (batch, channels)) for part in (scale, shift))
        epilogue = Epilogue(self.activation, dropout if dropout_keys is not None else 0.0, self.dtype)
        return normalise(x, *maps, dropout_keys, held.groups(self.num_groups), epilogue)


class Epilogue(NamedTuple):
    """What follows the map of the channels: an activation, dropout at a rate, and the rounding to a type."""

    activation: Activation
    dropout: float
    dtype: Any

    def __call__(self, mapped: jax.Array, dropout_keys: jax.Array | None) -> jax.Array:
        """Of float32 `mapped` [B, ..., C]."""
        out = self.activation(mapped).astype(self.dtype)
        return out if self.dropout == 0.0 else masks.dropped(out, dropout_keys, self.dropout, out.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalise(
    x: jax.Array, scale: jax.Array, shift: jax.Array, dropout_keys: jax.Array | None, groups: int, epilogue: Epilogue
) -> jax.Array:
    """epilogue(scale * (x - mean) / std + shift), computed in float32.

    Args:
      x: [B, ..., C].
      scale, shift: float32 [B, C].
      dropout_keys: uint32 [B, 2], or None without dropout.
      groups: of neighbouring channels, which share a mean and a standard deviation; a divisor of C.
    """
    return _forward(x, scale, shift, dropout_keys, groups, epilogue)[0]


class _Residuals(NamedTuple):
    """What the gradient reads: the input [B, ..., C], the maps and the keys as given, and of each example's groups,
    float32 [B, G], the mean and 1 / the standard deviation."""

    x: jax.Array
    scale: jax.Array
    shift: jax.Array
    dropout_keys: jax.Array | None
    mean: jax.Array
    inverse: jax.Array

    def line(self) -> tuple[jax.Array, jax.Array]:
        """(a, b), float32 [B, C]: what the activation is given is a x + b."""
        slope = self.scale * self.to_channels(self.inverse)
        return slope, self.shift - self.to_channels(self.mean) * slope

    def to_channels(self, values: jax.Array) -> jax.Array:
        """[B, G] values at each channel of their group, [B, C]."""
        return jnp.repeat(values, self.x.shape[-1] // values.shape[-1], axis=-1)

    def group_means(self, values: jax.Array) -> jax.Array:
        """The means over each group of [B, C] values, [B, G]."""
        return _group_means(values, self.mean.shape[-1])


def _group_means(values: jax.Array, groups: int) -> jax.Array:
    return values.reshape(len(values), groups, -1).mean(axis=-1)


def _over_pixels(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _along(line: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """a x + b, float32 [B, ..., C], for (a, b) [B, C] each."""
    slope, level = (jnp.expand_dims(part, _over_pixels(x)) for part in line)
    return slope * x.astype(jnp.float32) + level


def _forward(
    x: jax.Array, scale: jax.Array, shift: jax.Array, dropout_keys: jax.Array | None, groups: int, epilogue: Epilogue
) -> tuple[jax.Array, _Residuals]:
    wide, pixels = x.astype(jnp.float32), _over_pixels(x)
    # Both sums in one pass over x, as flax's norms take them.
    mean, square = (_group_means(power.mean(pixels), groups) for power in (wide, jnp.square(wide)))
    inverse = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + EPSILON)
    kept = _Residuals(x, scale, shift, dropout_keys, mean, inverse)
    return epilogue(_along(kept.line(), x), dropout_keys), kept


def _backward(
    groups: int, epilogue: Epilogue, kept: _Residuals, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    del groups  # `kept` knows them
    line = kept.line()

    def read() -> tuple[jax.Array, jax.Array]:
        """(x, the gradient of what the activation is given), float32 of x's shape."""
        # Epilogue a barrier the compiler takes x and what comes back for new arrays. Otherwise it would find what the
        # three passes over x have in common, and store it: float32 arrays of x's shape.
        x, keys, gradient = jax.lax.optimization_barrier((kept.x, kept.dropout_keys, cotangent))
        _, pull = jax.vjp(lambda mapped: epilogue(mapped, keys), _along(line, x))
        return x.astype(jnp.float32), pull(gradient)[0]

    # Both sums over the pixels, of which all other sums are made.
    shift_bar, products = jax.lax.platform_dependent(*read(), cuda=_sums_as_one, default=_sums)
    inverse = kept.to_channels(kept.inverse)
    scale_bar = (products - kept.to_channels(kept.mean) * shift_bar) * inverse
    # The norm's own gradient: of what comes back, its mean over the group and its part along the normalised x go.
    count = math.prod(cotangent.shape[1:-1])
    part = kept.inverse**2 * kept.group_means(kept.scale * scale_bar) / count
    level = kept.inverse * kept.group_means(kept.scale * shift_bar) / count - kept.mean * part
    removed = kept.to_channels(part), kept.to_channels(level)
    x, mapped_bar = read()
    x_bar = mapped_bar * jnp.expand_dims(line[0], _over_pixels(x)) - _along(removed, x)
    return x_bar.astype(kept.x.dtype), scale_bar, shift_bar, None


def _sums(x: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sums over the pixels of values and of values * x, [B, C] each."""
    return values.sum(_over_pixels(x)), (values * x).sum(_over_pixels(x))


def _sums_as_one(x: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `_sums`, by the sum of one complex array.

    XLA for NVIDIA's chips would store values that two sums read and that take long to compute, float32 of x's shape;
    what one sum reads it computes on the way.
    """
    total = jax.lax.complex(values, values * x).sum(_over_pixels(x))
    return total.real, total.imag


normalise.defvjp(_forward, _backward)
