"""The report: everything a workdir holds, as one HTML page and as Markdown."""

import datetime
import math
import os
import pathlib
import re
from typing import Any

import jinja2

from soda_jax.metrics.bootstrap import Estimate
from soda_jax.models.families import FAMILIES
from soda_jax.paths import expanded
from soda_jax.reporting import curves, facts, paper, pictures, recipes, workdir
from soda_jax.reporting.comparison import Comparer
from soda_jax.reporting.curves import Chart, Line
from soda_jax.reporting.latent_use import latent_use
from soda_jax.reporting.metric_names import describe
from soda_jax.reporting.results import Results, history, online_table
from soda_jax.reporting.workdir import Evaluation, RunData
from soda_jax.version import __version__

CURVE_ROWS = 8  # of the Markdown page's table of curves
_CURVES = ("loss", "eval/loss", "latent_use/saved", "probe/mean", "probe_pixels/mean", "images_per_second")


def write(folder: str, dataset: str = "", output: str = "") -> tuple[pathlib.Path, pathlib.Path]:
    """Writes report.html and report.md about the run in `folder`.

    Args:
      folder: the run's workdir.
      dataset: of `paper.DATASETS`, whose figures stand beside; "" takes it from the run's config.data.name.
      output: where to; "" is the workdir.

    Returns:
      (the HTML page's path, the Markdown page's).

    Raises:
      ValueError: there is no run, or no such dataset.
    """
    data = workdir.read(folder)
    context = build(data, dataset)
    target = pathlib.Path(expanded(output, "output")) if output else data.path
    target.mkdir(parents=True, exist_ok=True)
    relative = "" if target.resolve() == data.path.resolve() else f"{os.path.relpath(data.path, target)}/"
    paths = []
    for name in ("report.html", "report.md"):
        text = render(name, context | {"folder": relative})
        temporary = target / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target / name)
        paths.append(target / name)
    return paths[0], paths[1]


def render(name: str, context: dict[str, Any]) -> str:
    """The template `name` with the values of `build`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("soda_jax.reporting", "templates"),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown_cell
    text = environment.get_template(f"{name}.jinja").render(context)
    if name.endswith(".html"):
        return text
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" +$", "", text, flags=re.M))


def _markdown_cell(text: Any) -> str:
    """Text that cannot break out of a Markdown table's cell or become markup."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def build(data: RunData, dataset: str = "") -> dict[str, Any]:
    """What the templates show."""
    known = _dataset(data, dataset)
    flat = recipes.flatten(data.config)
    defaults = recipes.load("common")
    series, warnings = pictures.collect(data.pictures, data.path)
    newest = data.evaluations[-1] if data.evaluations else None
    shown = None if newest is None else _evaluation(newest, data, flat, known)
    family = FAMILIES.get(flat.get("model.family", "soda"))
    title = family.title if family is not None else "the latent"
    use = latent_use(data.curves, flat)
    online = online_table(data.curves, flat.get("eval.num_examples", 0), title)
    return {
        "title": data.path.resolve().name,
        "step": data.step,
        "facts": facts.facts(data, flat, known.title if known else ""),
        "warnings": [*data.warnings, *warnings, *([use.warning] if use and use.warning else [])],
        "evaluation": shown,
        "online": online[0] if online and not (shown and shown["has_online"]) else None,
        "latent_use": use.table if use else None,
        "history": history(data.evaluations),
        "paper_note": _paper_note(data, known, newest),
        "charts": curves.charts(data.curves),
        "curve_table": _curve_table(data),
        "pictures": series,
        "sessions": _grid(facts.session_rows(data.sessions)),
        "resumed": _resumed(data),
        "differences": recipes.differences(defaults, flat) if defaults and flat else [],
        "has_defaults": defaults is not None,
        "config": [(name, recipes.shown(value)) for name, value in flat.items()],
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
    }


def _dataset(data: RunData, asked: str) -> paper.Dataset | None:
    name = asked or data.config.get("data", {}).get("name", "")
    if asked and asked not in paper.DATASETS:
        raise ValueError(f"dataset={asked!r} is not among the paper's: {', '.join(paper.DATASETS)}")
    return paper.DATASETS.get(name)


def _paper_note(data: RunData, known: paper.Dataset | None, evaluation: Evaluation | None) -> str:
    name = data.config.get("data", {}).get("name", "")
    if known is not None or evaluation is None:
        return ""
    note = f"The paper has no figures for {name or 'this dataset'}."
    if name in ("multiview", "folder"):
        note += " If these images are one of its sets, name it: --dataset=gso, for example."
    return note


