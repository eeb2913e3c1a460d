"""LSUN (Yu et al. 2015) as TFDS's builder writes it, without TensorFlow and tensorflow-io.

TFDS reads LSUN's LMDB files through tensorflow-io, whose last version (0.37.1, 2024) no current TensorFlow can load.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from soda_jax.data.builders.base import ArchiveError, ManualBuilder, find_folder

SCENES = ("bedroom", "church_outdoor")
OBJECTS = ("bird", "car", "cat", "dog", "horse")


class Lsun(ManualBuilder, skip_registration=True):
    """`image` and `id` of one category; same name, version and features as TFDS's `lsun`, which reads the result.

    The manual folder has the unpacked LMDB folders, `bedroom_train_lmdb` and `bedroom_val_lmdb` of a scene, `cat` of an
    object category; reading them takes the `lmdb` package. Scenes have the official splits train and validation,
    objects have train only.
    """

    name = "lsun"
    VERSION = tfds.core.Version("3.1.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=category, description=f"Images of category {category}.")
        for category in SCENES + OBJECTS
    ]
    ITEMS_PER_SHARD = 5000

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"id": tfds.features.Text(), "image": tfds.features.Image(encoding_format="jpeg")}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), homepage="https://www.yf.io/p/lsun"
        )

    def read_archive(self, manual_dir: pathlib.Path) -> dict[str, "_Entries"]:
        category = self.builder_config.name
        folders = {"train": category}
        if category in SCENES:
            folders = {"train": f"{category}_train_lmdb", "validation": f"{category}_val_lmdb"}
        return {
            split: _Entries(find_folder(manual_dir, (folder,), "data.mdb"), None) for split, folder in folders.items()
        }

    def make_examples(self, items: "_Entries") -> Iterator[dict[str, Any]]:
        for key, value in items.read():
            yield {"id": key.decode(), "image": value}


class _Entries:
    """Some of the entries of an LMDB file by their place in the order of keys; slices read nothing."""

    def __init__(self, folder: pathlib.Path, places: range | None):
        self._folder = folder
        if places is None:
            with _open(folder) as database:
                places = range(database.stat()["entries"])
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: slice) -> "_Entries":
        return _Entries(self._folder, self._places[key])

    def __repr__(self) -> str:
        return f"{self._folder}: {self._places}"

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        """The (key, value) pairs; to get there, the keys before them are passed over."""
        with _open(self._folder) as database, database.begin() as transaction:
            cursor = transaction.cursor()
            found = cursor.first()
            for _ in range(self._places.start):
                found = found and cursor.next()
            for _ in self._places:
                if not found:
                    raise ArchiveError(f"{self._folder} ends early; unpack the archive again.")
                yield cursor.item()
                found = cursor.next()


def _open(folder: pathlib.Path):
    try:
        import lmdb
    except ImportError as error:
        raise ValueError("LSUN's files need the package `lmdb`: pip install 'lmdb>=1.4,<3'") from error
    try:
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, max_readers=1)
    except lmdb.Error as error:
        raise ArchiveError(f"{folder} is no LMDB database ({error}); unpack the archive again.") from error
