"""Joining the processes of a run, and what is said when one is lost; tests/test_processes.py runs them."""

import signal
import subprocess
import types

import jax
import numpy as np
import pytest

from soda_jax.parallel import distributed
from soda_jax.workdir.checkpoint import CheckpointWriteError


@pytest.fixture
def joined(monkeypatch):
    """What JAX was asked for."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    return calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", 2, None), "--process_id: must be given too"),
        ((None, 2, 0), "--coordinator_address: must be given too"),
        ((None, None, 0), "--coordinator_address, --num_processes: must be given too"),
        (("host", 2, 0), "--coordinator_address=host: must be HOST:PORT"),
        ((":8476", 2, 0), "--coordinator_address=:8476: must be HOST:PORT"),
        (("host:port", 2, 0), "must be HOST:PORT"),
        (("host:70000", 2, 0), "must be HOST:PORT"),
        (("host:1", 0, 0), "--num_processes=0: must be at least 1"),
        (("host:1", 2, 2), r"--process_id=2: must lie in 0\.\.1"),
        (("host:1", 2, -1), r"--process_id=-1: must lie in 0\.\.1"),
    ],
)
def test_flags_that_do_not_fit(joined, arguments, message):
    with pytest.raises(ValueError, match=message):
        distributed.initialize(*arguments)
    assert joined == []


def test_what_is_given_is_not_looked_for(joined):
    distributed.initialize("host:1", 3, 1, heartbeat_seconds=17)
    distributed.initialize()
    (explicit, options), (detected, found) = joined
    assert explicit == ("host:1", 3, 1) and detected == (None, None, None)
    # Under Slurm, detection would also hand each process one device only.
    assert options["cluster_detection_method"] == "deactivate" and found["cluster_detection_method"] is None
    assert options["heartbeat_timeout_seconds"] == 17


def test_nothing_around_this_process(monkeypatch):
    def fail(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match="--distributed: found no TPU pod, no Slurm"):
        distributed.initialize()


def test_others_that_never_come(monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(OSError, match=r"did not find each other in 5 s \(coordinator host:1\): DEADLINE_EXCEEDED"):
        distributed.initialize("host:1", 2, 0, connect_seconds=5)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:1"), True),
        (
            jax.errors.JaxRuntimeError("UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats)"),
            True,
        ),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), False),
        (ValueError("Connection closed"), False),
    ],
)
def test_which_errors_mean_a_lost_process(error, lost):
    assert distributed.lost_peer(error) is (error if lost else None)


def test_a_process_lost_while_all_write_a_checkpoint(leave):
    """What the checkpoint says is wrong would send the user to look at a disk that is sound."""
    barrier = jax.errors.JaxRuntimeError("INTERNAL: Barrier failed because: UNAVAILABLE: Task 1 heartbeat timeout.")
    written = CheckpointWriteError("the checkpoint of step 8 could not be written. Mend that (room, permissions)")
    written.__cause__ = barrier
    errors, _ = leave(written, expected=True)
    assert "another process of this run ended or cannot be reached (INTERNAL: Barrier" in errors
    assert "room" not in errors
    written.__cause__ = OSError(28, "No space left on device")
    assert "room" in leave(written, expected=True)[0]


@pytest.fixture
def leave(monkeypatch, capsys):
    """`distributed.leave`, which does not end the tests: what it printed, and the exit code."""

    def left(error, **options):
        try:
            raise error
        except Exception as caught:
            with pytest.raises(SystemExit) as ended:
                distributed.leave(caught, "/runs/a", **options)
        return capsys.readouterr().err, ended.value.code

    def end(code):
        raise SystemExit(code)

    # Else it would end the workers that other tests have left.
    monkeypatch.setattr(distributed.multiprocessing, "active_children", list)
    monkeypatch.setattr(distributed.os, "_exit", end)
    return left


def test_a_lost_process_is_one_line(leave):
    errors, code = leave(jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed\nat line 3"))
    assert code == 1 and len(errors.splitlines()) == 1
    assert "process 0 of 1 stops: another process of this run ended or cannot be reached (UNKNOWN: Gloo" in errors
    assert "go on from the newest whole checkpoint in /runs/a" in errors


def test_a_mistake_is_one_line_and_a_fault_keeps_its_traceback(leave):
    errors, code = leave(ValueError("config.data.name='x': unknown"), expected=True)
    assert (errors, code) == ("error: process 0 of 1: config.data.name='x': unknown\n", 1)
    errors, code = leave(KeyError("latent"))
    assert code == 1 and "Traceback" in errors and errors.endswith("error: process 0 of 1: 'latent'\n")


def test_its_workers_end_too(leave, monkeypatch):
    """Of any library: joblib's have a process number, and a `kill` that fails."""
    worker, ended = subprocess.Popen(["sleep", "600"]), subprocess.Popen(["true"])
    ended.wait()
    children = [types.SimpleNamespace(pid=process.pid) for process in (ended, worker)]
    monkeypatch.setattr(distributed.multiprocessing, "active_children", lambda: children)
    assert leave(ValueError("x"), expected=True)[1] == 1
    assert worker.wait(timeout=30) == -signal.SIGKILL


def test_one_process_is_not_several():
    assert not distributed.is_several()


def test_an_error_is_shared_with_its_cause():
    distributed.share(None, "step 3 is saved")
    error = OSError("the folder is gone")
    with pytest.raises(distributed.SharedError, match=r"process 0 of 1 .* gone \(step 3 is saved\)") as raised:
        distributed.share(error, "step 3 is saved")
    assert raised.value.__cause__ is error


def test_an_error_of_another_process_has_no_cause_here(monkeypatch):
    monkeypatch.setattr(distributed, "is_several", lambda: True)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda has: np.array([False, False, True]))
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(distributed.SharedError, match="process 2 of 3 could not go on") as raised:
        distributed.share(None, "in an evaluation")
    assert raised.value.__cause__ is None
