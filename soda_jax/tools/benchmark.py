"""Measures how fast a config trains, encodes, samples and loads its data, apart and together.

    python -m soda_jax.tools.benchmark --config=NAME --config.data.root=DIR --json=speed.json
    python -m soda_jax.tools.benchmark --config=NAME --only=train --batch_sizes=256,512,1024
    python -m soda_jax.tools.benchmark --config=NAME --only=torch --torch_python=OTHER_ENVIRONMENT/bin/python
    python -m soda_jax.tools.benchmark --only=data

  part     what is measured
  train    training steps on a batch that stays on the device; what EMA, online probe and gradient norms add
  encode   latents of batches from the host
  sample   whole walks, and the bare denoiser called on as many images as a step shows it
  data     the pipeline alone; without --config that of JPEGs made here, beside torchvision's where it is installed
  loop     the whole loop on the config's data beside training steps alone: input wait, logging, checkpoints
  torch    training steps beside those of a PyTorch model of the same size, in turn

Every figure is the median of --repeats runs with the lowest and the highest, all programs of a part measured in turn;
compilation is warmed up and counted apart. Utilisation is of the chip's bfloat16 peak, where that is known. Parts whose
data or libraries are missing are left out with the reason, unless --only asks for them.
"""

import json
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import Any

import cv2
import jax
import PIL
from absl import app, flags, logging
from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax import build
from soda_jax.cli import available_cores, cpu_devices, define_config_flag, parse_flags
from soda_jax.config import validate
from soda_jax.models.capabilities import NOISE, require
from soda_jax.parallel.processes import check_platform
from soda_jax.paths import output_file
from soda_jax.performance import data_report, loop_benchmark, step_benchmark, torch_benchmark
from soda_jax.performance.step_benchmark import Row
from soda_jax.performance.timing import Timing
from soda_jax.workdir import provenance

Options = flags.FlagValues


def train(options: Options, config: ConfigDict) -> dict[str, Any]:
    """Training steps at the config's batch size, or at each of --batch_sizes."""
    bench = _bench(options, config)
    sizes = [int(size) for size in options.batch_sizes] or [config.train.batch_size]
    found: dict[str, Any] = {"rows": []}
    for size in sizes:
        try:
            measured = step_benchmark.train(bench, size, extras=len(sizes) == 1)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"batch {size}: out of memory")
            continue
        found["rows"].append(measured["row"])
        found |= {key: measured[key] for key in ("extras",) if key in measured}
    print(speed_table(found["rows"]))
    if "extras" in found:
        print(f"EMA, online probe and gradient norms: {found['extras']:.1%} of a step.")
    return found


def encode(options: Options, config: ConfigDict) -> dict[str, Any]:
    """Encoding at `config.eval.batch_size`."""
    rows = [step_benchmark.encode(_bench(options, config))]
    print(speed_table(rows))
    return {"rows": rows}


def sample(options: Options, config: ConfigDict) -> dict[str, Any]:
    """Sampling at `config.sampling.batch_size`."""
    bench = _bench(options, config)
    require(bench.inference.model, NOISE, "--only=sample")
    found = step_benchmark.sample(bench, options.sampling_steps or config.sampling.num_steps)
    rows = [found["row"], found["denoiser"]]
    print(speed_table(rows))
    print(f"A sampling step costs {found['over_denoiser']:+.1%} over the bare denoiser's call, image by image.")
    return {"rows": rows, "over_denoiser": found["over_denoiser"]}


def loop(options: Options, config: ConfigDict) -> dict[str, Any]:
    """The training loop beside its steps alone."""
    dataset = build.dataset(config, config.data.train_split)
    found = loop_benchmark.measure(config, dataset, options.repeats, options.seconds)
    print(loop_table(config, found))
    return {key: list(value.values) if isinstance(value, Timing) else value for key, value in found.items()}


def torch(options: Options, config: ConfigDict) -> dict[str, Any]:
    """Training steps beside PyTorch's."""
    bench = _bench(options, config)
    found = torch_benchmark.compare(bench, options.torch_python or sys.executable)
    print(speed_table(found["rows"]))
    print(f"{found['ratio']:.2f} times the images/s of PyTorch {found['torch']}, the median over pairs of runs.")
    return found


def speed_table(rows: list[Row]) -> str:
    """Formats `Row`s; columns that no row fills are left out."""
    headers = ["", "batch", "seconds a call", "images/s", "GFLOP/s", "utilisation", "GiB", "compiled in s"]
    table = [
        [
            row.name,
            row.batch,
            str(row.timing),
            f"{row.rate:,.1f}" if row.rate < 1000 else f"{row.rate:,.0f}",
            f"{row.flops_per_second / 1e9:,.0f}" if row.flops else None,
            None if row.utilisation is None else f"{row.utilisation:.1%}",
            None if row.memory is None else f"{row.memory / 2**30:.1f}",
            f"{row.compile_seconds:.0f}" if row.compile_seconds else None,
        ]
        for row in rows
    ]
    kept = [i for i in range(len(headers)) if any(line[i] is not None for line in table)]
    table = [["" if line[i] is None else line[i] for i in kept] for line in table]
    align = ["left", *["right"] * (len(kept) - 1)]
    return tabulate(table, [headers[i] for i in kept], colalign=align, disable_numparse=True)


