"""The card of an exported model: README.md with the YAML head that the Hugging Face hub reads."""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.config.evaluators import EVALUATORS
from soda_jax.config.reading import PATH_FIELDS
from soda_jax.models.capabilities import LATENT
from soda_jax.models.families import FAMILIES
from soda_jax.reporting import commands, facts, page, paper, recipes, workdir
from soda_jax.reporting.metric_names import ORDER, Metric, describe
from soda_jax.reporting.results import Cell, cell, interval_note
from soda_jax.workdir.examples import FILE as EXAMPLES_FILE
from soda_jax.workdir.export import Export, num_examples
from soda_jax.workdir.meta import labels_of

_CLASSES = 12  # named in the card
_SOURCES = 4
# Of the hundreds of figures of `edits`: how far labels' directions do what they say, and what is read off the images.
_EDITS = re.compile(r"edits/(?!pca)[^/]+/(slope|safe_low|safe_high)|edits/(oracle|reconstructed)/.*")


@dataclasses.dataclass(frozen=True)
class _Group:
    """A heading's figures: a row's name beside each column, and what their intervals are over."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def about(folder: str | os.PathLike, step: int, weights_digest: str) -> dict[str, Any]:
    """What a card says of the run in `folder` beside its config: JSON data that goes with the export.

    Returns:
      `license` "" and `facts` [[heading, value, detail], ...]; of the evaluation of this very checkpoint `figures`
      {row: {metric: figure}}, as its file has them, `model`, the row of the checkpoint itself, and `settings`,
      sections of the config.
    """
    data = dataclasses.replace(workdir.read(os.fspath(folder)), step=step)
    known = paper.DATASETS.get(data.config.get("data", {}).get("name", ""))
    found = facts.facts(data, recipes.flatten(data.config), known.title if known else "")
    figures, model, settings = {}, "", {}
    for evaluation in data.evaluations:
        if evaluation.step == step and evaluation.details.get("weights", weights_digest) == weights_digest:
            content = json.loads(evaluation.path.read_text(encoding="utf-8"))
            figures, model = content["results"], str(evaluation.details.get("model", ""))
            settings = _settings(content)
    return {
        "license": "",
        "facts": [list(fact) for fact in found],
        "figures": figures,
        "model": model,
        "settings": settings,
    }


def _settings(evaluation: dict[str, Any]) -> dict[str, Any]:
    """How it was measured, as sections of the config, without the paths of this machine."""
    found = evaluation.get("settings")
    if not isinstance(found, dict):
        return {}
    return {
        section: {name: value for name, value in found[section].items() if f"{section}.{name}" not in PATH_FIELDS}
        for section in ("eval", "sampling")
        if isinstance(found.get(section), dict)
    }


def with_evaluation(export: Export, path: pathlib.Path) -> Export:
    """The export with the figures of an evaluation of these very weights beside its own; newer ones replace older.

    Args:
      path: evaluation_STEP.json, as `--mode=evaluate` writes it.

    Raises:
      ValueError: it is no evaluation, or one of other weights or data.
      OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        workdir.parse_evaluation(content, path)
        results, model, data = content["results"], str(content["model"]), content["settings"]["data"]
        same = content["weights"] == export.weights_digest
        sessions = [content, *content.get("earlier", ())]
        measured = dict.fromkeys(name for session in sessions for name in session["evaluators"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no evaluation that --mode=evaluate wrote ({error!r})") from error
    if not same:
        raise ValueError(f"{path} was measured with other weights: evaluate this model (--mode=evaluate --model=...)")
    ours = config_lib.from_dict(export.config)
    measured_on, scored = (data["name"], data["test_split"] or data["eval_split"]), config_lib.scored_split(ours)
    if measured_on != (ours.data.name, scored):
        raise ValueError(f"{path} was measured on {', '.join(measured_on)}; the card is of {ours.data.name}, {scored}")
    about = export.about
    before = about["figures"]
    figures = {row: before.get(row, {}) | results.get(row, {}) for row in [*before, *results]}
    rounded = {*about.get("rounded", ())}.difference(measured).union(measured if content.get("rounded") else ())
    settings = dict(about.get("settings") or _settings(content))
    if "eval" in settings:
        both = dict.fromkeys([*settings["eval"]["evaluators"], *measured])
        settings["eval"] = settings["eval"] | {"evaluators": list(both)}
    return dataclasses.replace(
        export, about=about | {"figures": figures, "model": model, "rounded": sorted(rounded), "settings": settings}
    )


def render(export: Export, dtype: str) -> str:
    """The card's text; the same export gives the same text.

    Raises:
      ValueError: what the export says of its run is not as `about` gives it.
    """
    config = config_lib.from_dict(export.config)
    family = FAMILIES[config.model.family]
    try:
        results = workdir.parse_evaluation({"step": export.step, "results": export.about["figures"]}, None).results
        said = [tuple(map(str, fact)) for fact in export.about["facts"]]
        context = {
            "front_matter": _front_matter(export, results),
            "model": family.title,
            "dataset": config.data.name,
            "step": export.step,
            "resolution": config.data.source_resolution,
            "drawn": config.data.resolution,
            "split": config.data.train_split,
            "tested": config_lib.scored_split(config),
            "facts": [fact for fact in said if len(fact) == 3],
            "parameters": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(export.variables["params"])),
            "dtype": dtype,
            "latent": LATENT in family.capabilities,
            "training": commands.training(export.config, any(fact[0] == "Started from" for fact in said)),
            "evaluation": commands.evaluation(export.config, export.about.get("settings")) if results else "",
            "measured_as": bool(export.about.get("settings")),
            "rounded": [EVALUATORS[name].heading for name in export.about.get("rounded", ()) if name in EVALUATORS],
            "labels": [] if export.probe is None else _labels(export),
            "directions": sum(name.endswith(".npz") for name in export.directions),
            "groups": _groups(results),
            "examples": num_examples(export.examples),
            "sources": _sources(export.examples),
            "version": export.format_version,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what the export says of its run is damaged ({type(error).__name__}: {error})") from error
    return page.render("card.md", context)


def _front_matter(export: Export, results: dict[str, Any]) -> str:
    """The head's lines. Values are JSON, which YAML contains, so that no name can break out of its place."""
    config = config_lib.from_dict(export.config)
    family = FAMILIES[config.model.family]
    task = "image-feature-extraction" if LATENT in family.capabilities else "unconditional-image-generation"
    tags = ["soda", "diffusion", "representation-learning", "jax", "flax"]
    head: dict[str, Any] = {"library_name": "soda_jax", "pipeline_tag": task, "tags": tags}
    if export.about["license"]:
        head["license"] = export.about["license"]
    figures = {describe(name): value for name, value in results.get(export.about["model"], {}).items()}
    main = [
        {"type": metric.name, "name": f"{metric.group}: {metric.label}", "value": float(value)}
        for metric, value in figures.items()
        if metric.main and math.isfinite(float(value))
    ]
    if main:
        dataset = {"type": config.data.name, "name": config.data.name, "split": config_lib.scored_split(config)}
        measured = {"task": {"type": task}, "dataset": dataset, "metrics": main}
        head["model-index"] = [{"name": f"{family.title} of {config.data.name}", "results": [measured]}]
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())


def _labels(export: Export) -> list[str]:
    """Each label that the probe tells, with its classes."""
    labels = labels_of(export.labels)
    task = build.probe_task(config_lib.from_dict(export.config), labels)
    lines = []
    for name, size in zip(task.names, task.sizes, strict=True):
        classes = labels[task.kind].classes if task.kind == "label" else ()
        shown = ", ".join(classes[:_CLASSES]) + (", ..." if len(classes) > _CLASSES else "")
        lines.append(f"{name}: {size:,} classes" + (f" ({shown})" if shown else ""))
    return lines


def _sources(examples: Mapping[str, bytes]) -> str:
    """Where the examples are from, and by which licence."""
    found = json.loads(examples[EXAMPLES_FILE])["examples"] if EXAMPLES_FILE in examples else []
    # Credits end with the example's number, and what else is its own.
    sources = {(re.split(r", example \d+", one["credit"])[0], one["license"] or "no licence stated") for one in found}
    return "; ".join(f"{credit} ({license_id})" for credit, license_id in sorted(sources)[:_SOURCES])


def _groups(results: dict[str, Any]) -> list[_Group]:
    """What the card shows; all figures stand in soda.json."""
    names = dict.fromkeys(name for figures in results.values() for name in figures)
    names = [name for name in names if not name.startswith("edits/") or _EDITS.fullmatch(name)]
    by_title: dict[str, list[Metric]] = {}
    for metric in map(describe, names):
        by_title.setdefault(metric.group, []).append(metric)
    found = []
    for title in dict.fromkeys([*(title for title in ORDER if title in by_title), *by_title]):
        metrics = by_title[title]
        columns = tuple(row for row, figures in results.items() if any(metric.name in figures for metric in metrics))
        rows = tuple(
            (
                f"{metric.label} {metric.unit}".strip(),
                *(_text(metric, results[column].get(metric.name)) for column in columns),
            )
            for metric in metrics
        )
        measured = [results[column].get(metric.name) for column in columns for metric in metrics]
        found.append(_Group(title, columns, rows, interval_note(measured)))
    return found


def _text(metric: Metric, figure: Any) -> str:
    shown = Cell("–") if figure is None else cell(metric, figure)
    return f"{shown.value} {shown.interval}".strip()
