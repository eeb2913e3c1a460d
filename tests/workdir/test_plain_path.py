"""Folders of names that libraries would take for patterns or addresses."""

import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer, CheckpointWriteError
from soda_jax.workdir.plain_path import PlainPath, is_plain, plain_path
from tests import tiny
from tests.workdir.test_checkpoint import META, abstract, make_state, steps

ROOT = pathlib.Path(__file__).parents[2]


def test_plain_names_stay():
    for name in ("/runs/a-b_c.1", "/läufe/lr=0.1,seed=2", "/sp ace/50%/x+y@z"):
        with plain_path(pathlib.Path(name)) as path:
            assert path == pathlib.Path(name)


@pytest.mark.parametrize("name", ["a[b]", "a*", "a?", "a\\b", "gs:", "a\nb", "a{b}", "$A", "a|b", "a#b", "a'b", 'a"b'])
def test_others_get_a_link_for_as_long_as_it_is_used(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    with plain_path(folder) as path:
        assert is_plain(path) and path.resolve() == folder
        (path / "file").write_text("content")
    assert not path.parent.exists() and (folder / "file").read_text() == "content"


def test_no_place_for_a_link(tmp_path, monkeypatch):
    odd = tmp_path / "[tmp]"
    odd.mkdir()
    for place in (odd, tmp_path / "missing"):
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        with pytest.raises(ValueError, match="use another --workdir, or set TMPDIR"), plain_path(tmp_path / "a[b]"):
            pass


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def clear(folder):
    """As systemd-tmpfiles does after ten days."""
    (child,) = folder.iterdir()
    shutil.rmtree(child)


def test_a_link_that_is_gone_is_made_again(tmp_path, temporary):
    folder = tmp_path / "a[b]"
    folder.mkdir()
    plain = PlainPath(folder)
    name = plain.path
    for remove in (lambda: clear(temporary), name.unlink, lambda: None):
        remove()
        plain.renew()
        assert plain.path == name and name.resolve() == folder
        assert name.parent.stat().st_mode & 0o777 == 0o700
    plain.close()
    assert folder.is_dir() and not list(temporary.iterdir())
    clear_twice = PlainPath(folder)
    clear(temporary)
    clear_twice.close()
    assert folder.is_dir()


def test_a_renewed_link_looks_new(tmp_path, temporary):
    plain = PlainPath(tmp_path / "a[b]")
    for path in (plain.path, plain.path.parent):
        os.utime(path, (1000, 1000), follow_symlinks=False)
    plain.renew()
    assert min(path.lstat().st_mtime for path in (plain.path, plain.path.parent)) > 1e9
    plain.close()


def test_what_another_user_put_in_the_links_place_is_not_used(tmp_path, temporary, monkeypatch):
    plain = PlainPath(tmp_path / "a[b]")
    monkeypatch.setattr(os, "geteuid", lambda: plain.path.lstat().st_uid + 1)
    with pytest.raises(ValueError, match="is another user's now"):
        plain.renew()
    plain.close()


def test_a_link_that_is_cleared_in_mid_run_costs_no_checkpoint(tmp_path, temporary):
    workdir, mesh = tmp_path / "run[1]", sharding.make_mesh(jax.devices()[:1])
    with Checkpointer(str(workdir), 1000) as checkpointer:
        for step in (5, 10):
            checkpointer.save(sharding.put_replicated(make_state(step), mesh), META)
            checkpointer.wait()
            clear(temporary)
        checkpointer.verify()
        restored = checkpointer.restore(abstract(make_state(), mesh), 10)
    tiny.assert_equal(jax.device_get(restored), make_state(10))
    assert steps(workdir) == ["10", "5"] and not list(temporary.iterdir())


def test_a_link_that_cannot_be_made_again_is_named(tmp_path, temporary):
    workdir, mesh = tmp_path / "run[1]", sharding.make_mesh(jax.devices()[:1])
    with Checkpointer(str(workdir), 1000) as checkpointer:
        checkpointer.save(sharding.put_replicated(make_state(5), mesh), META)
        checkpointer.wait()
        shutil.rmtree(temporary)
        expected = (
            r"of step 10 could not be written .*No such file.*set TMPDIR to a folder.*last whole one is of step 5"
        )
        with pytest.raises(CheckpointWriteError, match=expected):
            checkpointer.save(sharding.put_replicated(make_state(10), mesh), META)
    assert steps(workdir) == ["5"]


def wide_state(step):
    """With an array that is large enough to be split."""
    return dataclasses.replace(make_state(step), params={"w": np.arange(2**17, dtype=np.float32).reshape(2, -1)})


PROCESS = """
import os, pathlib, shutil, sys, tempfile

import jax

me, port, workdir, temporary = int(sys.argv[1]), *sys.argv[2:]
os.mkdir(os.path.join(temporary, str(me)))  # as on another host: each process has a temporary folder of its own
tempfile.tempdir = os.path.join(temporary, str(me))
jax.distributed.initialize("127.0.0.1:" + port, 2, me)

from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer
from tests import tiny
from tests.workdir.test_checkpoint import META
from tests.workdir.test_plain_path import wide_state

mesh = sharding.make_mesh(fsdp=2)
with Checkpointer(workdir, 1000) as checkpointer:
    for step in (5, 10):
        checkpointer.save(sharding.put_state(wide_state(step), mesh), META)
        checkpointer.verify()
        if me == 1:
            shutil.rmtree(*pathlib.Path(tempfile.tempdir).iterdir())
with Checkpointer(workdir, 1000) as checkpointer:
    assert checkpointer.step == 10
    restored = checkpointer.restore(sharding.abstract_state(wide_state(10), mesh), 10)
tiny.assert_equal(jax.device_get(sharding.gather(restored, mesh)), wide_state(10))
split = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(restored))
print(jax.process_count(), "processes read", split, "split arrays")
"""


@pytest.mark.slow
def test_two_processes_save_and_restore_through_links_of_their_own(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    workdir = tmp_path / "run[1]"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(number), port, workdir, tmp_path],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (output, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
        assert output.endswith("2 processes read 1 split arrays\n")
    assert steps(workdir) == ["10", "5"]
    # One process reads what the two wrote.
    state, mesh = wide_state(10), sharding.make_mesh(jax.devices()[:1])
    with Checkpointer(str(workdir), 1000) as checkpointer:
        tiny.assert_equal(jax.device_get(checkpointer.restore(abstract(state, mesh), 10)), state)