def loop_table(config: ConfigDict, found: dict[str, Any]) -> str:
    """Formats what `loop_benchmark.measure` returns."""
    size = config.train.batch_size
    rows = [
        ["the loop, seconds a step", str(found["loop"]), f"{size / found['loop'].median:,.1f} images/s"],
        ["its steps alone", str(found["resident"]), f"{size / found['resident'].median:,.1f} images/s"],
        ["the loop adds", f"{found['loop_overhead']:.1%}", "input, transfer, dispatch, logging when due"],
        ["waiting for input", f"{found['input_wait']:.1%}", "of the loop's time; the device may be busy meanwhile"],
        [
            "logging",
            f"{found['logging']:.2%}",
            f"{found['logging_seconds']:.3g} s every {config.train.log_every} steps",
        ],
        [
            "checkpoints",
            f"{found['checkpoints']:.2%}",
            f"{found['checkpoint_seconds']:.3g} s every {config.train.checkpoint_every} steps, of them "
            f"{found['checkpoint_blocked_seconds']:.3g} s at a standstill",
        ],
    ]
    return tabulate(rows, ["", "of a step", ""], colalign=["left", "right", "left"], disable_numparse=True)


# What --only chooses from: each takes the flags and the config, prints its report and returns it as data.
PARTS: dict[str, Callable[[Options, Any], dict[str, Any]]] = {
    "train": train,
    "encode": encode,
    "sample": sample,
    "data": data_report.data,
    "loop": loop,
    "torch": torch,
}


def _bench(options: Options, config: ConfigDict) -> step_benchmark.Bench:
    return step_benchmark.Bench(config, options.repeats, options.seconds)


def _machine() -> dict[str, Any]:
    hardware = provenance.hardware()
    versions = {"python": platform.python_version(), "opencv": cv2.__version__, "pillow": PIL.__version__}
    return hardware | {"cores": hardware["cpu_count"]} | versions | provenance.versions()


def _as_data(report: Any) -> Any:
    if isinstance(report, Row):
        return report.as_data()
    if isinstance(report, dict):
        return {key: _as_data(value) for key, value in report.items()}
    return [_as_data(value) for value in report] if isinstance(report, list) else report


def _define_flags() -> None:
    flags.DEFINE_enum("only", None, list(PARTS), "What to measure; default: everything that can be.")
    flags.DEFINE_integer("repeats", 5, "Runs.", lower_bound=1)
    flags.DEFINE_float("seconds", 1.0, "That a run of a program lasts at least.", lower_bound=0.0)
    flags.DEFINE_list("batch_sizes", [], "train: batch sizes to try; default: the config's.")
    flags.DEFINE_integer("sampling_steps", 0, "sample: steps of a walk; 0: the config's.", lower_bound=0)
    flags.DEFINE_string("torch_python", None, "torch: the Python that has PyTorch; default: this one.")
    flags.DEFINE_integer("cpu_devices", 0, "Devices that a CPU is split into; 0 is one a core.", lower_bound=0)
    flags.DEFINE_string("root", None, "data: a folder of images to measure with; default: some made here.")
    flags.DEFINE_integer("images", 256, "data: images in a run.", lower_bound=1)
    flags.DEFINE_integer("workers", 0, "data: worker processes; 0 measures a single core.", lower_bound=0)
    flags.DEFINE_float("step_seconds", 0.0, "data: with --config, seconds of the device for a step.", lower_bound=0.0)
    flags.DEFINE_string("json", None, "File to write the measurements to, too.")


def main(config: ConfigDict | None) -> None:
    logging.set_verbosity(logging.WARNING)
    options = flags.FLAGS
    parts = [options.only] if options.only else list(PARTS) if config is not None else ["data"]
    if config is None and (options.step_seconds or parts != ["data"]):
        sys.exit(f"error: {'--step_seconds' if options.step_seconds else f'--only={options.only}'} needs --config")
    try:
        file = output_file(options.json, "--json") if options.json else None
        if config is not None:  # before anything asks for the devices
            jax.config.update("jax_num_cpu_devices", options.cpu_devices or cpu_devices(config, available_cores()))
        check_platform()
        if config is not None:
            validate(config, jax.device_count())
        report = {"machine": _machine()} | _measure(parts, options, config)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if file:
        pathlib.Path(file).write_text(json.dumps(_as_data(report), indent=2) + "\n")


def _measure(parts: list[str], options: Options, config: ConfigDict | None) -> dict[str, Any]:
    report = {}
    for name in parts:
        print(f"\n{name}", flush=True)
        try:
            report[name] = PARTS[name](options, config)
        except (ValueError, OSError) as error:
            if options.only:
                raise
            print(f"not measured: {error}")
    return report


if __name__ == "__main__":
    flag = define_config_flag()
    _define_flags()
    app.run(lambda argv: main(flag.value), flags_parser=parse_flags)
