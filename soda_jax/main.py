"""Command line: `python -m soda_jax.main --config=NAME --workdir=DIR [--mode=train|evaluate|sample|plan]`."""

import os
import signal
import sys

from soda_jax.performance import quiet

with quiet.loading(quiet.is_plan(sys.argv)):  # importing jax loads a CUDA plugin where one is installed
    import jax

from absl import app, flags, logging
from ml_collections import ConfigDict

from soda_jax.cli import available_cores, cpu_devices, define_config_flag, given_fields, parse_flags, parse_step
from soda_jax.config import variants
from soda_jax.parallel import distributed
from soda_jax.parallel.processes import check_platform
from soda_jax.paths import run_folder
from soda_jax.workdir.lock import explain_write_error

_CONFIG = define_config_flag()
_VARIANT = flags.DEFINE_string(
    "variant", None, "A model or training of the paper's tables, as 'w/o bottleneck'; explicit --config.FIELDs win."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and images; running again resumes.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "sample", "plan"], "What to do.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, of a TPU pod or a Slurm, MPI or Kubernetes job."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where nothing tells it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run, where nothing tells it.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which process this is, 0..num_processes-1.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", distributed.HEARTBEAT_SECONDS, "Silence after which a process counts as dead.", 10
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Devices that a CPU is split into; 0 is one a core, or one in each of several processes.", 0
)
_PROFILE_STEPS = flags.DEFINE_integer(
    "profile_steps", 0, "--mode=train: write a trace of so many steps to WORKDIR/profile.", 0
)
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    "",
    "--mode=train: what a new run takes its first weights from: a run's folder, an export's, or what else "
    "soda_jax.load takes.",
)
_STEP = flags.DEFINE_string(
    "step",
    None,
    "--mode=evaluate or sample: a checkpoint's step, or best (config.train.monitor); else the newest.",
)
_MODEL = flags.DEFINE_string(
    "model",
    "",
    "--mode=evaluate or sample: in place of a checkpoint in WORKDIR, a model that comes along, an export, or what else "
    "soda_jax.load takes; its figures and pictures go to WORKDIR.",
)
_PLAN_DEVICES = flags.DEFINE_list("plan_devices", ["8"], "--mode=plan: numbers of simulated devices, as 8,64,256.")
_PLAN_TOPOLOGY = flags.DEFINE_list(
    "plan_topology", [], "--mode=plan: GPUs or TPU slices, which need not be here, to compile for, as h100:8,v5e:4x8."
)

_PLAN_OF = flags.DEFINE_list(
    "plan_of", ["train"], "--mode=plan: of the training step (train), of encoding and sampling (inference), or both."
)
_PLAN_QUICKLY = flags.DEFINE_bool(
    "plan_quickly",
    False,
    "--mode=plan: compile for TPUs with little effort, in minutes; memory is then an upper bound.",
)


def run(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)  # the libraries report every file they write
    try:
        workdir = run_folder(_WORKDIR.value, "--workdir")
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        _act(variants.chosen(_CONFIG.value, _VARIANT.value, given_fields()), workdir)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # A user's mistake ends with its message; a fault of ours keeps its traceback.
        shared = isinstance(error, distributed.SharedError)
        cause = error.__cause__ if shared and error.__cause__ is not None else error
        mistake = isinstance(cause, (ValueError, OSError, RuntimeError)) and not (
            type(cause).__module__.startswith("jax") or os.environ.get("SODA_JAX_TRACEBACK")
        )
        if distributed.is_several() and not shared:
            distributed.leave(error, workdir, expected=mistake)
        if not mistake:
            raise
        explained = explain_write_error(error, workdir) if isinstance(error, OSError) else None
        sys.exit(f"error: {explained or error}\n(SODA_JAX_TRACEBACK=1 shows where)")


def _act(config: ConfigDict, workdir: str) -> None:
    if _STEP.value is not None and _MODE.value not in ("evaluate", "sample"):
        raise ValueError(f"--step={_STEP.value}: --mode={_MODE.value} takes none; leave it out")
    if _MODEL.value and _MODE.value not in ("evaluate", "sample"):
        hint = "; --init_from trains it on" if _MODE.value == "train" else ""
        raise ValueError(f"--model={_MODEL.value}: --mode={_MODE.value} takes none; leave it out{hint}")
    if _INIT_FROM.value and _MODE.value != "train":
        raise ValueError(f"--init_from={_INIT_FROM.value}: --mode={_MODE.value} takes none; leave it out")
    if _MODE.value == "plan":
        _plan(config, workdir)
        return
    explicit = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _DISTRIBUTED.value or any(value is not None for value in explicit):
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value or 1)
        distributed.initialize(*explicit, heartbeat_seconds=_HEARTBEAT.value)
        if _MODE.value != "train":  # JAX catches it for those who ask it, and only training does
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    else:
        # On CPU one device a core is faster than one device with all cores; on GPU and TPU it changes nothing.
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value or cpu_devices(config, available_cores()))
    _keep_programs(workdir)
    check_platform()
    if _MODE.value == "train":
        from soda_jax.training.loop import train

        train(config, workdir, _PROFILE_STEPS.value, _INIT_FROM.value)
        return
    if _MODE.value == "evaluate":
        from soda_jax.evaluation.evaluate import evaluate as action
    else:
        from soda_jax.inference.sample import sample as action
    step, weights = _step(), None
    if _MODEL.value:
        from soda_jax.given import given_weights

        weights = given_weights(_MODEL.value, config, workdir, step)
    action(config, workdir, step=step, weights=weights)


def _keep_programs(workdir: str) -> None:
    """Compiled programs are kept in the workdir, or where the user's JAX_COMPILATION_CACHE_DIR says."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.join(workdir, "compilation_cache"))


def _step() -> int | str | None:
    """The checkpoint that --step names."""
    return None if _STEP.value is None else parse_step(_STEP.value, "a checkpoint's step, or best")


def _plan(config: ConfigDict, workdir: str) -> None:
    """Compiles for devices that are not here; a chip that is has nothing to do."""
    counts = [] if _PLAN_TOPOLOGY.value else [int(text) for text in _PLAN_DEVICES.value if text.isdigit()]
    if not _PLAN_TOPOLOGY.value and (len(counts) < len(_PLAN_DEVICES.value) or min(counts, default=0) < 1):
        raise ValueError(f"--plan_devices={','.join(_PLAN_DEVICES.value)}: must be positive numbers, as 8,64,256")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(counts, default=1))
    if _PLAN_TOPOLOGY.value:  # a program for a chip that is not here can be written, but not read again
        jax.config.update("jax_enable_compilation_cache", False)
    else:
        _keep_programs(workdir)
    from soda_jax.performance.plan import plan
    from soda_jax.performance.plan_inference import plan_inference

    plans = {"train": (plan, "plan.json"), "inference": (plan_inference, "plan_inference.json")}
    if not _PLAN_OF.value or not set(_PLAN_OF.value) <= set(plans):
        raise ValueError(f"--plan_of={','.join(_PLAN_OF.value)}: give train, inference, or both with a comma between")
    for part in _PLAN_OF.value:
        make, name = plans[part]
        make(config, counts, _PLAN_TOPOLOGY.value, os.path.join(workdir, name), quickly=_PLAN_QUICKLY.value)


def main() -> None:
    """The command."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(run, flags_parser=parse_flags)


if __name__ == "__main__":
    main()
