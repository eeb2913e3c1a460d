"""WORKDIR/evaluation_STEP.json: what evaluations of a checkpoint measured, on what, and how."""

import datetime
import json
import os
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax.metrics.bootstrap import Estimate
from soda_jax.workdir import provenance

FORMAT_VERSION = 2  # the first held plain numbers, the step, and no more
SECTIONS = ("eval", "sampling", "probe", "data")  # of the config, that figures depend on
DATA_FIELDS = ("name", "root", "train_split", "resolution", "source_resolution", "view_policy", "eval_crop")

Figures = dict[str, float | Estimate]
Results = dict[str, Figures]  # by row


def table(results: Results, step: int) -> str:
    """Metrics by rows of `results`, each with its interval."""
    metrics = list(dict.fromkeys(metric for row in results.values() for metric in row))
    cells = [[metric, *(_cell(row[metric]) if metric in row else "" for row in results.values())] for metric in metrics]
    return tabulate(cells, headers=[f"step {step}", *results], disable_numparse=True)


def _cell(figure: float | Estimate) -> str:
    if isinstance(figure, Estimate):
        return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"
    return f"{figure:.4g}"


def write(
    workdir: str,
    step: int,
    results: Results,
    config: ConfigDict,
    *,
    model: str,
    num_images: dict[str, int],
    weights: str,
    is_rounded: bool = False,
    devices: list[jax.Device],
) -> pathlib.Path:
    """Writes the evaluation; returns the file.

    The file is {"format_version", "step", "weights", "rounded", "model", "results": {row: {metric: {"value", "low",
    "high", "count", "over"}}}} (the last four None for figures without a spread) and, of the evaluation that wrote it
    last, "date" (UTC), "evaluators", "num_images", "settings" (sections of the config), "hardware", "git" and
    "versions".

    Figures of other evaluators that the file has of the same weights and data stay; "earlier" then holds, newest first,
    the date, settings and so on of the evaluations that measured them.

    Args:
      model: the row of the checkpoint's own figures.
      num_images: how many images or objects each evaluator used.
      weights: `workdir.digest.weights_digest` of the checkpoint.
      is_rounded: what was measured is an export of these weights in fewer bits; the file then has "rounded".
      devices: that computed.
    """
    path = pathlib.Path(workdir) / f"evaluation_{step:08d}.json"
    evaluators = list(config.eval.evaluators)
    record = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "weights": weights,
        "rounded": is_rounded,
        "model": model,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "evaluators": evaluators,
        "results": {
            row: {name: _entry(figure) for name, figure in figures.items()} for row, figures in results.items()
        },
        "num_images": num_images,
        "settings": {section: config[section].to_dict() for section in SECTIONS} | {"seed": config.seed},
        "hardware": provenance.hardware(devices),
        "git": provenance.git_revision(),
        "versions": provenance.versions(),
    }
    before = _read(path)
    same_weights = before is not None and (before["weights"], before.get("rounded", False)) == (weights, is_rounded)
    if same_weights and _same_data(before, record):
        _keep(before, record)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path


def _entry(figure: float | Estimate) -> dict[str, Any]:
    if isinstance(figure, Estimate):
        return {
            "value": float(figure.value),
            "low": float(figure.low),
            "high": float(figure.high),
            "count": int(figure.count),
            "over": figure.over,
        }
    return {"value": float(figure), "low": None, "high": None, "count": None, "over": None}


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """An evaluation of this format; None for anything else, which is then replaced."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        whole = record["format_version"] == FORMAT_VERSION and {"weights", "results", "settings"} <= set(record)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def _same_data(before: dict[str, Any], record: dict[str, Any]) -> bool:
    data = [entry["settings"]["data"] for entry in (before, record)]
    tested = [entry.get("test_split") or entry.get("eval_split") for entry in data]
    earlier = {"eval_crop": 1.0}  # what evaluations before the field did
    same = all(data[0].get(field, earlier.get(field)) == data[1].get(field) for field in DATA_FIELDS)
    return same and tested[0] == tested[1]


def _keep(before: dict[str, Any], record: dict[str, Any]) -> None:
    """Adds to `record` the figures of `before` that its evaluators do not measure, and where they come from."""
    again = tuple(record["evaluators"])
    kept = set()
    for row, figures in before["results"].items():
        for name, figure in figures.items():
            if not name.startswith(again) and name not in record["results"].get(row, {}):
                record["results"].setdefault(row, {})[name] = figure
                kept.add(name)
    left_out = ("format_version", "step", "weights", "rounded", "model", "results", "earlier")
    sessions = [{key: value for key, value in before.items() if key not in left_out}, *before.get("earlier", ())]
    earlier, named = [], set(again)
    for session in sessions:  # newest first: what one measured, none before it did
        own = [name for name in session["evaluators"] if name not in named and any(k.startswith(name) for k in kept)]
        named.update(own)
        if own:
            earlier.append(session | {"evaluators": own})
    record["earlier"] = earlier
