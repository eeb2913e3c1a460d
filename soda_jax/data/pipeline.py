"""From a dataset to batches: shuffling, views, division among processes, padding.

A batch is one element of a grain dataset, made whole in NumPy. Going through grain an example at
a time costs some 150 microseconds each, several times the work on a 32-pixel image.

Every random choice follows from (seed, position in the training stream) alone, so neither the
number of processes, nor of workers, nor a restart changes a batch. Where an image cannot be read,
another example takes its place, which follows from the index of the unreadable one alone.
"""

import functools
import sys
from collections.abc import Callable, Iterator

import numpy as np

from soda_jax.data.classes import ClassIndex
from soda_jax.data.datasets.base import Dataset, Example, get_many
from soda_jax.data.decode import DecodeError
from soda_jax.data.views import ViewSpec, eval_views, make_views
from soda_jax.data.workers import Batches, iterate

_SHUFFLE_STREAM = 1
_VIEW_STREAM = 2
_REPLACEMENT_KEY = 3
_EVAL_VIEW_STREAM = 4
_SOURCES_STREAM = 5
_MAX_REPLACEMENTS = 1000

# (index, example, attempt) -> views; another attempt draws other randomness: the same would choose the same partner.
MakeViews = Callable[[int, Example, int], Example]


def train_batches(
    dataset: Dataset,
    spec: ViewSpec,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless training batches with random access: `batches[s]` is this process's part of step s.

    The stream runs through the split in epochs, each a new permutation with every example once;
    a batch may span two epochs. The parts of the processes, joined in their order, are the same
    global batch for any `process_count`.

    Args:
        batch_size: examples in a global batch, over all processes.
        seed: of the order and of the augmentations.

    Returns:
        A dataset of dicts with leading axis batch_size / process_count: `source`, `source_mask`,
        `target`, `id` int32 (position in the global batch) and what `make_views` carries over. All
        examples of a step show the same number of sources, drawn from `spec.source_counts`.

    Raises:
        ValueError: empty split, a batch that the processes cannot share evenly, or policy "class"
            without labels; on access, when the dataset's share of unreadable files is exceeded.
        DecodeError: on access, an unreadable image of a dataset that keeps no `bad_files`.
    """
    _check(dataset, batch_size, process_index, process_count)
    return _TrainBatches(dataset, spec, batch_size, seed, process_index, process_count)


def eval_batches(
    dataset: Dataset,
    spec: ViewSpec,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    num_workers: int = 0,
    augment_seed: int | None = None,
) -> Iterator[Example]:
    """Every example of a split exactly once over all processes, without randomness.

    Args:
        batch_size: examples in a global batch, over all processes.
        limit: at most this many examples, spread evenly over the split (which may be sorted).
        augment_seed: shows training's random views instead, in the same order: an example's follow from
            this seed and its place in the split alone.

    Yields:
        Dicts as in training, with `index` int32 (position in the split) and `mask` bool in place
        of `id`. All processes yield the same number of batches. The last global batch is padded:
        there `mask` is False, the images repeat an example, and `index` counts on past the end of
        the split, so that no padding is mistaken for an example. `mask` is also False where an
        image cannot be read; the images are then another example's.

    Raises:
        ValueError, DecodeError: as in `train_batches`.
    """
    _check(dataset, batch_size, process_index, process_count)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1, or None for the whole split.")
    if augment_seed is not None and augment_seed < 0:
        raise ValueError(f"augment_seed={augment_seed} must be at least 0, or None for views without randomness.")
    batches = _EvalBatches(dataset, spec, batch_size, process_index, process_count, limit, augment_seed)
    return iterate(batches, num_workers=num_workers)


def _check(dataset: Dataset, batch_size: int, process_index: int, process_count: int) -> None:
    if len(dataset) == 0:
        raise ValueError("the split is empty: choose another split, or check how it was prepared.")
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(f"batch_size={batch_size} must be a positive multiple of process_count={process_count}.")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} must lie in 0..{process_count - 1}.")


class _KeyedGenerator:
    """One generator set to the start of the stream (key, position, attempt) at a time.

    Re-keying a counter-based generator takes 2 microseconds, making a new one 17.
    """

    def __init__(self, key: int):
        self._bits = np.random.Philox(key=np.array([key, 0], np.uint64))
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, position: int, attempt: int) -> np.random.Generator:
        self._state["state"]["key"][1] = position
        self._state["state"]["counter"][3] = attempt
        self._bits.state = self._state
        return self._generator


class _TrainBatches:
    """Random access to this process's part of every global training batch."""

    def __init__(self, dataset, spec, batch_size, seed, process_index, process_count):
        self._dataset = dataset
        self._spec = spec
        self._classes = ClassIndex(dataset) if spec.policy == "class" else None
        self._batch_size = batch_size
        self._seed = seed
        share = batch_size // process_count
        self._ids = np.arange(process_index * share, (process_index + 1) * share, dtype=np.int32)
        self._view_key = _stream_key(seed, _VIEW_STREAM)
        self._sources_key = _stream_key(seed, _SOURCES_STREAM)
        self.rows, self.example_bytes = share, spec.example_bytes

    def __len__(self):
        return sys.maxsize  # As grain's own repeat() calls an endless dataset.

    def __getitem__(self, step: int) -> Example:
        return self.part(step, 0, self.rows)

    def part(self, step: int, first: int, last: int) -> Example:
        ids = self._ids[first:last]
        positions = int(step) * self._batch_size + ids.astype(np.int64)
        size = len(self._dataset)
        epochs, offsets = np.divmod(positions, size)
        indices = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            members = epochs == epoch
            indices[members] = _epoch_order(size, self._seed, int(epoch))[offsets[members]]
        generator, num_sources = _KeyedGenerator(self._view_key), self._num_sources(step)

        def views_at(position: int) -> MakeViews:
            return lambda index, example, attempt: _random_views(
                self._dataset, self._classes, self._spec, index, example, generator.at(position, attempt), num_sources
            )

        examples = get_many(self._dataset, indices)
        batch = _collate(
            [
                _readable(self._dataset, index, example, views_at(position))[0]
                for index, example, position in zip(indices.tolist(), examples, positions.tolist(), strict=True)
            ]
        )
        batch["id"] = ids.copy()
        return batch

    def _num_sources(self, step: int) -> int:
        """How many sources the examples of a step show: one number for all, so that none is encoded for nothing."""
        counts = self._spec.source_counts
        if len(counts) == 1:
            return counts.start
        return int(_KeyedGenerator(self._sources_key).at(int(step), 0).integers(counts.start, counts.stop))


class _EvalBatches:
    """Random access to this process's part of every global evaluation batch."""

    def __init__(self, dataset, spec, batch_size, process_index, process_count, limit, augment_seed):
        self._dataset = dataset
        self._spec = spec
        self._classes = ClassIndex(dataset) if spec.policy == "class" else None
        self._batch_size = batch_size
        share = batch_size // process_count
        self._places = np.arange(process_index * share, (process_index + 1) * share)
        self._total = len(dataset) if limit is None else min(limit, len(dataset))
        self._view_key = None if augment_seed is None else _stream_key(augment_seed, _EVAL_VIEW_STREAM)
        self.rows, self.example_bytes = share, spec.example_bytes

    def __len__(self):
        return -(-self._total // self._batch_size)

    def __getitem__(self, number: int) -> Example:
        return self.part(number, 0, self.rows)

    def part(self, number: int, first: int, last: int) -> Example:
        places = number * self._batch_size + self._places[first:last]
        mask = places < self._total
        real = np.minimum(places, self._total - 1)
        indices = real * len(self._dataset) // self._total
        unique, where = np.unique(indices, return_inverse=True)
        make = self._views if self._view_key is None else self._augmented_views()
        views, readable = zip(
            *(
                _readable(self._dataset, index, example, make)
                for index, example in zip(unique.tolist(), get_many(self._dataset, unique), strict=True)
            ),
            strict=True,
        )
        batch = _collate([views[i] for i in where])
        padding = len(self._dataset) + places - self._total
        batch["index"] = np.where(mask, indices, padding).astype(np.int32)
        batch["mask"] = mask & np.array(readable)[where]
        return batch

    def _views(self, index: int, example: Example, _: int) -> Example:
        partner = None
        if self._classes is not None:
            partner = _example(self._dataset, self._classes.next_partner(index))
        return eval_views(example, self._spec, partner, index=index)

    def _augmented_views(self) -> MakeViews:
        generator = _KeyedGenerator(self._view_key)  # one for each batch: batches are made in several threads
        return lambda index, example, attempt: _random_views(
            self._dataset, self._classes, self._spec, index, example, generator.at(index, attempt)
        )


def _stream_key(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64)[0])


def _random_views(
    dataset: Dataset,
    classes: ClassIndex | None,
    spec: ViewSpec,
    index: int,
    example: Example,
    rng: np.random.Generator,
    num_sources: int | None = None,
) -> Example:
    partner = None if classes is None else _example(dataset, classes.random_partner(index, rng))
    return make_views(example, rng, spec, partner, num_sources)


def _example(dataset: Dataset, index: int) -> Example:
    return get_many(dataset, np.array([index]))[0]


def _readable(dataset: Dataset, index: int, example: Example, make: MakeViews) -> tuple[Example, bool]:
    """The views of the example, or of the first replacement that can be read.

    Replacements are drawn from the whole split: the neighbours of a broken file are often broken too.

    Returns:
        The views, and whether they are of the example itself.
    """
    try:
        return make(index, example, 0), True
    except DecodeError as error:
        _report(dataset, error)
    rng = np.random.Generator(np.random.Philox(key=np.array([_REPLACEMENT_KEY, index], np.uint64)))
    for attempt, other in enumerate(rng.integers(len(dataset), size=_MAX_REPLACEMENTS).tolist(), start=1):
        try:
            return make(other, _example(dataset, other), attempt), False
        except DecodeError as error:
            _report(dataset, error)
    raise ValueError(f"no image could be read in {_MAX_REPLACEMENTS} tries; check the dataset's files.")


def _report(dataset: Dataset, error: DecodeError) -> None:
    """Hands the error to the dataset that counts them; one that does not has no use for broken files."""
    bad_files = getattr(dataset, "bad_files", None)
    if bad_files is None:
        raise error
    bad_files.report(error)


@functools.lru_cache(maxsize=4)
def _epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.default_rng(np.random.SeedSequence((seed, _SHUFFLE_STREAM, epoch)))
    return rng.permutation(np.arange(size, dtype=np.int32))


def _collate(examples: list[Example]) -> Example:
    """Stacks the dicts of single examples along a new leading axis."""
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
