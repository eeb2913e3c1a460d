"""Batches that every process holds whole, though each reads, and scores, only its part of them."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from soda_jax.data.pipeline import eval_batches
from soda_jax.data.sources import Source
from soda_jax.data.views import ViewSpec


def whole_batches(
    source: Source, spec: ViewSpec, *, batch_size: int, limit: int | None
) -> Iterator[dict[str, np.ndarray]]:
    """`eval_batches`, the global ones on every process; `batch_size` must be a multiple of the processes."""
    batches = eval_batches(
        source,
        spec,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        limit=limit,
    )
    for batch in batches:
        yield {key: of_all_processes(part) for key, part in batch.items()}


def of_all_processes(part: np.ndarray) -> np.ndarray:
    """The parts of all processes, joined in their order."""
    return part if jax.process_count() == 1 else np.asarray(multihost_utils.process_allgather(part, tiled=True))


def own_rows() -> slice:
    """Of a batch that every process holds, the rows that this one scores: as many as any other."""
    return slice(jax.process_index(), None, jax.process_count())


def of_all_rows(values: np.ndarray) -> np.ndarray:
    """Values [B, ...] of the whole batch, on every process, from each one's `own_rows` of them."""
    parts = of_all_processes(values[None])
    return np.swapaxes(parts, 0, 1).reshape(-1, *values.shape[1:])
