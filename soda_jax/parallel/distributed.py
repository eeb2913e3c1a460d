"""Several processes as one run, on JAX's distributed runtime: start-up, and a clear end when one of them is lost.

Nothing here may touch a device before `initialize`.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT_SECONDS = 60  # after which a silent process counts as dead and ends the others
CONNECT_SECONDS = 300  # for every process to start
# What JAX's runtime, Gloo and NCCL say when a collective's other end is gone.
_LOST_PEER = ("gloo", "connection closed", "connection reset", "heartbeat", "coordination", "unavailable", "nccl")


class SharedError(RuntimeError):
    """An error that all processes of the run raise at the same point, so that none is left waiting for another.

    Its cause is this process's own error, if it has one.
    """


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    connect_seconds: int = CONNECT_SECONDS,
) -> None:
    """Joins this process to the run; returns when all have come.

    Without arguments the surroundings tell who takes part: a TPU pod, Slurm, Open MPI, or Kubernetes (with the package
    `kubernetes`).

    Args:
      coordinator_address: "HOST:PORT" of process 0, at which the others find it.
      num_processes, process_id: how many there are, and which of them this is, from 0.
      heartbeat_seconds: after which a process that is not heard of ends the run.
      connect_seconds: for all to come.

    Raises:
      ValueError: arguments that do not fit together, or nothing given and nothing detected.
      OSError: the others did not come in time.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    explicit = len(missing) < len(given)
    if explicit:
        _check(given, missing)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=connect_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except ValueError as error:
        raise ValueError(
            "--distributed: found no TPU pod, no Slurm, Open MPI or Kubernetes job around this process; give "
            "--coordinator_address=HOST:PORT, --num_processes=N and --process_id=0..N-1"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise OSError(
            f"the processes of this run did not find each other in {connect_seconds} s (coordinator "
            f"{coordinator_address or 'as detected'}): {_first_line(error)}. Start all of them, with the same "
            "--coordinator_address, a port that is free on process 0's host, and no proxy or firewall between them"
        ) from error


def _check(given: dict[str, str | int | None], missing: list[str]) -> None:
    if missing:
        raise ValueError(f"{', '.join(missing)}: must be given too, as {', '.join(given)} belong together")
    address, count, number = given.values()
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator_address={address}: must be HOST:PORT, e.g. 10.0.0.2:8476")
    if count < 1:
        raise ValueError(f"--num_processes={count}: must be at least 1")
    if not 0 <= number < count:
        raise ValueError(f"--process_id={number}: must lie in 0..{count - 1}, below --num_processes")


def share(error: Exception | None, where: str) -> None:
    """Raises SharedError in every process if any of them has an `error` to share; all must call this.

    Args:
      where: it happened, or how things stand, for the message.
    """
    has = np.array(error is not None)
    failed = np.flatnonzero(multihost_utils.process_allgather(has) if is_several() else has)
    if failed.size == 0:
        return
    number = failed[0] if error is None else jax.process_index()
    said = "could not go on" if error is None else f"could not go on: {error}"
    raise SharedError(f"process {number} of {jax.process_count()} {said} ({where})") from error


def is_several() -> bool:
    """Whether this process is one of several; starts no backend."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def lost_peer(error: BaseException) -> BaseException | None:
    """What says that another process of the run is gone: `error` itself or a cause of it; None if this one failed."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            break
        if isinstance(found, jax.errors.JaxRuntimeError) and any(sign in str(found).lower() for sign in _LOST_PEER):
            return found
        found = found.__cause__
    return None


def leave(error: BaseException, workdir: str, *, expected: bool = False) -> NoReturn:
    """Ends this process of several at once, saying why.

    An ordinary exit would first wait for the others, minutes long, at the runtime's shutdown barrier and at that of a
    checkpoint which can no longer become whole.

    Args:
      error: what ended the work.
      workdir: where the run can go on.
      expected: a user's mistake, whose message suffices; otherwise the traceback is printed as well.
    """
    me = f"process {jax.process_index()} of {jax.process_count()}"
    if lost := lost_peer(error):
        print(
            f"error: {me} stops: another process of this run ended or cannot be reached ({_first_line(lost)}). "
            f"Start all processes again, in any number: they go on from the newest whole checkpoint in {workdir}",
            file=sys.stderr,
        )
    else:
        if not expected:
            traceback.print_exception(error)
        print(f"error: {me}: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():  # the data's workers, which an ordinary exit would end
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)  # joblib's have no `kill`
    os._exit(1)


def _first_line(error: BaseException, length: int = 160) -> str:
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= length else line[: length - 3] + "..."
