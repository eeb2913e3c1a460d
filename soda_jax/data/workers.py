"""Batches prepared ahead: by threads, or by worker processes that make them in pieces.

Workers hand what they make on through shared memory, and each holds some of it at every moment. If that were whole
batches, sixteen workers would hold over a hundred of them. So a batch is made in pieces, the smaller the more workers
there are, and all workers together hold about as many bytes as one alone.
"""

import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol

import grain
import numpy as np
from absl import flags

from soda_jax.data.datasets.base import Example

SHARED_MEMORY = "/dev/shm"  # where Linux keeps it; other systems set no limit apart from the memory itself
# Pieces of each worker that wait in shared memory: one that the worker wants to hand on, one in its queue, one that
# this process's thread holds, one in that thread's queue.
_WAITING = 4
# Smaller pieces would cost more in handing on than they save: a worker makes at least a megabyte at a time.
_SMALLEST_PIECE = 1 << 20
_KEPT_BYTES = 8 << 20
_PAGES_OF_PIECE = 12 * 4096  # Each array of a piece ends in a page that is not full.


class Batches(Protocol):
    """Random access to batches, whole or in parts.

    Attributes:
        rows: examples in a batch.
        example_bytes: of one example of a batch.
    """

    rows: int
    example_bytes: int

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Example: ...

    def part(self, number: int, first: int, last: int) -> Example:
        """Rows `first` to `last` (exclusive) of batch `number`, the same as in the whole batch."""
        ...


class SharedMemoryError(ValueError):
    """The system's shared memory is too small for the batches of worker processes."""


def iterate(batches: Batches, start: int = 0, *, num_workers: int = 0, prefetch: int = 2) -> Iterator[Example]:
    """`batches` from number `start` on, the same for any `num_workers`.

    Memory: without workers, `prefetch` batches and those in the making. With them, `prefetch` batches in shared memory
    (`shared_memory_bytes` says how much exactly), about a quarter of that in the workers, and one batch here,
    which is joined of their pieces. On Linux shared memory is /dev/shm, of which Docker gives 64 MB by default; where
    several processes of one machine have workers, each needs its own part.

    Args:
        num_workers: processes that prepare batches; 0 prepares them in threads of this one. More
            than 0 need a `__main__` guard in the program that calls this (workers are spawned).
        prefetch: batches prepared ahead, by all workers together.

    Raises:
        SharedMemoryError: the workers need more shared memory than is free.
    """
    if start < 0 or num_workers < 0 or prefetch < 1:
        raise ValueError(f"start={start} and num_workers={num_workers} must be >= 0, prefetch={prefetch} >= 1.")
    if not num_workers:
        options = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
        return iter(grain.MapDataset.source(batches)[start:].to_iter_dataset(options))
    check_shared_memory(batches.rows, batches.example_bytes, num_workers, prefetch)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # a script without a command line of ours; grain's own flags keep their defaults
    count = _piece_count(batches.rows, batches.example_bytes, num_workers, prefetch)
    pieces = _Pieces(batches, count)
    stream = grain.MapDataset.source(pieces)[start * count :]
    # A worker computes in its main thread alone: what a thread made ahead would be held as well.
    stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1)
    return _Joined(iter(stream.mp_prefetch(options, _begin_worker)), pieces.edges)


def shared_memory_bytes(rows: int, example_bytes: int, num_workers: int, prefetch: int = 2) -> int:
    """Bytes that `iterate` takes of shared memory at most.

    About `prefetch` batches for any number of workers, and more only where these would be less than four megabytes a
    worker.

    Args:
        rows: examples in a batch of this process.
        example_bytes: of one example.
        num_workers, prefetch: as for `iterate`.
    """
    if not num_workers:
        return 0
    piece = math.ceil(rows / _piece_count(rows, example_bytes, num_workers, prefetch)) * example_bytes + _PAGES_OF_PIECE
    return (_WAITING * num_workers + 1) * piece  # and one that is being copied into its batch


