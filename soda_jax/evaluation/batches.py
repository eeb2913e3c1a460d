"""Batches that every process holds whole, though each reads, and scores, only its part of them."""

from collections.abc import Iterator

import jax
import numpy as np
from einops import rearrange
from jax.experimental import multihost_utils

from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.progress import num_batches, shown


def whole_batches(
    dataset: Dataset, spec: ViewSpec, *, batch_size: int, limit: int | None, what: str | None = "reading"
) -> Iterator[dict[str, np.ndarray]]:
    """`eval_batches`, the global ones on every process; `batch_size` must be a multiple of the processes.

    Args:
      what: is done with them, for `progress.shown`; None shows nothing.
    """
    batches = eval_batches(
        dataset,
        spec,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        limit=limit,
    )
    total = num_batches(len(dataset), limit, batch_size)
    for batch in batches if what is None else shown(batches, what, total):
        yield {key: all_gather(part) for key, part in batch.items()}


def all_gather(part: np.ndarray) -> np.ndarray:
    """The parts of all processes, joined in their order."""
    return part if jax.process_count() == 1 else np.asarray(multihost_utils.process_allgather(part, tiled=True))


def rows_of_this_process() -> slice:
    """Of a batch that every process holds, the rows that this one scores: as many as any other."""
    return slice(jax.process_index(), None, jax.process_count())


def all_gather_rows(values: np.ndarray) -> np.ndarray:
    """Values [B, ...] of the whole batch, on every process, from each one's `rows_of_this_process` of them."""
    return rearrange(all_gather(values[None]), "process row ... -> (row process) ...")
