"""Shards that survive an interruption."""

import pytest

from soda_jax import data
from soda_jax.data.builders.class_folders import Afhq
from tests.data.builders import miniatures


def _interrupted_at(number, monkeypatch):
    """Lets the builder fail at its `number`-th image; returns the list of files read so far."""
    read, original = [], Afhq.make_examples

    def make_examples(self, items):
        for item, example in zip(items, original(self, items), strict=True):
            if len(read) == number:
                raise KeyboardInterrupt
            read.append(item[0].name)
            yield example

    monkeypatch.setattr(Afhq, "make_examples", make_examples)
    return read


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, prepare, monkeypatch):
    known = miniatures.afhq(tmp_path / "manual")
    with monkeypatch.context() as patch:
        _interrupted_at(7, patch)
        with pytest.raises(KeyboardInterrupt):
            prepare("afhq/v2", tmp_path / "manual", ITEMS_PER_SHARD=3)
    folder = tmp_path / "prepared" / "afhq" / "v2"
    assert not (folder / "1.0.0").exists()
    assert len(list((folder / "unfinished.1.0.0").glob("*array_record-*"))) >= 2
    with monkeypatch.context() as patch:
        read = _interrupted_at(100, patch)
        root = prepare("afhq/v2", tmp_path / "manual", ITEMS_PER_SHARD=3)
    assert len(read) == 15 - 6  # Two shards of three were finished.
    assert not (folder / "unfinished.1.0.0").exists()
    found = {
        dataset[i]["image"].tobytes()
        for dataset in (data.load_dataset("afhq/v2", root, split) for split in ("train", "test"))
        for i in range(len(dataset))
    }
    assert found == set(known)


def test_shards_of_another_archive_are_not_taken_over(tmp_path, prepare, monkeypatch):
    miniatures.afhq(tmp_path / "manual")
    with monkeypatch.context() as patch:
        _interrupted_at(7, patch)
        with pytest.raises(KeyboardInterrupt):
            prepare("afhq/v2", tmp_path / "manual", ITEMS_PER_SHARD=3)
    next((tmp_path / "manual" / "train" / "cat").iterdir()).unlink()
    read = _interrupted_at(100, monkeypatch)
    prepare("afhq/v2", tmp_path / "manual", ITEMS_PER_SHARD=3)
    assert len(read) == 14