def _evaluation(
    evaluation: Evaluation, data: RunData, flat: dict[str, Any], known: paper.Dataset | None
) -> dict[str, Any]:
    """The newest evaluation for the templates."""
    comparers, measured, changed = [], [], []
    earlier = [session for session in evaluation.details.get("earlier") or () if isinstance(session, dict)]
    for session in (evaluation.details, *earlier):
        settings = session.get("settings")
        settings = recipes.flatten(settings) if isinstance(settings, dict) else {}
        settings = {name: value for name, value in settings.items() if name in flat}
        names = tuple(map(str, session.get("evaluators") or ()))
        comparers.append((names, Comparer(flat, evaluation.step, known if flat else None, settings)))
        measured.append(_measured(session, names))
        for name, *values in recipes.differences({name: flat[name] for name in settings}, settings):
            changed.append((name, *values, ", ".join(names)))
    results = Results(evaluation, comparers, flat.get("data.name", ""))
    return {
        "step": evaluation.step,
        "file": evaluation.path.name,
        "tables": results.tables,
        "reasons": results.reasons,
        "measured": _grid([row for row in measured if any(row.values())]),
        "changed": changed,
        "charts": evaluation_charts(evaluation),
        "has_online": any(name.startswith("online_probe/") for row in evaluation.results.values() for name in row),
    }


def _measured(session: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """When, on what and from which source evaluators ran."""
    counts = session.get("num_images")
    counts = counts if isinstance(counts, dict) else {}
    told = [f"{name} ({counts[name]:,})" if isinstance(counts.get(name), int) else name for name in names]
    hardware = session.get("hardware")
    return {
        "evaluators (images)": ", ".join(told),
        "date (UTC)": str(session.get("date") or "").replace("T", " ")[:16],
        "hardware": facts.machine(hardware) if isinstance(hardware, dict) else "",
        "git revision": facts.revision(session.get("git")),
    }


def evaluation_charts(evaluation: Evaluation) -> list[Chart]:
    """Figures that are measured along an axis: by the number of sources, by the section of the latent."""
    axes = (
        ("novel_view", r"novel_view(\d+)/(\w+)", "sources", "Novel views: {}"),
        ("disentanglement", r"disentanglement/section_(\d+)/(\w+)", "section", "By section: {}"),
    )
    found = []
    for evaluator, pattern, xlabel, title in axes:
        for leaf, rows in _points(evaluation, pattern).items():
            if max(len(points) for points in rows.values()) > 1:
                lines = [_line(row, points) for row, points in rows.items()]
                found.append(curves.draw(title.format(describe(f"{evaluator}/{leaf}").label), lines, xlabel))
    return found


def _points(evaluation: Evaluation, pattern: str) -> dict[str, dict[str, list[tuple[int, float, float, float]]]]:
    """{metric: {row: [(place on the axis, value, low, high)]}} of the figures whose names `pattern` matches."""
    found: dict[str, dict[str, list[tuple[int, float, float, float]]]] = {}
    for row, metrics in evaluation.results.items():
        for name, figure in metrics.items():
            match, value = re.fullmatch(pattern, name), float(figure)
            if match and math.isfinite(value):
                low, high = (figure.low, figure.high) if isinstance(figure, Estimate) else (value, value)
                found.setdefault(match.group(2), {}).setdefault(row, []).append((int(match.group(1)), value, low, high))
    return found


def _line(row: str, points: list[tuple[int, float, float, float]]) -> Line:
    points = sorted(points)
    spread = [(low, high) for _, _, low, high in points]
    measured = any(low != high for low, high in spread)
    return Line(row, [(x, value) for x, value, *_ in points], spread if measured else None, markers=True)


def _grid(rows: list[dict[str, str]]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of a table."""
    return (list(rows[0]) if rows else []), [list(row.values()) for row in rows]


def _resumed(data: RunData) -> list[tuple[str, str, str]]:
    """Fields that changed from one start to a later one: (field, before, after)."""
    configs = [
        recipes.flatten(session["config"]) for session in data.sessions if isinstance(session.get("config"), dict)
    ]
    changed = []
    for before, after in zip(configs, configs[1:], strict=False):
        changed += recipes.differences(before, after)
    return changed


def _curve_table(data: RunData) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of a few steps of the main curves, for the page without drawings."""
    names = [name for name in _CURVES if data.curves.get(name)]
    steps = sorted({step for name in names for step, _ in data.curves[name]})
    if not steps:
        return [], []
    rows = []
    chosen = sorted({steps[round(i * (len(steps) - 1) / (CURVE_ROWS - 1))] for i in range(CURVE_ROWS)})
    for step in chosen:
        values = [dict(data.curves[name]).get(step) for name in names]
        rows.append([f"{step:,}", *("" if value is None else f"{value:.4g}" for value in values)])
    return ["step", *(name.replace("_", " ") for name in names)], rows
