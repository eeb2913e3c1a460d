"""Random masks that are computed where they are used.

An element's bits are a hash of its place and its example's key. A generator's bits would be written to memory and read
again, a twentieth of a training step on a GPU; these cost a few integer operations, forwards and once more backwards.
"""

import hashlib
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


def key_words(key: jax.Array) -> jax.Array:
    """The uint32 [2] that an example's mask is a function of, from its random key."""
    return jax.random.bits(key, (2,), jnp.uint32)


def of_layer(words: jax.Array, place: Sequence[str | int]) -> jax.Array:
    """The uint32 [B, 2] of a layer, from those of its examples in this step and its place in the model."""
    own = np.frombuffer(hashlib.sha1(repr(tuple(place)).encode()).digest()[:8], "<u4")
    return _mixed(words + own)


def _mixed(words: jax.Array) -> jax.Array:
    """Wellons' lowbias32 (2018): every bit of a word, uint32, reaches every bit of the result."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return words ^ (words >> 16)


@flax.struct.dataclass
class Drop:
    """What a layer drops in training, by inverted dropout.

    Attributes:
      keys: uint32 [B, 2], of each example in this layer.
      rate: the probability of zeroing.
      whole_examples: whether one draw zeroes all of an example (stochastic depth), not each element by one of its own.
    """

    keys: jax.Array
    rate: float = flax.struct.field(pytree_node=False)
    whole_examples: bool = flax.struct.field(pytree_node=False, default=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of x [B, ...]."""
        return dropped(x, self.keys, self.rate, (1,) * (x.ndim - 1) if self.whole_examples else x.shape[1:])


def dropped(x: jax.Array, keys: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Inverted dropout of x [B, ...]: zeros with probability `rate`, and otherwise x / (1 - rate).

    Args:
      keys: uint32 [B, 2], of each example.
      shape: of one example's mask, which meets x's by broadcasting.
    """
    # Divided by the rate of keeping, so that the expectation is x and evaluation needs no factor.
    return jnp.where(kept(keys, 1.0 - rate, shape), x / (1.0 - rate), jnp.zeros_like(x))


def kept(keys: jax.Array, keep_rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Masks bool [B, *shape] of keys uint32 [B, 2]: True with probability `keep_rate`, to 1 in 4 billion."""
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    first, second = (keys[:, i].reshape(-1, *[1] * len(shape)) for i in range(2))
    # Multiplying moves low bits up, the shift moves them down again: each bit of the place and of both keys reaches
    # the top of the word, which the comparison reads. The second key tells apart examples whose places overlap by
    # their first ones. The last two factors are those of Wellons' lowbias32 (2018); without the first, places that lie
    # a power of two apart are correlated.
    words = (place + first) * jnp.uint32(0x9E3779B1)
    words = ((words ^ (words >> 16)) + second) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return words < jnp.uint32(min(round(keep_rate * 2**32), 2**32 - 1))
