"""Tells scripts whether a training run came to its last step: exit code 0 if it did, 1 if not.

python -m soda_jax.tools.finished --workdir=DIR [--wait_seconds=30]

A run that is stopped by a signal saves and ends with 0 as well, so a launcher needs this to know whether to go on.
"""

import sys
import time

from absl import app, flags

from soda_jax.run_record import read_sessions

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_WAIT = flags.DEFINE_float("wait_seconds", 10.0, "For the record to appear: shared file systems take their time.", 0)


def is_finished(workdir: str) -> bool:
    """Whether the last session of WORKDIR/run.json came to its end."""
    sessions = read_sessions(workdir)
    return bool(sessions) and sessions[-1].get("finished") is True


def main(argv: list[str]) -> None:
    deadline = time.monotonic() + _WAIT.value
    while not is_finished(_WORKDIR.value):
        if time.monotonic() >= deadline:
            sys.exit(1)
        time.sleep(0.5)


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main)
