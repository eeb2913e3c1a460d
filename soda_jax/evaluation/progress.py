"""How far the long parts of an evaluation are, on stderr, as training shows its steps."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
from tqdm import tqdm

QUIET = 2.0  # seconds: what is over sooner shows nothing

Item = TypeVar("Item")


def shown(items: Iterable[Item], what: str, total: int | None = None, unit: str = "batch") -> Iterator[Item]:
    """`items`, counted on stderr by the first process.

    Args:
      what: that is done, as "encoding".
      total: how many there will be, where `items` do not tell.
    """
    settings = {"delay": QUIET, "mininterval": QUIET, "dynamic_ncols": True, "disable": jax.process_index() != 0}
    yield from tqdm(items, what, total, unit=unit, **settings)


def num_batches(examples: int, limit: int | None, batch_size: int) -> int:
    """Of a split of so many examples, or its first `limit`; 0 and None are all."""
    return -(-min(limit or examples, examples) // batch_size)