def check_shared_memory(rows: int, example_bytes: int, num_workers: int, prefetch: int = 2) -> None:
    """Raises SharedMemoryError unless what `shared_memory_bytes` says is free, where the system has a limit.

    A worker that finds it full is killed without a word.
    """
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    needed = shared_memory_bytes(rows, example_bytes, num_workers, prefetch)
    if needed <= free:
        return
    fitting = next(n for n in reversed(range(num_workers)) if shared_memory_bytes(rows, example_bytes, n) <= free)
    fewer = f"{fitting} fits" if fitting else "0 makes batches in threads, without shared memory"
    mebibyte = 1 << 20
    raise SharedMemoryError(
        f"config.data.num_workers={num_workers}: workers pass batches of {rows} examples ({example_bytes:,} bytes "
        f"each) through {SHARED_MEMORY} and need {math.ceil(needed / mebibyte):,} MiB there, but {free // mebibyte:,} "
        f"of its {total // mebibyte:,} MiB are free. Enlarge it (docker run "
        f"--shm-size={math.ceil((total - free + needed) / mebibyte)}m, or --ipc=host), remove what other programs left "
        f"in it, or lower config.data.num_workers ({fewer})."
    )


def _piece_count(rows: int, example_bytes: int, num_workers: int, prefetch: int) -> int:
    """Pieces of a batch, so many that those which wait are `prefetch` batches."""
    most = min(rows, rows * example_bytes // _SMALLEST_PIECE)
    return max(1, min(math.ceil(_WAITING * num_workers / prefetch), most))


class _Pieces:
    """The pieces of all batches in a row, for grain."""

    def __init__(self, batches: Batches, count: int):
        self._batches = batches
        self._count = count
        self.edges = [batches.rows * i // count for i in range(count + 1)]

    def __len__(self) -> int:
        return min(len(self._batches) * self._count, sys.maxsize)

    def __getitem__(self, number: int) -> Example:
        batch, piece = divmod(int(number), self._count)
        return self._batches.part(batch, self.edges[piece], self.edges[piece + 1])


class _Joined:
    """Batches of their pieces. Each piece is copied and freed before the next is taken, so none stays shared.

    `close()` ends the workers; so does the end of the iterator, or of the program.
    """

    def __init__(self, pieces: Iterator[Example], edges: list[int]):
        self._held = [pieces]
        self._edges = edges
        # grain's iterators complain where the interpreter ends before they do.
        self.close = weakref.finalize(self, _close, self._held)

    def __iter__(self) -> "_Joined":
        return self

    def __next__(self) -> Example:
        if not self._held:
            raise StopIteration
        batch: Example = {}
        for first, last in itertools.pairwise(self._edges):
            for key, values in self._next_piece().items():
                if key not in batch:
                    batch[key] = np.empty((self._edges[-1], *values.shape[1:]), values.dtype)
                batch[key][first:last] = values
                del values
        return batch

    def _next_piece(self) -> Example:
        try:
            return next(self._held[0])
        except RuntimeError as error:
            if f"exit code {-signal.SIGBUS}" not in str(error):
                raise
            raise SharedMemoryError(
                f"a data worker was ended by SIGBUS: {SHARED_MEMORY} is full, perhaps by other programs. Enlarge it "
                "(docker run --shm-size=..., or --ipc=host), empty it, or set config.data.num_workers=0; then run the "
                "same command again."
            ) from error


def _close(held: list[Iterator[Example]]) -> None:
    while held:
        held.pop().close()


def _begin_worker(index: int, count: int) -> None:
    """Ties a worker process to the one that started it: it ends with it, also where that is killed, and not before.

    A signal for the whole group of processes is the other's to answer, which may still need batches.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # glibc gives freed memory back and takes it anew for every image, until a larger block has been freed once.
    np.empty(_KEPT_BYTES, np.uint8)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
