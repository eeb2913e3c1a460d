"""A study as one page, HTML and Markdown: the verdicts on its claims, its table, curves and images."""

import base64
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soda_jax.reporting import study_pictures
from soda_jax.reporting.facts import duration, machine, revision
from soda_jax.reporting.metric_names import PERCENT, Metric, describe
from soda_jax.reporting.page import render
from soda_jax.version import __version__

HTML, MARKDOWN = "study.html", "study.md"
NONE = "–"
_ARROWS = {"up": "↑", "down": "↓", "": ""}

Table = tuple[list[str], list[list[str]]]  # headings, rows


def write(folder: pathlib.Path, record: Mapping[str, Any]) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes the page of `record`, which is what study.json holds, and its pictures into `folder`.

    Returns:
      (the HTML page's path, the Markdown page's).
    """
    context = build(record) | {"pictures": _pictures(folder, record, folder)}
    return _written(folder / HTML, "study.html", context), _written(folder / MARKDOWN, "study.md", context)


def publish(folder: pathlib.Path, record: Mapping[str, Any], target: pathlib.Path) -> pathlib.Path:
    """Writes the Markdown page, its pictures and the record into `target`, under names that begin with the study's, so
    that several studies may stand there.

    Returns:
      The page's path.
    """
    target.mkdir(parents=True, exist_ok=True)
    context = build(record) | {"pictures": _pictures(folder, record, target, f"{record['study']}_")}
    (target / f"{record['study']}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return _written(target / f"{record['study']}.md", "study.md", context)


def _written(path: pathlib.Path, template: str, context: dict[str, Any]) -> pathlib.Path:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(render(template, context), encoding="utf-8")
    os.replace(temporary, path)
    return path


def _pictures(
    folder: pathlib.Path, record: Mapping[str, Any], target: pathlib.Path, prefix: str = ""
) -> list[dict[str, str]]:
    """Draws the pictures into `target`, as far as there is anything to draw."""
    drawn = []
    for title, draw, name in (
        ("Curves", study_pictures.curves, "curves.png"),
        ("Images", study_pictures.grids, "grids.png"),
    ):
        path = target / f"{prefix}{name}"
        if draw(folder, record, path):
            drawn.append({"title": title, "file": path.name, "uri": _embedded(path)})
    return drawn


def _embedded(path: pathlib.Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def build(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show."""
    metrics = {column: describe(name) for column, name in record["columns"].items()}
    done = [run for run in record["runs"] if run["done"]]
    verdicts = [claim["verdict"] for claim in record["claims"]]
    return {
        "title": record["title"],
        "where": record["where"],
        "size": record["size"],
        "config": record["config"],
        "reference": record["reference"],
        "facts": _facts(record, done),
        "notes": [*record["notes"], *_cost_notes(record)],
        "counts": [(kind, verdicts.count(kind)) for kind in ("holds", "does not hold", "open")],
        "claims": _claims(record, metrics),
        "figures": _figures(record, metrics),
        "differences": _differences(record, metrics),
        "rows": _rows(record),
        "runs": _runs(record),
        "columns": _columns(metrics),
        "written": str(record["date"]).replace("T", " ")[:16],
        "version": __version__,
    }


def _facts(record: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    machines = dict.fromkeys(machine(run["hardware"]) for run in done if run["hardware"])
    revisions = dict.fromkeys(filter(None, (revision(run["git"]) for run in done)))
    minutes = sum(value for run in done for value in run["minutes"].values())
    seeds = len({run["seed"] for run in record["runs"]})
    return [
        ("Size", f"{record['size']} (--config={record['config']})"),
        ("Runs", f"{len(done)} of {len(record['runs'])} done, {seeds} {'seeds' if seeds != 1 else 'seed'}"),
        ("Time", f"{duration(minutes * 60)} of all runs together"),
        ("Hardware", "; ".join(machines) or "nothing ran yet"),
        ("Git revision", "; ".join(revisions) or "not recorded"),
    ]


def _cost_notes(record: Mapping[str, Any]) -> list[str]:
    """Whether the rows cost the same."""
    sizes = {row["name"]: row["parameters"] for row in record["rows"] if row["parameters"]}
    images = {run["images"] for run in record["runs"] if run["images"]}
    given = list(dict.fromkeys(filter(None, (run.get("init_from") for run in record["runs"]))))
    notes = [f"All runs measure the same weights, those of {given[0]}."] if given else []
    if len(images) == 1:
        notes.append(f"Every run saw {images.pop():,} images.")
    elif images:
        notes.append(f"Runs saw {min(images):,} to {max(images):,} images: their figures are not of equal cost.")
    own = sizes.get(record["reference"])
    if own and len(set(sizes.values())) > 1:
        others = [f"{name} {_millions(size)}" for name, size in sizes.items() if size != own]
        notes.append(f"Parameters differ: {record['reference']} has {_millions(own)}, {', '.join(others)}.")
    return notes


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}M"


