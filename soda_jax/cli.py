"""What the command lines share."""

import os
import sys

from absl import flags
from ml_collections import ConfigDict


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a wrong config file or field ends with one line instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}\nRun with --helpshort to see the flags.")
    except (AttributeError, KeyError) as error:  # from an override, --config.FIELD=VALUE
        name = str(error.args[0]).replace("\\n", ". ").translate({ord(c): None for c in "\\'\""})
        sys.exit(f"error: the config has no field {name}")
    except SyntaxError as error:
        sys.exit(f"error: {error.filename}, line {error.lineno} is no Python: {error.msg}")
    except (TypeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_devices(config: ConfigDict, cores: int) -> int:
    """The most devices, up to `cores`, that a microbatch of `config` divides over.

    One device a core trains faster than one device with all cores.
    """
    microbatch = config.train.batch_size // max(config.train.grad_accum_steps, 1)
    return max(
        count for count in range(1, max(cores, 1) + 1) if count == 1 or (microbatch > 0 and microbatch % count == 0)
    )
