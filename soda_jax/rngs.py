"""Random streams named by purpose and step, so that no generator state is threaded or saved.

Every draw is keyed by (seed, stream name, step) and, where it belongs to one example, by the example's position in the
global batch. The same numbers therefore come out for any number of devices, processes or microbatches, and after a
restart.
"""

import zlib
from collections.abc import Callable

import jax


def stream(root: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of the stream `name` at `step`; `root` is the run's key."""
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def per_example(key: jax.Array, ids: jax.Array, draw: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Calls `draw(key_i)` for each example, with `key_i` folded from `ids` ([B] int32); returns [B, ...]."""
    return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(ids)
