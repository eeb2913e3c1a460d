"""Any dataset that TFDS or our own builders have prepared as ArrayRecord, read without TensorFlow."""

import functools
import hashlib
import json
import os
import pathlib
from concurrent import futures

import numpy as np
import tensorflow_datasets as tfds

from soda_jax.data.builders.base import SPLITS
from soda_jax.data.datasets.base import Example, Labels, fixed_split
from soda_jax.data.datasets.cache import CachedArray, cache_dir
from soda_jax.data.datasets.tfds_features import RecordReader, decoded
from soda_jax.data.datasets.tfds_prepared import RecordsError, check_shards, prepared_builder

_CHUNK = 512
_SPLIT_SEED = 1


class TfdsDataset:
    """One split of a prepared TFDS dataset.

    An example has `image` uint8 [h, w, 3] (grey is repeated to RGB) and what there is of `label` int32 [],
    `attributes` int32 [A] and `factors` int32 [F]; `RecordReader` says which features they are. Of a multi-view set
    (nmr, rendered objects) an example is an object: `views` in place of `image`, each read when it is asked for.

    Where a set has only a split "train", "train", "validation" and "test" are 80, 10 and 10 percent of it, by a fixed
    permutation; "all" is the whole of any set, and slices such as "train[:90%]" are TFDS's own.

    Images of one fixed size that fit into `cache_bytes` when decoded are decoded once, into a memory-mapped file in
    the user's cache folder that all worker processes share.

    Args:
        name: TFDS's name, optionally with config and version: "cifar10", "mpi3d/toy", "celeb_a:2.1.0".
        root: TFDS's data_dir; None for its default.
        split: see above; of multi-view sets only whole splits and their sums.
        cache_bytes: largest decoded size that is cached; 0 turns caching off.
        eyes: of stereo pairs (smallnorb), "left", "right", or "both": `views` of two images without cameras, from
            which the view policies "augment" and "same" draw.

    Raises:
        ValueError: dataset unknown, not prepared, damaged or in another format; unknown or empty split; no image.
    """

    def __init__(
        self,
        name: str,
        root: str | os.PathLike | None,
        split: str,
        *,
        cache_bytes: int = 2 << 30,
        eyes: str = "left",
    ):
        builder = prepared_builder(name, root)
        self._objects = _Objects(builder, split) if _is_multi_view(builder) else None
        self._reader = RecordReader(builder.info, eyes)
        self.labels: dict[str, Labels] = dict(self._reader.labels)
        if self._objects is not None and self._objects.classes:
            classes = self._objects.classes
            self.labels["label"] = Labels((len(classes),), ("label",), classes)
        records, self._order = _open_split(builder, self._objects.records_split if self._objects else split)
        self._size = len(records) if self._order is None else len(self._order)
        self._records, self._cached = records, None
        self._class_ids: CachedArray | None = None
        self._title, self._split = f"{name} {split}", split
        self._name, self._data_path = builder.name, pathlib.Path(builder.data_path)
        shape = self._reader.image_shape
        if shape is not None:
            pixels = shape[0] * shape[1] * len(self._reader.image_keys)
            if 0 < self._size * pixels * 3 <= cache_bytes:
                self._cached = self._cache()
                self._records = None  # Workers then need neither TFDS nor its files.

    def __len__(self) -> int:
        return self._size if self._objects is None else len(self._objects)

    def __getitem__(self, index: int) -> Example:
        if self._objects is not None:
            return self._multi_view_example(index, decode=True)
        return self._reader.example(decoded(self._columns(np.array([index]))[0]))

    def get_many(self, indices: np.ndarray) -> list[Example]:
        """The examples at `indices`; images that are not cached as `EncodedImage`."""
        if self._objects is not None:
            return [self._multi_view_example(int(index), decode=False) for index in indices]
        return [self._reader.example(columns) for columns in self._columns(np.asarray(indices))]

    @property
    def class_ids(self) -> np.ndarray | None:
        """The class of every example, integers [len]; None without labels.

        Where examples are not cached, the first call reads every record (decoding no image) and keeps the labels in the
        user's cache folder.
        """
        if self._objects is not None:
            return self._objects.class_ids if self._objects.classes else None
        if "label" not in self.labels:
            return None
        if self._cached is not None:
            return self._cached["label"].array
        if self._class_ids is None:
            self._class_ids = CachedArray.load_or_build(self._cache_path("label"), self._read_labels)
        return self._class_ids.array

    def _multi_view_example(self, index: int, decode: bool) -> Example:
        first, count, label = self._objects[index]
        example: Example = {"views": _Views(self, first, count, decode)}
        return example if label is None else {**example, "label": label}

    def view(self, number: int, decode: bool) -> Example:
        """`image`, `pose` and `intrinsics` of one record of a multi-view set."""
        record = self._fetch([number])[0]
        columns = self._reader.columns(record, f"{self._title}, view {number}")
        cameras = {key: np.asarray(record[key], np.float32) for key in ("pose", "intrinsics")}
        return {**(decoded(columns) if decode else columns), **cameras}

    def _columns(self, indices: np.ndarray) -> list[Example]:
        if self._cached is None:
            return self._read(indices)
        columns = {key: cached.array[indices] for key, cached in self._cached.items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _read(self, indices: np.ndarray) -> list[Example]:
        places = indices if self._order is None else self._order[indices]
        records = self._fetch(places.tolist())
        return [
            self._reader.columns(record, f"{self._title}, example {index}")
            for index, record in zip(indices.tolist(), records, strict=True)
        ]

    def _fetch(self, places: list[int]) -> list[dict]:
        try:
            return self._records.__getitems__(places)
        except (RuntimeError, OSError) as error:
            raise RecordsError(self._data_path, f"a record of split {self._split!r}", error) from error

    def _cache(self) -> dict[str, CachedArray]:
        # The examples are decoded at most once, for whichever arrays are missing.
        columns = functools.cache(self._decode_all)
        return {
            key: CachedArray.load_or_build(self._cache_path(key), lambda key=key: columns()[key])
            for key in (*self._reader.image_keys, *self.labels)
        }

    def _cache_path(self, key: str) -> pathlib.Path:
        """Where a column is kept; the name tells apart other files, splits and versions of the dataset."""
        files = sorted(self._data_path.iterdir())
        identity = [str(self._data_path), self._split, self._size]
        identity += [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        version = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        return cache_dir() / "tfds" / f"{self._name}-{key}-{version}.npy"

    def _read_labels(self) -> np.ndarray:
        chunks = (np.arange(first, min(first + _CHUNK, self._size)) for first in range(0, self._size, _CHUNK))
        return np.array([columns["label"] for chunk in chunks for columns in self._read(chunk)], np.int32)

    def _decode_all(self) -> dict[str, np.ndarray]:
        """All columns as arrays with a leading axis; decoding runs in threads."""
        chunks = [np.arange(first, min(first + _CHUNK, self._size)) for first in range(0, self._size, _CHUNK)]
        columns: dict[str, np.ndarray] = {}
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            read = pool.map(lambda chunk: [decoded(row) for row in self._read(chunk)], chunks)
            for chunk, rows in zip(chunks, read, strict=True):
                for key in rows[0]:
                    values = np.stack([row[key] for row in rows])
                    if key not in columns:
                        columns[key] = np.empty((self._size, *values.shape[1:]), values.dtype)
                    columns[key][chunk] = values
        return columns


class _Objects:
    """Where the views of each object lie: `objects[i]` -> (first record, number of records, label or None)."""

    def __init__(self, builder, split: str):
        self.classes = tuple(builder.info.metadata["classes"])
        by_split = builder.info.metadata["objects"]
        chosen = list(by_split) if split == "all" else [name.strip() for name in split.split("+")]
        if unknown := [name for name in chosen if name not in by_split]:
            counts = ", ".join(f"{name} ({len(found['names']):,} objects)" for name, found in by_split.items())
            raise ValueError(
                f"split={unknown[0]!r} is unknown in {builder.name!r}, whose objects are only in whole splits; "
                f"available: {counts}, their sums (train+validation), all."
            )
        chosen = [name for name in chosen if by_split[name]["names"]]
        if not chosen:
            raise ValueError(f"split={split!r} of {builder.name!r} is empty.")
        self.records_split = "+".join(chosen)
        self.class_ids = np.concatenate([by_split[name]["labels"] for name in chosen]).astype(np.int32)
        self._counts = np.concatenate([by_split[name]["num_views"] for name in chosen])
        self._firsts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, index: int) -> tuple[int, int, np.int32 | None]:
        return int(self._firsts[index]), int(self._counts[index]), self.class_ids[index] if self.classes else None


class _Views:
    """The views of one object, read on demand."""

    def __init__(self, dataset: TfdsDataset, first: int, count: int, decode: bool):
        self._dataset = dataset
        self._first = first
        self._count = count
        self._decode = decode

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Example:
        if not 0 <= number < self._count:
            raise IndexError(f"view {number} of {self._count}")
        return self._dataset.view(self._first + number, self._decode)


def _is_multi_view(builder) -> bool:
    return bool(builder.info.metadata) and "objects" in builder.info.metadata


def _open_split(builder, split: str):
    """The records of a split, and which of them belong to it in which order (None: all, in theirs)."""
    available = {name: info.num_examples for name, info in builder.info.splits.items()}
    divided = set(available) == {"train"} and split in SPLITS
    listed = ", ".join(f"{name} ({count:,})" for name, count in available.items())
    images = [key for key, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
    stored = "train" if divided else split
    try:
        records = builder.as_data_source(split=stored, decoders={key: tfds.decode.SkipDecoding() for key in images})
    except ValueError as error:
        raise ValueError(f"split={split!r} is unknown in {builder.name!r}; available: {listed}.") from error
    check_shards(builder, stored)
    order = fixed_split(len(records), split, _SPLIT_SEED) if divided else None
    if len(records if order is None else order) == 0:
        raise ValueError(f"split={split!r} of {builder.name!r} is empty; available: {listed}.")
    return records, order
