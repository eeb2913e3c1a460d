"""Tells scripts whether a training run came to its end: exit code 0 if it did, 1 if not.

python -m soda_jax.tools.finished --workdir=DIR [--wait_seconds=30]

Its end is its last step, or where it had not improved for config.train.patience steps. A run that is stopped by a
signal saves and ends with 0 as well, so a launcher needs this to know whether to go on.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from soda_jax.paths import run_folder
from soda_jax.workdir.run_record import is_finished


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument(
        "--wait_seconds",
        type=float,
        default=10.0,
        help="for the record to appear: shared file systems take their time (default: 10)",
    )
    options = parser.parse_args(argv)
    try:
        workdir = run_folder(options.workdir, "--workdir")
    except ValueError as error:
        parser.error(str(error))
    deadline = time.monotonic() + options.wait_seconds
    while not is_finished(workdir):
        if time.monotonic() >= deadline:
            sys.exit(1)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
