"""Batch normalisation with what follows it (`epilogue.py`), as one operation with a gradient of its own."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax.models.epilogue import EPSILON, Activation, Epilogue, Line, along, identity, sums
from soda_jax.models.masks import Drop

MOMENTUM = 0.9  # of the running averages


class BatchNorm(nn.Module):
    """BatchNorm (Ioffe & Szegedy 2015) with a learned scale and bias, which SODA's ResNet encoder has (section 3.2).

    Its variables and running averages are those of `flax.linen.BatchNorm`.

    Attributes:
      use_running_average: whether the averages of training normalise, not the batch's own statistics.
      activation: what follows the scale and the bias.
      dtype: of the result.
      axis_name: axes of devices that hold parts of the batch, whose statistics are then the whole batch's.
    """

    use_running_average: bool
    activation: Activation = identity
    dtype: Any = jnp.float32
    axis_name: tuple[str, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, drop: Drop | None = None) -> jax.Array:
        """Maps x [B, ..., C] to activation(scale * norm(x) + bias), from which `drop` takes its share, if any."""
        features = (x.shape[-1],)
        averages = [
            self.variable("batch_stats", name, of, features, jnp.float32)
            for name, of in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        scale = self.param("scale", nn.initializers.ones, features, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, features, jnp.float32)
        epilogue = Epilogue(self.activation, self.dtype)
        if self.use_running_average:
            mean, var = (average.value for average in averages)
            return epilogue(along(_line(scale, bias, mean, jax.lax.rsqrt(var + EPSILON)), x), drop)
        y, *found = normalise(x, scale, bias, drop, self.axis_name, epilogue)
        if not self.is_initializing():
            for average, value in zip(averages, found, strict=True):
                average.value = MOMENTUM * average.value + (1.0 - MOMENTUM) * value
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalise(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    drop: Drop | None,
    axis_name: tuple[str, ...] | None,
    epilogue: Epilogue,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(epilogue(scale * (x - mean) / std + bias), mean, variance), computed in float32.

    Args:
      x: [B, ..., C].
      scale, bias: float32 [C].
      drop: what is dropped; None for nothing.
      axis_name: axes of devices that hold parts of the batch; None where x is all of it.

    Returns:
      The result [B, ..., C], and of each channel, float32 [C], the batch's mean and variance. They pass no gradient on.
    """
    return _forward(x, scale, bias, drop, axis_name, epilogue)[0]


class _Residuals(NamedTuple):
    """What the gradient reads: the input [B, ..., C], the maps and the dropout as given, and of each channel the mean
    and 1 / the standard deviation, float32 [C]."""

    x: jax.Array
    scale: jax.Array
    bias: jax.Array
    drop: Drop | None
    mean: jax.Array
    inverse: jax.Array


def _line(scale: jax.Array, bias: jax.Array, mean: jax.Array, inverse: jax.Array) -> Line:
    """(a, b), float32 [1, C]: what the activation is given is a x + b."""
    slope = scale * inverse
    return slope[None], (bias - mean * slope)[None]


def _means(values: jax.Array) -> jax.Array:
    return values.mean(tuple(range(values.ndim - 1)))


def _on_all(pair: tuple[jax.Array, jax.Array], axis_name: tuple[str, ...] | None) -> tuple[jax.Array, jax.Array]:
    """The means over the devices of both, in one exchange."""
    if axis_name is None:
        return pair
    first, second = jax.lax.pmean(jnp.stack(pair), axis_name)
    return first, second


def _forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    drop: Drop | None,
    axis_name: tuple[str, ...] | None,
    epilogue: Epilogue,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], _Residuals]:
    wide = x.astype(jnp.float32)
    mean, square = _on_all(sums(wide, wide, _means), axis_name)
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    kept = _Residuals(x, scale, bias, drop, mean, jax.lax.rsqrt(var + EPSILON))
    return (epilogue(along(_line(scale, bias, mean, kept.inverse), x), drop), mean, var), kept


def _backward(
    axis_name: tuple[str, ...] | None,
    epilogue: Epilogue,
    kept: _Residuals,
    cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    line = _line(kept.scale, kept.bias, kept.mean, kept.inverse)
    x, mapped_bar = epilogue.pulled(kept.x, line, kept.drop, cotangents[0])
    level, products = sums(mapped_bar, x, _means)
    along_x = (products - kept.mean * level) * kept.inverse  # the mean of mapped_bar * normalised x
    count = math.prod(x.shape[:-1])
    scale_bar, bias_bar = along_x * count, level * count  # of this device's examples, as all gradients of parameters
    # The norm's own gradient: of what comes back, its mean over the batch and its part along the normalised x go.
    level, along_x = _on_all((level, along_x), axis_name)
    slope = kept.scale * kept.inverse
    part = slope * kept.inverse * along_x
    removed = part[None], (slope * level - kept.mean * part)[None]
    x, mapped_bar = epilogue.pulled(kept.x, line, kept.drop, cotangents[0])
    x_bar = mapped_bar * slope - along(removed, x)
    return x_bar.astype(kept.x.dtype), scale_bar, bias_bar, None


normalise.defvjp(_forward, _backward)
