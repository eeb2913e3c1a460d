"""What a run left in its workdir: config, curves, evaluations, pictures, and the record of its sessions."""

import dataclasses
import json
import pathlib
import re
from typing import Any

from soda_jax import config as config_lib
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.paths import expanded
from soda_jax.workdir import best
from soda_jax.workdir.checkpoint import latest_step, read_meta
from soda_jax.workdir.run_record import read_sessions

EVALUATION_FORMAT = 2  # the newest that is known here; files without a version are of the first
PICTURES = (".png", ".gif", ".jpg", ".jpeg")
_STAMP = re.compile(r"_(\d{4,})(?=_|$)")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation_STEP.json.

    Attributes:
      step: of the checkpoint.
      results: {row: {metric: figure}}; figures without a measured spread are floats.
      details: everything else that the file holds.
      path: of the file.
    """

    step: int
    results: dict[str, dict[str, float | Estimate]]
    details: dict[str, Any]
    path: pathlib.Path

    @property
    def own(self) -> dict[str, float | Estimate]:
        """The figures of the checkpoint itself; files of earlier releases, which knew SODA alone, name no model."""
        return self.results.get(str(self.details.get("model", "SODA")), {})


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the run: its name without the step, the step (-1 where none is named), its path."""

    name: str
    step: int
    path: pathlib.Path


@dataclasses.dataclass
class RunData:
    """All of a workdir.

    Attributes:
      path: the folder.
      step: of the newest checkpoint, or of the newest line of metrics.
      config: plain data; {} where nothing holds it.
      curves: {metric: [(step, value)]}.
      evaluations: oldest first.
      pictures: by name, then step.
      sessions: of run.json.
      best: what best.json names, "step", "metric" and "value"; None where nothing was watched.
      warnings: what could not be read.
    """

    path: pathlib.Path
    step: int
    config: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]
    evaluations: list[Evaluation]
    pictures: list[Picture]
    sessions: list[dict[str, Any]]
    warnings: list[str]
    best: dict[str, Any] | None = None


def read(workdir: str) -> RunData:
    """Everything in `workdir` that a report shows; what is damaged is left out and named in `warnings`.

    Raises:
      ValueError: the folder is missing or holds no run.
    """
    path = pathlib.Path(expanded(workdir, "workdir"))
    if not path.is_dir():
        raise ValueError(f"workdir={workdir}: there is no such folder; give the --workdir of a training run")
    warnings: list[str] = []
    sessions = read_sessions(str(path))
    curves = read_curves(path / "metrics.jsonl", warnings)
    evaluations = _read_evaluations(path, warnings)
    config, checkpoint = _read_config(path, sessions, warnings)
    pictures = _find_pictures(path)
    if not (config or curves or evaluations or pictures):
        raise ValueError(
            f"workdir={workdir}: holds no run (no checkpoint, metrics.jsonl, evaluation or picture); give "
            "the --workdir of a training run"
        )
    logged = max((points[-1][0] for points in curves.values()), default=0)
    step = checkpoint if checkpoint is not None else max([logged, *(evaluation.step for evaluation in evaluations)])
    return RunData(path, step, config, curves, evaluations, pictures, sessions, warnings, best.read(str(path)))


def _read_config(
    path: pathlib.Path, sessions: list[dict[str, Any]], warnings: list[str]
) -> tuple[dict[str, Any], int | None]:
    """(config, step) of the newest checkpoint; of the newest session before there is one."""
    saved = next((entry["config"] for entry in reversed(sessions) if isinstance(entry.get("config"), dict)), {})
    if latest_step(str(path)) is None:
        return saved, None
    try:
        step, meta = read_meta(str(path))
        return config_lib.from_dict(meta["config"]).to_dict(), step
    except (ValueError, KeyError, OSError) as error:
        warnings.append(f"The newest checkpoint's description could not be read ({_short(error)}).")
        return saved, None


def read_curves(path: pathlib.Path, warnings: list[str]) -> dict[str, list[tuple[int, float]]]:
    """{metric: [(step, value)]} of a metrics.jsonl, {} where there is none; lines that are damaged go to `warnings`."""
    if not path.is_file():
        return {}
    curves: dict[str, dict[int, float]] = {}
    bad = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            step = int(row.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            bad += 1
            continue
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):  # null: was not a number
                curves.setdefault(name, {})[step] = float(value)
    if bad:
        lines = "1 line" if bad == 1 else f"{bad} lines"
        warnings.append(f"metrics.jsonl: {lines} could not be read (a killed run may cut one short).")
    return {name: sorted(points.items()) for name, points in curves.items()}


def _read_evaluations(path: pathlib.Path, warnings: list[str]) -> list[Evaluation]:
    found = []
    for file in sorted(path.glob("evaluation_*.json")):
        try:
            found.append(parse_evaluation(json.loads(file.read_text(encoding="utf-8")), file))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            warnings.append(f"{file.name} could not be read ({_short(error)}).")
            continue
        version = found[-1].details.get("format_version", 1)
        if isinstance(version, int) and version > EVALUATION_FORMAT:
            warnings.append(f"{file.name} is of format {version}, newer than this release; parts may be missing.")
    return sorted(found, key=lambda evaluation: evaluation.step)


def parse_evaluation(data: dict[str, Any], path: pathlib.Path) -> Evaluation:
    """An evaluation from its JSON data, whose figures are plain numbers or objects with value, low, high, count, over.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: the data is not an evaluation.
    """
    results: dict[str, dict[str, float | Estimate]] = {}
    for row, metrics in data["results"].items():
        results[row] = {}
        for name, value in metrics.items():
            results[row][name] = _figure(value)
    details = {key: value for key, value in data.items() if key not in ("step", "results")}
    return Evaluation(int(data["step"]), results, details, path)


def _figure(value: Any) -> float | Estimate:
    if value is None:
        return float("nan")
    if not isinstance(value, dict):
        return float(value)
    if value.get("low") is None or value.get("high") is None:
        return float(value["value"])
    over, count = str(value.get("over", "images")), int(value.get("count", 0))
    return Estimate(float(value["value"]), float(value["low"]), float(value["high"]), count, over)


def _find_pictures(path: pathlib.Path) -> list[Picture]:
    pictures = []
    for folder in (path / "images", path / "samples", path):
        for file in sorted(folder.glob("*")):
            if file.suffix.lower() not in PICTURES or not file.is_file():
                continue
            stamp = _STAMP.search(file.stem)
            name = file.stem if stamp is None else file.stem[: stamp.start()] + file.stem[stamp.end() :]
            pictures.append(Picture(name, int(stamp.group(1)) if stamp else -1, file))
    return sorted(pictures, key=lambda picture: (picture.name, picture.step))


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
