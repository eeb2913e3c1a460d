"""Paths as users give them: ~, blanks, zero bytes and other bytes that no text holds, files in place of folders."""

import contextlib
import os
import pathlib

import numpy as np
import pytest

from soda_jax.metrics.inception import load_inception
from soda_jax.metrics.weights import load_weights
from soda_jax.paths import expanded, output_file, run_folder
from soda_jax.reporting import page
from soda_jax.tools import convert_inception, dci, finished
from soda_jax.workdir.checkpoint import directory, read_meta
from soda_jax.workdir.lock import training_lock

# No UTF-8, as Python gets it from a command line.
BYTES = os.fsdecode(b"/tmp/run\xff")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_home(home):
    assert expanded("~/a") == str(home / "a") and run_folder("~") == str(home)
    assert expanded(pathlib.Path("~/a")) == str(home / "a") and expanded("a~b") == "a~b"
    assert run_folder("b") == os.path.abspath("b")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("\n", "is empty"),
        ("a\0b", "zero byte"),
        (BYTES, "bytes that are not UTF-8"),
    ],
)
def test_what_is_no_path(path, reason):
    for take in (expanded, run_folder, output_file):
        with pytest.raises(ValueError, match=f"--x='.*' (is|holds) .*{reason.removeprefix('is ')}") as raised:
            take(path, "--x")
        str(raised.value).encode("utf-8")  # it can be printed


def test_no_run_starts_in_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for path in ("", " ", "a\0b", BYTES, str(tmp_path / "file")):
        with pytest.raises(ValueError, match="workdir="), training_lock(path):
            pass
    for path in ("", "a\0b", BYTES):
        with pytest.raises(ValueError, match="workdir="):
            read_meta(path)
        with pytest.raises(ValueError, match="workdir="):
            page.write(path)
        with pytest.raises(SystemExit) as ended:
            finished.main([f"--workdir={path}", "--wait_seconds=0"])
        assert ended.value.code == 2  # 1 would start the run again
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_files_for_what_takes_long(home):
    assert output_file("~/new/folder/a.json", "--json") == str(home / "new" / "folder" / "a.json")
    assert (home / "new" / "folder").is_dir()
    (home / "file").write_text("")
    with pytest.raises(ValueError, match="--json=.*file/a.json: the folder .* cannot be made"):
        output_file(home / "file" / "a.json", "--json")
    with pytest.raises(ValueError, match="is a folder: give a file"):
        output_file(home / "new", "--json")
    assert output_file(home / "file", "--json") == str(home / "file")


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ValueError, match="cannot be written: make it writable"):
        output_file(tmp_path / "a.json", "--json")


def test_who_takes_home_for_a_folder(home):
    """Each names the file below the home folder that it misses, or finds it."""
    where = str(home)
    assert directory("~/run") == home / "run" / "checkpoints"
    with pytest.raises(ValueError, match="no alexnet.ckpt"):
        load_weights("alexnet", "~/weights")
    (home / "weights").mkdir()
    (home / "weights" / "alexnet.ckpt").write_bytes(b"other")
    with pytest.raises(ValueError, match=f"{where}/weights/alexnet.ckpt is not the published"):
        load_weights("alexnet", "~/weights")
    with pytest.raises(ValueError, match=f"there is no file {where}/inception"):
        load_inception("~/inception.npz")
    with pytest.raises(ValueError, match=f"weights='{where}/a.pth': there is no such file"):
        convert_inception.convert("~/a.pth", "~/b.npz")
    np.save(home / "z.npy", np.ones((2, 3)))
    assert dci.load_matrix("~/z.npy", "codes").shape == (2, 3)
    with training_lock("~/run"):
        assert (home / "run" / "lock").exists()
    (home / "run" / "run.json").write_text('{"num_steps": 1, "sessions": [{"finished": true, "last_step": 1}]}')
    with contextlib.chdir(home):
        assert finished.main(["--workdir=~/run", "--wait_seconds=0"]) is None
        assert not (home / "~").exists()
