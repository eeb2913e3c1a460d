"""Measures how fast the data is prepared, and says whether it keeps up with the device.

    python -m soda_jax.tools.benchmark --only=data
    python -m soda_jax.tools.benchmark --only=data --root=DIR
    python -m soda_jax.tools.benchmark --only=data --config=configs/X.py --step_seconds=0.35

The first makes JPEGs of its own and turns each into a source view of 256 px and a target of 128 px, cropped and
flipped, with and without RandAugment; the second does the same to the images below DIR. Where PyTorch and torchvision
are installed, their transforms do the same work beside it. The third measures a config's own pipeline, and compares it
with the seconds that the device takes for a step of it (img/s in training's progress line: batch size / seconds).
"""

import json
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable

import cv2
import PIL
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from tabulate import tabulate

from soda_jax.cli import parse_flags
from soda_jax.tools import data_benchmark
from soda_jax.tools.data_benchmark import Case, Rate

MAX_CONFIG_BATCH = 64  # a larger batch takes longer to measure and tells no more


def data(options: flags.FlagValues, config: ConfigDict | None) -> dict:
    """Prints how fast images become views; returns the same for `--json`."""
    if config is not None:
        return _data_of_config(config, options.step_seconds, options.repeats, options.images)
    obstacle = data_benchmark.why_no_torchvision()
    with tempfile.TemporaryDirectory() as folder:
        cases = _cases(options.root, pathlib.Path(folder), options.images)
        rows = data_benchmark.compare(
            cases,
            images=options.images,
            repeats=options.repeats,
            workers=options.workers,
            torchvision=obstacle is None,
        )
    print(data_table(rows))
    how = f"{options.workers} worker processes, seconds passed" if options.workers else "this process, CPU seconds"
    print(f"Images a second and core: median (lowest-highest) of {options.repeats} runs; {how}.")
    if obstacle:
        print(f"No comparison with torchvision: {obstacle}.")
    return {"rows": [_as_data(row) for row in rows]}


def data_table(rows: list[dict]) -> str:
    """Formats what `data_benchmark.compare` returns."""
    headers = ["images", "augmentation", "soda_jax"]
    compared = all("torchvision" in row for row in rows)
    table = []
    for row in rows:
        augmentation = "crop, flip" + (", RandAugment" if row["randaugment"] else "")
        line = [row["images"], augmentation, str(row["soda_jax"])]
        if compared:
            line += [str(row["torchvision"]), f"{row['soda_jax'].median / row['torchvision'].median:.2f}"]
        table.append(line)
    if compared:
        headers += ["torchvision", "ratio"]
    return tabulate(table, headers, colalign=["left", "left", *["right"] * (len(headers) - 2)], disable_numparse=True)


# What --only chooses from: each takes the flags and the config, prints its report and returns it as data.
PARTS: dict[str, Callable[[flags.FlagValues, ConfigDict | None], dict]] = {"data": data}


def _cases(root: str | None, folder: pathlib.Path, count: int) -> list[Case]:
    if root:
        roots = {root: root}
    else:
        roots = {f"JPEG {width}x{height}": str(folder / f"{width}") for height, width in data_benchmark.SIZES}
        for (height, width), path in zip(data_benchmark.SIZES, roots.values(), strict=True):
            data_benchmark.write_photographs(pathlib.Path(path), min(count, 64), height, width)
    return [Case(name, path, randaugment) for name, path in roots.items() for randaugment in (False, True)]


def _data_of_config(config: ConfigDict, step_seconds: float, repeats: int, images: int) -> dict:
    from soda_jax import build
    from soda_jax.config import validate

    validate(config)
    source, spec = build.source(config, config.data.train_split), build.view_spec(config)
    batch_size = min(config.train.batch_size, MAX_CONFIG_BATCH)
    batches = data_benchmark.soda_batches(source, spec, batch_size, workers=0)
    count = max(1, round(images / batch_size))
    rate = Rate(tuple(data_benchmark.measure(batches, batch_size, count, workers=0) for _ in range(repeats)))
    print(f"{config.data.name}: {rate} images a second and core (median, lowest-highest of {repeats} runs).")
    report = {"dataset": config.data.name, "rate": rate.values}
    if step_seconds:
        cores = min(_available_cores(), config.data.num_workers or 1)
        report["verdict"] = data_benchmark.verdict(rate.median, cores, config.train.batch_size, step_seconds)
        print(f"config.data.num_workers={config.data.num_workers}: {report['verdict']}")
    return report


def _as_data(row: dict) -> dict:
    return {key: list(value.values) if isinstance(value, Rate) else value for key, value in row.items()}


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> dict:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": _available_cores(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }


def _define_flags() -> None:
    flags.DEFINE_enum("only", None, list(PARTS), "What to measure; default: everything.")
    flags.DEFINE_string("root", None, "A folder of images to measure with; default: some made here.")
    flags.DEFINE_integer("images", 256, "Images in a run.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Runs.", lower_bound=1)
    flags.DEFINE_integer("workers", 0, "Worker processes; 0 measures a single core.", lower_bound=0)
    flags.DEFINE_float("step_seconds", 0.0, "With --config: seconds of the device for a step.", lower_bound=0.0)
    flags.DEFINE_string("json", None, "File to write the measurements to, too.")


def main(config: ConfigDict | None) -> None:
    logging.set_verbosity(logging.WARNING)
    options = flags.FLAGS
    if options.step_seconds and config is None:
        sys.exit("error: --step_seconds is of a config's step; add --config.")
    try:
        parts = [options.only] if options.only else list(PARTS)
        report = {"machine": _machine()} | {name: PARTS[name](options, config) for name in parts}
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    flag = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/folder.py.", lock_config=True)
    _define_flags()
    app.run(lambda argv: main(flag.value), flags_parser=parse_flags)
