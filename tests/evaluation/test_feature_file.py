"""The .npz file of features: what NumPy reads back, how much memory it takes, and what an error leaves."""

import errno
import json
import os
import tracemalloc

import numpy as np
import pytest

from soda_jax.evaluation import feature_file
from soda_jax.evaluation.feature_file import FeatureFile


def written(path, features, files, about=None, batch=3):
    with FeatureFile(path) as file:
        for start in range(0, len(files), batch):
            file.append(features[start : start + batch], files[start : start + batch])
        file.finish(about or {})
    return np.load(path, allow_pickle=False)


@pytest.mark.parametrize("memory", [1 << 20, 1])
def test_numpy_reads_what_was_written(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(feature_file, "MEMORY", memory)
    features = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    files = ["a.png", "b/c.png", "é.png", os.fsdecode(b"\xff.png"), *(f"{i}.png" for i in range(6))]
    found = written(tmp_path / "z.npz", features, files, {"step": 3})
    assert found["features"].dtype == np.float32 and np.array_equal(found["features"], features)
    assert found["files"].tolist() == files and json.loads(found["about"].item()) == {"step": 3}
    assert os.fsencode(found["files"][3]) == b"\xff.png"
    assert os.listdir(tmp_path) == ["z.npz"]


def test_names_of_several_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_file, "_NAMES", 4)
    files = [f"{'long' * (i == 9)}{i}.png" for i in range(11)]
    assert written(tmp_path / "z.npz", np.zeros((11, 2)), files)["files"].tolist() == files


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_file, "MEMORY", 1 << 20)
    monkeypatch.setattr(feature_file, "_CHUNK", 1 << 20)
    rows = np.ones((1024, 256), np.float32)  # one MiB
    tracemalloc.start()
    with FeatureFile(tmp_path / "z.npz") as file:
        for _ in range(40):
            file.append(rows, ["a"] * len(rows))
        file.finish({})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
    assert np.load(tmp_path / "z.npz")["features"].shape == (40 * 1024, 256)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    written(tmp_path / "z.npz", np.ones((1, 2)), ["a"])

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_file.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "z.npz", np.zeros((4, 3)), list("abcd"))
    assert os.listdir(tmp_path) == ["z.npz"]
    assert np.load(tmp_path / "z.npz")["features"].tolist() == [[1, 1]]


def test_rows_that_do_not_fit(tmp_path):
    with FeatureFile(tmp_path / "z.npz") as file:
        file.append(np.zeros((1, 2)), ["a"])
        for rows, files in ((np.zeros((1, 3)), ["b"]), (np.zeros((2, 2)), ["b"]), (np.zeros(2), ["b", "c"])):
            with pytest.raises(ValueError, match=r"give \[n, 2\]"):
                file.append(rows, files)
        with pytest.raises(ValueError, match="features of 'c' are not finite"):
            file.append(np.array([[0, 1], [0, np.nan]]), ["b", "c"])
