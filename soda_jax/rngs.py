"""Random streams named by purpose and step, so that no generator state is threaded or saved.

Every draw is keyed by (seed, stream name, step) and, where it belongs to one example, by the example's position in the
global batch. The same numbers therefore come out for any number of devices, processes or microbatches, and after a
restart.
"""

import dataclasses
import zlib
from collections.abc import Callable

import jax


def stream(root: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of the stream `name` at `step`; `root` is the run's key."""
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def per_example(key: jax.Array, ids: jax.Array, draw: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Calls `draw(key_i)` for each example, with `key_i` folded from `ids` ([B] int32); returns [B, ...]."""
    return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(ids)


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers that a batch's examples get in one step, each by its name.

    Attributes:
      root: the run's key.
      step: of training; 0 in evaluations, whose numbers stay the same.
      ids: int32 [B], what tells the examples apart: the place in the global batch, or in the split.
      prefix: of every name, so that evaluations have streams of their own.
    """

    root: jax.Array
    step: jax.Array | int
    ids: jax.Array
    prefix: str = ""

    def __call__(self, name: str, draw: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """`draw(key)` for each example, [B, ...]."""
        with jax.named_scope(f"draw_{name}"):
            return per_example(self.stream(name), self.ids, draw)

    def stream(self, name: str) -> jax.Array:
        """The key of the stream `name`, for modules that fold in the ids themselves (`layers.Dropout`)."""
        return stream(self.root, self.prefix + name, self.step)