def _columns(metrics: Mapping[str, Metric]) -> list[tuple[str, str]]:
    """(column, what it is) for below the table."""
    return [
        (column, f"{metric.group}: {metric.label}" + (f" ({metric.unit})" if metric.unit else ""))
        for column, metric in metrics.items()
    ]


def number(metric: Metric, value: float, signed: bool = False) -> str:
    """`value` in its metric's unit; differences carry their sign."""
    text = metric.number(value)
    return f"+{text}" if signed and value > 0 else text


def _cell(metric: Metric, figure: Mapping[str, Any] | None, signed: bool = False) -> str:
    """A mean with its interval, "71.20 [68.10, 74.30]"."""
    if figure is None or figure["value"] is None:
        return NONE
    text = number(metric, figure["value"], signed)
    if figure["low"] is None:
        return text
    return f"{text} [{number(metric, figure['low'], signed)}, {number(metric, figure['high'], signed)}]"


def _table(record: Mapping[str, Any], metrics: Mapping[str, Metric], cell: Callable[..., str]) -> Table:
    headings = ["row", *(f"{column} {_ARROWS[metric.direction]}".strip() for column, metric in metrics.items())]
    return headings, [[row["name"], *(cell(row, c, m) for c, m in metrics.items())] for row in record["rows"]]


def _figures(record: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Table:
    def cell(row: Mapping[str, Any], column: str, metric: Metric) -> str:
        printed = row["printed"].get(column)
        return _cell(metric, row["figures"][column]) + (f"; paper {printed:g}" if printed is not None else "")

    return _table(record, metrics, cell)


def _differences(record: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Table:
    def cell(row: Mapping[str, Any], column: str, metric: Metric) -> str:
        return _cell(metric, row["differences"].get(column), signed=True)

    headings, rows = _table(record, metrics, cell)
    return headings, [row for row in rows if row[0] != record["reference"]]


def _claims(record: Mapping[str, Any], metrics: Mapping[str, Metric]) -> list[dict[str, str]]:
    found = []
    for claim in record["claims"]:
        metric, difference = metrics[claim["column"]], claim["difference"]
        unit = f" {'points' if metric.unit == PERCENT else metric.unit}".rstrip()
        told = _cell(metric, difference, signed=True)
        found.append(
            {
                "verdict": claim["verdict"],
                "text": claim["text"],
                "tested": claim["tested"],
                "difference": told if told == NONE else f"{told}{unit}",
                "pairs": str(difference["count"]) if difference else "0",
                "where": claim["where"],
            }
        )
    return found


def _rows(record: Mapping[str, Any]) -> Table:
    rows = []
    for row in record["rows"]:
        runs = [run for run in record["runs"] if run["row"] == row["name"] and run["done"]]
        images = sorted({run["images"] for run in runs if run["images"]})
        minutes = [sum(run["minutes"].values()) for run in runs]
        rows.append(
            [
                row["name"],
                _millions(row["parameters"]) if row["parameters"] else NONE,
                " to ".join(f"{count:,}" for count in dict.fromkeys(images[:1] + images[-1:])) or NONE,
                f"{sum(minutes) / len(minutes):.1f}" if minutes else NONE,
                "; ".join(f"{field}: {ours}" for field, _, ours in row["difference"]) or NONE,
            ]
        )
    return ["row", "parameters", "images seen", "minutes a run", f"differs from {record['reference']} in"], rows


def _runs(record: Mapping[str, Any]) -> Table:
    rows = []
    for run in record["runs"]:
        state = "done" if run["done"] else "not done"
        if run.get("missing"):
            state += f", without {', '.join(run['missing'])}"
        minutes = ", ".join(f"{stage} {value:.1f}" for stage, value in run["minutes"].items())
        hardware = machine(run["hardware"]) if run["hardware"] else ""
        rows.append([run["row"], str(run["seed"]), state, minutes, hardware, revision(run["git"])])
    return ["row", "seed", "state", "minutes", "hardware", "git revision"], rows
