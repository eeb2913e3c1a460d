"""Input channels that stay the same over many calls of a network: what its layers make of them is computed once.

The statistics of a group of a GroupNorm are those of its own channels, and a convolution is a sum over its input
channels. So the groups that hold fixed channels alone, and the part of the convolution behind them, depend on nothing
else. A group that holds others too is computed in every call, with the fixed channels in it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Layers = Callable[[jax.Array], jax.Array]


class Channels(NamedTuple):
    """Neighbouring channels [start, stop) of the `total` that a layer reads.

    A layer that is told so is given these alone, and reads of its parameters what belongs to them.
    """

    start: int
    stop: int
    total: int

    @classmethod
    def all(cls, total: int) -> "Channels":
        """Every one of `total` channels."""
        return cls(0, total, total)

    def of(self, values: jax.Array, axis: int = -1) -> jax.Array:
        """What of a parameter belongs to these channels, of all along `axis`."""
        if self.stop - self.start == self.total:
            return values
        return jax.lax.slice_in_dim(values, self.start, self.stop, axis=axis)

    def groups(self, norm_groups: int) -> int:
        """How many groups these channels are, which share none with others; see `group_size`."""
        return (self.stop - self.start) // group_size(self.total, norm_groups)


def group_size(channels: int, norm_groups: int) -> int:
    """Channels of a group where a GroupNorm has `norm_groups`, or as many as divide both these and the channels."""
    return channels // math.gcd(norm_groups, channels)


def split_at_group(total: int, num_fixed: int, norm_groups: int) -> tuple[Channels, Channels]:
    """(what each call reads, what is read once) of `total` channels, whose last `num_fixed` are fixed.

    The latter are the groups with none but fixed channels; there may be none, as where all channels are one group.
    """
    size = group_size(total, norm_groups)
    border = math.ceil((total - num_fixed) / size) * size
    return Channels(0, border, total), Channels(border, total, total)


class FixedInput(NamedTuple):
    """What a residual block's first layers make of the channels that are read once.

    Attributes:
      conv1, shortcut: [B, H, W, C], their part of the sums of these two convolutions.
      hidden: [B, h, w, C], conv1 of zeros in the fixed channels' place; h and w are min(3, H) and min(3, W). A map of
        zeros is the same at all places but its borders, so that one place between them stands for all.
    """

    conv1: jax.Array
    shortcut: jax.Array
    hidden: jax.Array

    @classmethod
    def of(cls, x: jax.Array, conv1: Layers, shortcut: Layers) -> "FixedInput":
        """Of channels x [B, H, W, c]; `conv1` with the norm and the activation before it."""
        nothing = jnp.zeros((1, *(min(side, 3) for side in x.shape[1:3]), x.shape[-1]), x.dtype)
        hidden = conv1(nothing)
        # A row for each image, so that it is repeated and split over devices as they are.
        return cls(conv1(x), shortcut(x), jnp.broadcast_to(hidden, (len(x), *hidden.shape[1:])))

    def shown(self, mask: jax.Array | None) -> "FixedInput":
        """With zeros for fixed channels where `mask` [B] is False; None shows all."""
        if mask is None:
            return self
        rows, columns = (_three_to(size) for size in self.conv1.shape[1:3])
        hidden = self.hidden[:, rows][:, :, columns]
        mask = jnp.expand_dims(mask.astype(bool), (1, 2, 3))
        return self._replace(
            conv1=jnp.where(mask, self.conv1, hidden),
            shortcut=jnp.where(mask, self.shortcut, 0.0),  # a product alone, without norm and bias
        )


def _three_to(size: int) -> np.ndarray:
    """For each of `size` places which of three (first, between, last) stands for it, int [size]."""
    places = np.clip(np.arange(size), 0, 1)
    places[-1] = min(size, 3) - 1
    return places
