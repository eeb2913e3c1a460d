"""Requests of any size in batches of one size, so that one program is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def run_in_batches(
    function: Callable[[Any], Any], rows: Any, count: int, batch_size: int, sharding: jax.sharding.Sharding | None
) -> list[Any]:
    """What `function` gives for each batch of `rows`, a pytree of arrays [count, ...], on the host.

    The last batch is padded to `batch_size` with copies of the last row; `sharding` lays a batch over devices.

    Raises:
      ValueError: batch_size is not positive, or does not divide among the devices.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    if sharding is not None:
        _check_divides(batch_size, sharding)
    outputs = []
    for first in range(0, count, batch_size):
        chosen = np.minimum(np.arange(first, first + batch_size), count - 1)
        batch = jax.tree.map(lambda x, chosen=chosen: x[chosen], rows)
        if sharding is not None:
            batch = jax.device_put(batch, sharding)
        outputs.append(jax.tree.map(_to_host, function(batch)))
    return outputs


def check_leading(inputs: Any, size: int, name: str) -> None:
    """Raises ValueError unless every array of (z, section_mask) has `size` rows."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(inputs):
        if jnp.ndim(leaf) < 1 or leaf.shape[0] != size:
            field = "z" if path[0].idx == 0 else "section_mask"
            raise ValueError(
                f"{field}{jax.tree_util.keystr(path[1:])} has shape {jnp.shape(leaf)}: its leading "
                f"axis must be {name}, {size}"
            )


def _check_divides(batch_size: int, sharding: jax.sharding.Sharding) -> None:
    try:
        sharding.shard_shape((batch_size,))
    except ValueError as error:
        raise ValueError(
            f"batch_size is {batch_size}, which {sharding} cannot split evenly: use a multiple of "
            "the number of devices along the data axis"
        ) from error


def _to_host(images: jax.Array) -> np.ndarray:
    if images.is_fully_addressable:
        return np.asarray(images)
    return np.asarray(multihost_utils.process_allgather(images, tiled=True))
