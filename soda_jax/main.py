"""Command line: `python -m soda_jax.main --config=configs/X.py --workdir=DIR [--mode=train|evaluate|sample]`."""

import os
import sys

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from soda_jax.cli import parse_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/quickstart.py.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and images; running again resumes.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "sample"], "What to do.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Call jax.distributed.initialize() (several hosts).")
_CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "Devices that a CPU is split into; 0 is one a core.", 0)


def cpu_devices(config: ConfigDict, cores: int) -> int:
    """The most devices, up to `cores`, that a microbatch of `config` divides over."""
    microbatch = config.train.batch_size // max(config.train.grad_accum_steps, 1)
    return max(
        count for count in range(1, max(cores, 1) + 1) if count == 1 or (microbatch > 0 and microbatch % count == 0)
    )


def run(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)  # the libraries report every file they write
    try:
        _act(_CONFIG.value, os.path.abspath(os.path.expanduser(_WORKDIR.value)))
    except (ValueError, OSError, RuntimeError) as error:
        # A user's mistake ends with its message; a fault of ours keeps its traceback.
        if type(error).__module__.startswith("jax") or os.environ.get("SODA_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {error}\n(SODA_JAX_TRACEBACK=1 shows where)")


def _act(config: ConfigDict, workdir: str) -> None:
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    else:
        # On CPU one device a core is faster than one device with all cores; on GPU and TPU it changes nothing.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value or cpu_devices(config, cores))
    jax.config.update("jax_compilation_cache_dir", os.path.join(workdir, "compilation_cache"))
    if _MODE.value == "train":
        from soda_jax.train import train as action
    elif _MODE.value == "evaluate":
        from soda_jax.evaluate import evaluate as action
    else:
        from soda_jax.sample import sample as action
    action(config, workdir)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(run, flags_parser=parse_flags)
