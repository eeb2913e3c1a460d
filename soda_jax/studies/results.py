"""DIR/study.json: every run's figures, the table with its intervals, and the verdict on each claim."""

import datetime
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from soda_jax.metrics.bootstrap import Estimate
from soda_jax.metrics.t_interval import t_interval
from soda_jax.reporting import paper
from soda_jax.reporting import workdir as workdirs
from soda_jax.sharing import places
from soda_jax.studies import fairness
from soda_jax.studies.catalogue import tested
from soda_jax.studies.definition import Claim, Row, Size, Study
from soda_jax.studies.runs import Run, read_marker
from soda_jax.workdir.run_record import read_sessions

FILE = "study.json"
FORMAT_VERSION = 1
HOLDS, FAILS, OPEN = "holds", "does not hold", "open"

Values = Mapping[tuple[str, str], Mapping[int, float]]  # by row and column: {seed: figure}


def verdict(relation: str, difference: Estimate | None) -> str:
    """What the difference of `row` and `other`, with its interval, says of "row > other" or "row < other".

    Returns:
      `HOLDS` where the interval lies wholly on the claim's side of 0, `FAILS` where it lies wholly on the other, and
      `OPEN` in between; a single pair of runs, which has no interval, leaves a claim open.
    """
    if difference is None:
        return OPEN
    low, high = (difference.low, difference.high) if relation == ">" else (-difference.high, -difference.low)
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """The mean difference of two rows' figures over the seeds that both have; None where they share none."""
    seeds = sorted(first.keys() & second.keys())
    return t_interval([first[seed] - second[seed] for seed in seeds])


def collect(
    study: Study, size_name: str, runs: Sequence[Run], parameters: Mapping[str, int], digest: str = ""
) -> dict[str, Any]:
    """Everything that is known of a study by what lies in its runs' folders, as JSON data.

    Args:
      runs: all of the study's.
      parameters: of each row's model, by the row's name.
      digest: of the definition.
    """
    size = study.size(size_name)
    entries = [_run_entry(run, size) for run in runs]
    values = _values(entries, size)
    by_row = {run.row.name: run for run in reversed(runs)}
    reference = by_row[study.reference.name]
    rows = [
        {
            "name": row.name,
            "folder": row.folder,
            "variant": row.variant,
            "checkpoint_of": row.checkpoint_of,
            "printed": printed(study, row, size),
            "difference": [list(line) for line in fairness.difference(by_row[row.name], reference)],
            "parameters": parameters.get(row.checkpoint_of or row.name),
            "figures": {column: _estimate(_mean(values, row.name, column)) for column in size.columns},
            "differences": {
                column: _estimate(paired(values[row.name, column], values[study.reference.name, column]))
                for column in size.columns
                if row is not study.reference
            },
        }
        for row in study.rows
        if row.name in by_row
    ]
    return {
        "format_version": FORMAT_VERSION,
        "study": study.name,
        "size": size_name,
        "config": size.config,
        "title": study.title,
        "where": study.where,
        "notes": list(study.notes),
        "curves": list(study.curves),
        "digest": digest,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "reference": study.reference.name,
        "columns": dict(size.columns),
        "printed_in": {column: source.dataset for column, source in study.printed.items() if column in size.columns},
        "rows": rows,
        "claims": [_claim(claim, values) for claim in study.claims_at(size)],
        "runs": entries,
    }


def _run_entry(run: Run, size: Size) -> dict[str, Any]:
    """One run: how far it is, its figures, and where they come from."""
    marker = read_marker(run.folder)
    sessions = read_sessions(str(run.source or run.folder))
    entry: dict[str, Any] = {
        "row": run.row.name,
        "seed": run.seed,
        "folder": f"{run.row.folder}/seed{run.seed}",
        "done": run.is_done,
        "figures": {},
        "minutes": {stage: round(seconds / 60, 2) for stage, seconds in (marker.get("seconds") or {}).items()},
        "images": None,
        "init_from": _given_weights(run),
        "step": None,
        "git": sessions[-1].get("git") if sessions else None,
        "hardware": sessions[-1].get("hardware") if sessions else None,
        "versions": sessions[-1].get("versions") if sessions else None,
    }
    evaluation = _evaluation(run) if run.is_done else None
    if evaluation is None:
        return entry
    own = {name: _estimate(figure) for name, figure in evaluation.own.items()}
    missing = [name for name in size.columns.values() if name not in own]
    return entry | {
        "step": evaluation.step,
        # Of given weights the study does not know what they saw.
        "images": None if run.init_from else evaluation.step * run.config.train.batch_size,
        "figures": own,
        "missing": missing,
        "measured": {key: evaluation.details.get(key) for key in ("date", "git", "hardware")},
    }


def _given_weights(run: Run) -> str | None:
    """What weights that the study did not train are called: without the folders of this machine."""
    if not run.init_from:
        return None
    return os.path.basename(places.shown(run.init_from)) if places.is_path(run.init_from) else run.init_from


def _evaluation(run: Run) -> workdirs.Evaluation | None:
    """The newest evaluation of a run; None where there is none that can be read."""
    for path in sorted(run.folder.glob("evaluation_*.json"), reverse=True):
        try:
            return workdirs.parse_evaluation(json.loads(path.read_text(encoding="utf-8")), path)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            continue
    return None


def _values(entries: Sequence[Mapping[str, Any]], size: Size) -> dict[tuple[str, str], dict[int, float]]:
    """The figures of the table by row and column, and by seed; those that are no numbers are left out."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for entry in entries:
        for column, name in size.columns.items():
            cell = found.setdefault((entry["row"], column), {})
            figure = entry["figures"].get(name)
            if figure is not None and figure["value"] is not None:
                cell[entry["seed"]] = figure["value"]
    return found


def _mean(values: Values, row: str, column: str) -> Estimate | None:
    return t_interval(list(values[row, column].values()))


def _estimate(figure: float | Estimate | None) -> dict[str, Any] | None:
    """A figure as JSON data; what is not finite, as the ends of an interval over one seed, is None."""
    if figure is None:
        return None
    if not isinstance(figure, Estimate):
        return {"value": _finite(float(figure)), "low": None, "high": None, "count": None, "over": None}
    return {
        "value": _finite(figure.value),
        "low": _finite(figure.low),
        "high": _finite(figure.high),
        "count": figure.count,
        "over": figure.over,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _claim(claim: Claim, values: Values) -> dict[str, Any]:
    first, second = claim.columns
    nothing: dict[int, float] = {}
    difference = paired(values.get((claim.row, first), nothing), values.get((claim.other, second), nothing))
    return {
        "text": claim.text,
        "tested": tested(claim),
        "where": claim.where,
        "row": claim.row,
        "relation": claim.relation,
        "other": claim.other,
        "column": first,
        "other_column": second,
        "difference": _estimate(difference),
        "verdict": verdict(claim.relation, difference),
    }


def printed(study: Study, row: Row, size: Size) -> dict[str, float]:
    """The paper's figures for a row, by column."""
    wanted = paper.SODA if row is study.reference else row.variant
    found: dict[str, float] = {}
    for column, source in study.printed.items():
        figures = [
            figure.value
            for table in source.tables
            for figure in paper.DATASETS[source.dataset].figures
            if (figure.metric, figure.table, figure.variant) == (source.metric, table, wanted)
        ]
        if figures and column in size.columns:
            found[column] = figures[0]
    return found | {column: value for column, value in row.printed.items() if column in size.columns}


def write(folder: pathlib.Path, record: Mapping[str, Any]) -> pathlib.Path:
    """Writes DIR/study.json; returns its path."""
    path = folder / FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path
