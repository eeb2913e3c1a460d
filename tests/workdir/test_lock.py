"""The workdir's lock: one run at a time, and nothing that a dead process could leave behind."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from soda_jax.parallel.distributed import SharedError
from soda_jax.workdir import lock as workdir_lib
from soda_jax.workdir.lock import LOCK_FILE, WorkdirInUseError, explain_write_error, training_lock

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import sys, time
from soda_jax.workdir.lock import training_lock
with training_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_who_holds_it(tmp_path):
    folder = tmp_path / "new" / "run"
    with training_lock(str(folder)):
        with pytest.raises(WorkdirInUseError) as error:
            with training_lock(str(folder), patience=0.0):
                pass
        assert f"process {os.getpid()} on {os.uname().nodename} since 20" in str(error.value)
        assert f"workdir={folder}" in str(error.value)
    with training_lock(str(folder), patience=0.0):  # an ended run leaves no lock
        pass


def test_a_killed_process_does_not_hold_it(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(WorkdirInUseError, match=f"process {process.pid} on"):
            with training_lock(str(tmp_path), patience=0.0):
                pass
    finally:
        process.send_signal(signal.SIGKILL)
    with training_lock(str(tmp_path)):  # waits for the kernel to bury it
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    process.wait()


def test_a_program_that_the_run_started_does_not_hold_it(tmp_path):
    with training_lock(str(tmp_path)):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    try:
        # Not at once: the kernel lets us go on a moment before it closes the program's copy of the file.
        with training_lock(str(tmp_path), patience=5.0):
            pass
    finally:
        child.kill()
        child.wait()


def test_patience(tmp_path):
    with training_lock(str(tmp_path)):
        begin = time.monotonic()
        with pytest.raises(WorkdirInUseError):
            with training_lock(str(tmp_path), patience=0.3):
                pass
        assert 0.3 <= time.monotonic() - begin < 5.0


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]", "\x00" * 50])
def test_a_lock_file_without_an_entry(tmp_path, content):
    with training_lock(str(tmp_path)):
        (tmp_path / LOCK_FILE).write_text(content)
        with pytest.raises(WorkdirInUseError, match="in use by another run"):
            with training_lock(str(tmp_path), patience=0.0):
                pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    warnings = []
    monkeypatch.setattr(workdir_lib.fcntl, "flock", flock)
    monkeypatch.setattr(workdir_lib.logging, "warning", lambda text, *values: warnings.append(text % values))
    with training_lock(str(tmp_path)):
        pass
    assert len(warnings) == 1 and "no second run" in warnings[0]


def test_a_workdir_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="workdir=.*file/run cannot be written .*use another --workdir"):
        with training_lock(str(tmp_path / "file" / "run")):
            pass

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(workdir_lib.os, "open", refuse)
    with pytest.raises(OSError, match="cannot be written .Read-only file system.: make it writable"):
        with training_lock(str(tmp_path)):
            pass


def test_write_errors_are_explained():
    full = explain_write_error(OSError(errno.ENOSPC, "No space left on device"), "runs/a")
    assert full == (
        "no room to write in workdir=runs/a (No space left on device): free some, then run the same command again: it "
        "resumes from the last whole checkpoint"
    )
    assert "make it writable" in explain_write_error(OSError(errno.EROFS, "Read-only file system"), "runs/a")
    assert explain_write_error(FileNotFoundError(errno.ENOENT, "No such file", "x"), "runs/a") is None


@pytest.mark.parametrize("same", [True, False])
def test_the_folder_of_another_process_must_be_the_first_ones(tmp_path, monkeypatch, same):
    """As the second of two processes sees it: what the first one has left there is there, or is not."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(workdir_lib, "decided_by_first", lambda choose: 7)
    (tmp_path / f"{workdir_lib.SIGN}{7 if same else 8}").touch()
    if same:
        workdir_lib._check_shared(str(tmp_path), patience=0.0)
    else:
        with pytest.raises(SharedError, match="is not the folder of the same name on the first process's host"):
            workdir_lib._check_shared(str(tmp_path), patience=0.0)
    assert len(os.listdir(tmp_path)) == 1  # it is the first one's to remove


def test_the_first_process_leaves_no_sign(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lib, "decided_by_first", lambda choose: choose())
    workdir_lib._check_shared(str(tmp_path))
    assert os.listdir(tmp_path) == []
