"""--plan: what a study will take, by a few steps and one evaluation of each row on the machine at hand."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from soda_jax.reporting.facts import duration
from soda_jax.studies.running import MEASURE, PROGRAM, TRAIN, Runner
from soda_jax.studies.runs import Run, read_marker
from soda_jax.workdir.checkpoint import KEPT

FILE = "plan.json"  # in the study's folder
SCRATCH = "plan"
STEPS = 20


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run of a row takes.

    Attributes:
      images_per_second: of training.
      train, measure: seconds.
      disk: bytes.
    """

    images_per_second: float
    train: float
    measure: float
    disk: int

    @property
    def seconds(self) -> float:
        return self.train + self.measure


def measure(
    folder: pathlib.Path,
    runs: Sequence[Run],
    *,
    steps: int = STEPS,
    jobs: int = 1,
    gpus: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
    tell: Callable[[str], None] = print,
    started: Callable[[Runner], None] = lambda runner: None,
) -> tuple[dict[str, Cost], dict[str, str], bool]:
    """Trains each row for `steps` steps in DIR/plan, measures it there, and removes that folder.

    Args:
      runs: all of the study's, of which the first seed is measured.
      started: gets the runner, to stop it.

    Returns:
      (cost of a run by row, what failed by row, whether it was stopped before its end).
    """
    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a plan that was cut short
    small = [_shortened(run, folder, scratch, steps) for run in runs if run.seed == runs[0].seed]
    runner = Runner(scratch, small, jobs=jobs, gpus=gpus, program=program, tell=tell)
    started(runner)
    outcome = runner.run()
    whole = {run.row.name: run for run in reversed(runs)}
    costs = {run.row.name: _cost(run, whole[run.row.name], steps) for run in small if run.is_done}
    failed = {run.row.name: outcome.failed[run.name] for run in small if run.name in outcome.failed}
    shutil.rmtree(scratch, ignore_errors=True)
    found = {row: dataclasses.asdict(cost) | {"seconds": cost.seconds} for row, cost in costs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps({"steps": steps, "rows": found}, indent=1) + "\n", encoding="utf-8")
    return costs, failed, outcome.stopped


def expected(folder: pathlib.Path) -> dict[str, float]:
    """Seconds that a run of each row takes by DIR/plan.json; {} where nothing was planned."""
    try:
        rows = json.loads((folder / FILE).read_text(encoding="utf-8"))["rows"]
        return {row: float(cost["seconds"]) for row, cost in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _shortened(run: Run, folder: pathlib.Path, scratch: pathlib.Path, steps: int) -> Run:
    """The same run for `steps` steps, elsewhere."""
    fields: dict[str, Any] = {
        "train.num_steps": steps,
        "train.log_every": max(steps // 4, 1),
        "train.eval_every": steps,
        "train.checkpoint_every": steps,
        "optim.schedule": "constant",  # a cosine would want its warm-up to fit
    }
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    kept = [flag for flag in run.arguments if flag.removeprefix("--config.").partition("=")[0] not in fields]
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(fields)

    def moved(path: pathlib.Path) -> pathlib.Path:
        return scratch / path.relative_to(folder)

    source = None if run.source is None else moved(run.source)
    return dataclasses.replace(run, folder=moved(run.folder), arguments=(*kept, *flags), config=config, source=source)


def _cost(small: Run, whole: Run, steps: int) -> Cost:
    seconds: Mapping[str, float] = read_marker(small.folder).get("seconds") or {}
    measured = sum(value for stage, value in seconds.items() if stage != TRAIN)
    if small.source is not None:
        return Cost(0.0, 0.0, measured, _size(small.folder, links=False))
    rate = _rate(small.folder)
    config = whole.config
    start = max(seconds.get(TRAIN, 0.0) - steps * config.train.batch_size / rate, 0.0)  # compilation, one evaluation
    trained = start + config.train.num_steps * config.train.batch_size / rate
    checkpoint = _size(small.folder / "checkpoints")
    kept = KEPT + config.train.num_steps // config.train.keep_every + (1 if config.train.monitor else 0)
    return Cost(rate, trained, seconds.get(MEASURE, 0.0), _size(small.folder) + (kept - 1) * checkpoint)


def _rate(folder: pathlib.Path) -> float:
    """Images per second that the last steps of a run had."""
    rates = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        rate = json.loads(line).get("images_per_second")
        rates += [float(rate)] if rate else []
    if not rates:
        raise ValueError(f"{folder}/metrics.jsonl has no images_per_second: plan with more --plan_steps")
    return rates[-1]


def _size(folder: pathlib.Path, *, links: bool = True) -> int:
    """Bytes of all files below a folder; of a linked folder only if asked for."""
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and (links or "checkpoints" not in path.parts)
    )


def table(runs: Sequence[Run], costs: Mapping[str, Cost], parameters: Mapping[str, int], jobs: int) -> str:
    """What the runs that are not done yet will take: a line for each row, and the whole."""
    lines, total, disk, count = [], 0.0, 0, 0
    for row in dict.fromkeys(run.row.name for run in runs):
        left = [run for run in runs if run.row.name == row and not run.is_done]
        cost, size = costs.get(row), parameters.get(row)
        told = f"{size / 1e6:.2f}M" if size else "-"
        if cost is None:
            lines.append([row, len(left), told, "failed", "", "", "", ""])
            continue
        whole = len(left) * cost.seconds
        total, disk, count = total + whole, disk + len(left) * cost.disk, count + len(left)
        rate = f"{cost.images_per_second:,.1f}" if cost.images_per_second else "-"
        times = [duration(cost.train), duration(cost.measure), duration(whole)]
        lines.append([row, len(left), told, rate, *times, f"{len(left) * cost.disk / 2**20:,.0f} MiB"])
    headers = ["row", "runs", "parameters", "images/s", "training", "measuring", "all its runs", "disk"]
    columns = ("left", *["right"] * (len(headers) - 1))
    found = tabulate(lines, headers, colalign=columns, disable_numparse=True)
    hours = total / min(jobs, max(count, 1)) / 3600
    at_once = f", {jobs} at a time" if jobs > 1 else ""
    return f"{found}\n\n{count} runs, {hours:.1f} hours{at_once}, {disk / 2**30:.2f} GiB of disk"
