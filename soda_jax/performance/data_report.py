"""The report on the data pipeline: how fast images become views, and whether that keeps up with the device."""

import pathlib
import tempfile
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax import build
from soda_jax.cli import available_cores
from soda_jax.config import validate
from soda_jax.performance import data_benchmark
from soda_jax.performance.data_benchmark import Case, Rate

MAX_CONFIG_BATCH = 64  # a larger batch takes longer to measure and tells no more


def data(options: flags.FlagValues, config: ConfigDict | None) -> dict[str, Any]:
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


def _cases(root: str | None, folder: pathlib.Path, count: int) -> list[Case]:
    if root:
        roots = {root: root}
    else:
        roots = {f"JPEG {width}x{height}": str(folder / f"{width}") for height, width in data_benchmark.SIZES}
        for (height, width), path in zip(data_benchmark.SIZES, roots.values(), strict=True):
            data_benchmark.write_photographs(pathlib.Path(path), min(count, 64), height, width)
    return [Case(name, path, randaugment) for name, path in roots.items() for randaugment in (False, True)]


def _data_of_config(config: ConfigDict, step_seconds: float, repeats: int, images: int) -> dict[str, Any]:
    validate(config)
    dataset, spec = build.dataset(config, config.data.train_split), build.view_spec(config)
    batch_size = min(config.train.batch_size, MAX_CONFIG_BATCH)
    batches = data_benchmark.soda_batches(dataset, spec, batch_size, workers=0)
    count = max(1, round(images / batch_size))
    rate = Rate(tuple(data_benchmark.measure(batches, batch_size, count, workers=0) for _ in range(repeats)))
    print(f"{config.data.name}: {rate} images a second and core (median, lowest-highest of {repeats} runs).")
    report = {"dataset": config.data.name, "rate": rate.values}
    if step_seconds:
        cores = min(available_cores(), config.data.num_workers or 1)
        report["verdict"] = data_benchmark.verdict(rate.median, cores, config.train.batch_size, step_seconds)
        print(f"config.data.num_workers={config.data.num_workers}: {report['verdict']}")
    return report


def _as_data(row: dict) -> dict[str, Any]:
    return {key: list(value.values) if isinstance(value, Rate) else value for key, value in row.items()}
