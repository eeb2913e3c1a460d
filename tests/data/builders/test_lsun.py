"""LSUN: prepared from a stand-in for the `lmdb` package, read back as TFDS's own dataset."""

import contextlib
import pathlib
import sys
import types

import pytest

from soda_jax import data
from tests.data.builders import miniatures


class _Cursor:
    def __init__(self, items):
        self._items, self._place = items, 0

    def first(self):
        self._place = 0
        return bool(self._items)

    def next(self):
        self._place += 1
        return self._place < len(self._items)

    def item(self):
        return self._items[self._place]


class _Database(contextlib.AbstractContextManager):
    """The part of lmdb.Environment that reading needs; entries are the files beside data.mdb, by key."""

    def __init__(self, folder, **options):
        assert options["readonly"]
        self._items = [(p.name.encode(), p.read_bytes()) for p in sorted(pathlib.Path(folder).glob("key*"))]

    def __exit__(self, *error):
        return None

    def stat(self):
        return {"entries": len(self._items)}

    @contextlib.contextmanager
    def begin(self):
        yield types.SimpleNamespace(cursor=lambda: _Cursor(self._items))


@pytest.fixture
def lmdb(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", types.SimpleNamespace(open=_Database, Error=OSError))


def _write(folder, count, first):
    miniatures.write(folder / "data.mdb", b"")
    for n in range(count):
        miniatures.write(folder / f"key{n:03d}", miniatures.png(miniatures.pixels(first + n, 5 + n % 3, 7)))
    return {miniatures.pixels(first + n, 5 + n % 3, 7).tobytes() for n in range(count)}


def _images(dataset):
    return {dataset[i]["image"].tobytes() for i in range(len(dataset))}


def test_a_scene_has_the_official_splits(tmp_path, lmdb, prepare):
    train = _write(tmp_path / "manual" / "bedroom_train_lmdb", 7, 0)
    validation = _write(tmp_path / "manual" / "bedroom_val_lmdb", 3, 100)
    root = prepare("lsun/bedroom", tmp_path / "manual", ITEMS_PER_SHARD=2)
    assert _images(data.load_dataset("lsun/bedroom", root, "train")) == train
    assert _images(data.load_dataset("lsun/bedroom", root, "validation")) == validation


def test_an_object_category_is_divided(tmp_path, lmdb, prepare):
    images = _write(tmp_path / "manual" / "cat", 20, 0)
    root = prepare("lsun/cat", tmp_path / "manual")
    parts = {split: _images(data.load_dataset("lsun/cat", root, split)) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 16, "validation": 2, "test": 2}
    assert set.union(*parts.values()) == images


def test_without_the_package(tmp_path, prepare, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    _write(tmp_path / "manual" / "cat", 2, 0)
    with pytest.raises(ValueError, match="pip install .lmdb"):
        prepare("lsun/cat", tmp_path / "manual")
