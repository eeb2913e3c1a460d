"""A run's folder: one training run at a time, and a clear word where it cannot be written."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import time
from collections.abc import Iterator

import jax
from absl import logging

from soda_jax.parallel.distributed import share
from soda_jax.parallel.processes import decided_by_first
from soda_jax.paths import run_folder

LOCK_FILE = "lock"
SIGN = "seen_by_all_"  # of a file that the first process makes, and all must find
SHARED_PATIENCE = 60.0  # seconds for a file to appear on the other hosts
PATIENCE = 10.0  # seconds for a run that was killed to leave the lock
# File systems without locks: some network and user-space ones.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WorkdirInUseError(RuntimeError):
    """Another run trains in this workdir."""


@contextlib.contextmanager
def training_lock(workdir: str, patience: float = PATIENCE) -> Iterator[None]:
    """Holds WORKDIR/lock, which the kernel takes from a process that dies. Makes the folder where it is missing.

    The first process of a run holds the lock for all of them; every process must call this. On a file system
    without locks it warns and goes on.

    Args:
      patience: seconds to wait for another run to end.

    Raises:
      WorkdirInUseError: another run trains here; its process, host and start are named.
      ValueError: the path is blank, of a file, or none at all.
      SharedError: the folder is not the same one for all processes.
      OSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as held:

        def acquire() -> None:
            descriptor = _opened(workdir)
            held.callback(os.close, descriptor)
            _locked(descriptor, workdir, patience)

        decided_by_first(acquire)
        if jax.process_count() > 1:
            _check_shared(workdir)
        yield


@contextlib.contextmanager
def folder_lock(folder: str, patience: float = 0.0) -> Iterator[None]:
    """Holds FOLDER/lock as `training_lock` does, for one process by itself: no device is touched.

    Raises:
      WorkdirInUseError: another process holds it, for longer than `patience` seconds.
      OSError: the folder cannot be written.
    """
    descriptor = _opened(folder)
    try:
        _locked(descriptor, folder, patience)
        yield
    finally:
        os.close(descriptor)


def _check_shared(workdir: str, patience: float = SHARED_PATIENCE) -> None:
    """Raises SharedError on every process if one of them sees another folder: no checkpoint would become whole."""

    def leave_sign() -> int:
        number = secrets.randbelow(2**31)
        (pathlib.Path(workdir) / f"{SIGN}{number}").touch()
        return number

    sign = pathlib.Path(workdir) / f"{SIGN}{decided_by_first(leave_sign)}"
    deadline = time.monotonic() + patience
    while not (seen := sign.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    error = None
    if not seen:
        error = OSError(
            f"workdir={workdir} on {socket.gethostname()} is not the folder of the same name on the first process's "
            "host; put it on a file system that all hosts share"
        )
    try:
        share(error, "nothing was trained")
    finally:
        if jax.process_index() == 0:
            sign.unlink(missing_ok=True)


def _opened(workdir: str) -> int:
    path = pathlib.Path(run_folder(workdir)) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not inherited by programs that this one starts, which would hold the lock after its end.
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"workdir={workdir} cannot be written ({error.strerror}): make it writable, or use another --workdir",
        ) from error


def _locked(descriptor: int, workdir: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise WorkdirInUseError(
                    f"workdir={workdir} is in use by {_holder(descriptor)}: end that run first, or use another "
                    "--workdir"
                ) from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logging.warning("%s is on a file system without locks: take care that no second run uses it", workdir)
            break
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 1 << 16, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # between its lock and its entry
        return "another run"


def explain_write_error(error: OSError, workdir: str) -> str | None:
    """What to do about a full disk, or a workdir that became read-only; None for other errors."""
    again = "then run the same command again: it resumes from the last whole checkpoint"
    if error.errno in _FULL:
        return f"no room to write in workdir={workdir} ({error.strerror}): free some, {again}"
    if error.errno == errno.EROFS:
        return f"workdir={workdir} cannot be written any more ({error.strerror}): make it writable, {again}"
    return None
