"""Group and batch normalisation with what follows it (`epilogue.py`), as one operation with a gradient of its own."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax.models.epilogue import EPSILON, Activation, Epilogue, Line, along, identity, over_pixels, sums
from soda_jax.models.fixed_input import Channels
from soda_jax.models.masks import Drop


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
        drop: Drop | None = None,
    ) -> jax.Array:
        """Maps x [B, ..., C] to activation(scale * norm(x) + shift), from which `drop` takes its share.

        Args:
          x: [B, ..., C].
          scale, shift: [B, C], or None for 1 and 0. Where `use_affine` they are the layer's own.
          drop: what is dropped; None for nothing.

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
        if self.use_affine:  # both at once, so that their gradients are one sum over the batch
            scale, shift = jnp.moveaxis(jnp.broadcast_to(jnp.stack([scale, shift]), (batch, 2, channels)), 1, 0)
        maps = (jnp.broadcast_to(part, (batch, channels)) for part in (scale, shift))
        return normalise(x, *maps, drop, held.groups(self.num_groups), Epilogue(self.activation, self.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalise(
    x: jax.Array, scale: jax.Array, shift: jax.Array, drop: Drop | None, groups: int, epilogue: Epilogue
) -> jax.Array:
    """epilogue(scale * (x - mean) / std + shift), computed in float32.

    Args:
      x: [B, ..., C].
      scale, shift: float32 [B, C].
      drop: what is dropped; None for nothing.
      groups: of neighbouring channels, which share a mean and a standard deviation; a divisor of C.
    """
    return _forward(x, scale, shift, drop, groups, epilogue)[0]


class _Residuals(NamedTuple):
    """What the gradient reads: the input [B, ..., C], the maps and the dropout as given, and of each example's groups,
    float32 [B, G], the mean and 1 / the standard deviation."""

    x: jax.Array
    scale: jax.Array
    shift: jax.Array
    drop: Drop | None
    mean: jax.Array
    inverse: jax.Array

    def line(self) -> Line:
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


def _forward(
    x: jax.Array, scale: jax.Array, shift: jax.Array, drop: Drop | None, groups: int, epilogue: Epilogue
) -> tuple[jax.Array, _Residuals]:
    wide, pixels = x.astype(jnp.float32), over_pixels(x)
    # Both in one pass over x, as flax's norms take them.
    mean, square = sums(wide, wide, lambda values: _group_means(values.mean(pixels), groups))
    kept = _Residuals(x, scale, shift, drop, mean, _inverse_std(mean, square))
    return epilogue(along(kept.line(), x), drop), kept


def _inverse_std(mean: jax.Array, square: jax.Array) -> jax.Array:
    """1 / the standard deviation, from the means of values and of their squares."""
    return jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + EPSILON)


def _backward(
    groups: int, epilogue: Epilogue, kept: _Residuals, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    del groups  # `kept` knows them
    line = kept.line()
    x, mapped_bar = epilogue.pulled(kept.x, line, kept.drop, cotangent)
    # Both sums over the pixels, of which all other sums are made.
    shift_bar, products = sums(mapped_bar, x, lambda values: values.sum(over_pixels(x)))
    inverse = kept.to_channels(kept.inverse)
    scale_bar = (products - kept.to_channels(kept.mean) * shift_bar) * inverse
    # The norm's own gradient: of what comes back, its mean over the group and its part along the normalised x go.
    count = math.prod(cotangent.shape[1:-1])
    part = kept.inverse**2 * kept.group_means(kept.scale * scale_bar) / count
    level = kept.inverse * kept.group_means(kept.scale * shift_bar) / count - kept.mean * part
    removed = kept.to_channels(part), kept.to_channels(level)
    x, mapped_bar = epilogue.pulled(kept.x, line, kept.drop, cotangent)
    x_bar = mapped_bar * jnp.expand_dims(line[0], over_pixels(x)) - along(removed, x)
    return x_bar.astype(kept.x.dtype), scale_bar, shift_bar, None


normalise.defvjp(_forward, _backward)
