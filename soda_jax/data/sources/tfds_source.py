"""Any dataset that TFDS has prepared as ArrayRecord, read without TensorFlow."""

import functools
import hashlib
import json
import os
import pathlib
from concurrent import futures

import cv2
import numpy as np
import tensorflow_datasets as tfds

from soda_jax.data.sources.base import Example, Targets
from soda_jax.data.sources.cache import CachedArray, cache_dir

_CHUNK = 512


class TfdsSource:
    """One split of a prepared TFDS dataset.

    `image` uint8 [h, w, 3] (grey is repeated to RGB), `label` int32 [] where the set has a
    ClassLabel of that name, `attributes` int32 [A] where it has a dict of booleans (celeb_a).

    Images of one fixed size that fit into `cache_bytes` when decoded are decoded once, into a
    memory-mapped file in the user's cache folder that all worker processes share.

    Args:
        name: TFDS's name, optionally with config and version: "cifar10", "celeb_a:2.1.0".
        root: TFDS's data_dir; None for its default.
        split: as TFDS names it, slices such as "train[:90%]" included.
        cache_bytes: largest decoded size that is cached; 0 turns caching off.

    Raises:
        ValueError: dataset unknown, not prepared or in another format; unknown or empty split; no
            image.
    """

    def __init__(
        self,
        name: str,
        root: str | os.PathLike | None,
        split: str,
        *,
        cache_bytes: int = 2 << 30,
    ):
        builder = _prepared_builder(name, root)
        features = builder.info.features
        self._image_key = _image_key(name, features)
        self._attributes_key = _attributes_key(features)
        self._has_label = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
        self.targets = self._find_targets(features)
        records = _open_split(builder, split, self._image_key)
        shape = features[self._image_key].shape
        self._size = len(records)
        self._records, self._cached = records, None
        fixed_size = len(shape) == 3 and None not in shape[:2]
        if fixed_size and 0 < self._size * shape[0] * shape[1] * 3 <= cache_bytes:
            self._cached = self._cache(builder, split)
            self._records = None  # Workers then need neither TFDS nor its files.

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        return self.get_many(np.array([index]))[0]

    def get_many(self, indices: np.ndarray) -> list[Example]:
        """The examples at `indices`."""
        if self._cached is None:
            return self._decode(np.asarray(indices).tolist())
        columns = {key: cached.array[indices] for key, cached in self._cached.items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _find_targets(self, features) -> dict[str, Targets]:
        targets = {}
        if self._has_label:
            label = features["label"]
            classes = tuple(label.names) if label.num_classes else ()
            targets["label"] = Targets((label.num_classes,), ("label",), classes)
        if self._attributes_key:
            names = tuple(features[self._attributes_key].keys())
            targets["attributes"] = Targets((2,) * len(names), names)
        return targets

    def _decode(self, indices: list[int]) -> list[Example]:
        examples = []
        for index, record in zip(indices, self._records.__getitems__(indices), strict=True):
            example = {"image": _decode_image(record[self._image_key], index)}
            if self._has_label:
                example["label"] = np.int32(record["label"])
            if self._attributes_key:
                names = self.targets["attributes"].names
                values = record[self._attributes_key]
                example["attributes"] = np.array([values[n] for n in names], np.int32)
            examples.append(example)
        return examples

    def _cache(self, builder, split: str) -> dict[str, CachedArray]:
        # The examples are decoded at most once, for whichever arrays are missing.
        columns = functools.cache(self._decode_all)
        keys = ["image", *self.targets]
        files = sorted(pathlib.Path(builder.data_path).iterdir())
        identity = [str(builder.data_path), split, self._size]
        identity += [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        version = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        folder = cache_dir() / "tfds"
        return {
            key: CachedArray.load_or_build(
                folder / f"{builder.name}-{key}-{version}.npy", lambda key=key: columns()[key]
            )
            for key in keys
        }

    def _decode_all(self) -> dict[str, np.ndarray]:
        """All examples as arrays with a leading axis; decoding runs in threads."""
        chunks = [list(range(first, min(first + _CHUNK, self._size))) for first in range(0, self._size, _CHUNK)]
        columns: dict[str, np.ndarray] = {}
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for chunk, examples in zip(chunks, pool.map(self._decode, chunks), strict=True):
                for key in examples[0]:
                    rows = np.stack([example[key] for example in examples])
                    if key not in columns:
                        columns[key] = np.empty((self._size, *rows.shape[1:]), rows.dtype)
                    columns[key][chunk[0] : chunk[-1] + 1] = rows
        return columns


def _prepared_builder(name: str, root):
    data_dir = None if root is None else os.path.expanduser(os.fspath(root))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"dataset {name!r} is neither a TFDS dataset nor prepared under root={root!r}. Check "
            "the name; sources of our own are 'scenes', 'scenes_free' and 'folder'."
        ) from None
    if not pathlib.Path(builder.data_path).exists():
        location = "" if data_dir is None else f", data_dir={data_dir!r}"
        raise ValueError(
            f"dataset {name!r} is not prepared: {builder.data_path} does not exist. Prepare it "
            "once (most sets need TensorFlow for that):\n"
            f'  python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{location}, '
            "file_format='array_record').download_and_prepare()\""
        )
    file_format = builder.info.file_format
    if file_format is not None and file_format.value != "array_record":
        raise ValueError(
            f"dataset {name!r} in {builder.data_path} is stored as {file_format.value}; only "
            "array_record has random access. Convert it:\n"
            f"  tfds convert_format --dataset_dir={builder.data_path} "
            "--out_file_format=array_record --out_path=NEW_DATASET_DIR"
        )
    return builder


def _open_split(builder, split: str, image_key: str):
    available = {name: info.num_examples for name, info in builder.info.splits.items()}
    listed = ", ".join(f"{name} ({count:,})" for name, count in available.items())
    try:
        records = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
    except ValueError as error:
        raise ValueError(f"split={split!r} is unknown in {builder.name!r}; available: {listed}.") from error
    if len(records) == 0:
        raise ValueError(f"split={split!r} of {builder.name!r} is empty; available: {listed}.")
    return records


def _image_key(name: str, features) -> str:
    images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
    if not images:
        raise ValueError(f"dataset {name!r} has no image; its features are {', '.join(features.keys())}.")
    return "image" if "image" in images else images[0]


def _attributes_key(features) -> str | None:
    """The first feature that is a dict of booleans only."""
    for key, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            leaves = [(f.shape, f.np_dtype) for f in feature.values()]
            if leaves and all(leaf == ((), np.bool_) for leaf in leaves):
                return key
    return None


def _decode_image(encoded: bytes, index: int) -> np.ndarray:
    """uint8 [h, w, 3] RGB of an encoded image, grey included."""
    image = None
    if encoded:  # OpenCV has an exception of its own for empty input.
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"example {index}: its image cannot be decoded; prepare the dataset again.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
