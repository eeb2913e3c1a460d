"""Command line: `python -m soda_jax.main --config=configs/X.py --workdir=DIR [--mode=train|evaluate|sample]`."""

import os
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/quickstart.py.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and images; running again resumes.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "sample"], "What to do.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Call jax.distributed.initialize() (several hosts).")
_CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "Devices that a CPU is split into; 0 is one a core.")


def _use_cpu_cores(batch_multiple: int) -> None:
    """On CPU one device a core is faster than one device with all cores; it changes nothing on GPU and TPU."""
    cores = _CPU_DEVICES.value or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
    while batch_multiple % cores:
        cores -= 1
    jax.config.update("jax_num_cpu_devices", cores)


def run(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    config, workdir = _CONFIG.value, os.path.abspath(os.path.expanduser(_WORKDIR.value))
    logging.set_verbosity(logging.WARNING)  # the libraries report every file they write
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    else:
        accumulation = max(config.train.grad_accum_steps, 1)
        _use_cpu_cores(max(config.train.batch_size // accumulation, 1))
    jax.config.update("jax_compilation_cache_dir", os.path.join(workdir, "compilation_cache"))
    if _MODE.value == "train":
        from soda_jax.train import train as action
    elif _MODE.value == "evaluate":
        from soda_jax.evaluate import evaluate as action
    else:
        from soda_jax.sample import sample as action
    try:
        action(config, workdir)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        # A user's mistake ends with its message; a fault of ours keeps its traceback.
        if type(error).__module__.startswith("jax") or os.environ.get("SODA_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a wrong config file or field ends with one line instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}\nRun with --helpshort to see the flags.")
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(run, flags_parser=_parse)
