"""Evaluations as tables: our figures with their intervals, and the paper's beside them."""

import dataclasses
import math
from collections.abc import Iterable

from soda_jax.metrics.bootstrap import Estimate
from soda_jax.reporting import paper
from soda_jax.reporting.comparison import Comparer, Reason
from soda_jax.reporting.metric_names import ORDER, Metric, describe
from soda_jax.reporting.workdir import Evaluation

LONG = 12  # rows; of a longer group only the main figures are open to view
_ARROWS = {"up": "↑", "down": "↓", "": ""}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure: its text, its interval as text, "" where none was measured."""

    value: str
    interval: str = ""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A figure of others beside ours: its text, where it stands, whether it may be compared, why not."""

    value: str
    source: str
    reasons: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        return not self.reasons


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric: its wording, unit, direction as an arrow, a cell for each column, the paper's figure."""

    label: str
    unit: str
    arrow: str
    cells: tuple[Cell | None, ...]
    reference: Reference | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A group of metrics.

    Attributes:
      title: its heading.
      columns: names of the measured rows of the evaluation: "SODA", "untrained encoder", ...
      rows, more: open to view, and folded away.
      note: what the intervals are over.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    more: tuple[Row, ...]
    note: str

    @property
    def reference(self) -> str:
        """Heading of the column of others' figures; "" where no row has one."""
        sources = [row.reference.source for row in (*self.rows, *self.more) if row.reference]
        if not sources:
            return ""
        return "elsewhere" if all(source == paper.UNOFFICIAL for source in sources) else "paper"


class Results:
    """The tables of one evaluation, and the reasons that they name.

    Args:
      evaluation: as read.
      comparers: with the paper, for the evaluators that each names, as in an evaluation's file; the first for the rest.
      dataset_name: config.data.name, for figures that others than the paper report.
    """

    def __init__(self, evaluation: Evaluation, comparers: list[tuple[tuple[str, ...], Comparer]], dataset_name: str):
        self._evaluation, self._comparers, self._name = evaluation, comparers, dataset_name
        self.reasons: dict[str, list[str]] = {}
        names = dict.fromkeys(name for row in evaluation.results.values() for name in row)
        groups: dict[str, list[Metric]] = {}
        for metric in map(describe, names):
            groups.setdefault(metric.group, []).append(metric)
        known = [title for title in ORDER if title in groups]
        self.tables = tuple(self._table(title, groups[title]) for title in dict.fromkeys([*known, *groups]))

    def _table(self, title: str, metrics: list[Metric]) -> Table:
        results = self._evaluation.results
        columns = tuple(row for row, found in results.items() if any(metric.name in found for metric in metrics))
        pairs = [(metric, self._row(metric, columns)) for metric in metrics]
        main = [row for metric, row in pairs if metric.main or row.reference]
        if len(pairs) <= LONG or not main:
            main = [row for _, row in pairs][: max(LONG, 1)]
        rest = tuple(row for _, row in pairs if not any(row is shown for shown in main))
        figures = [results[column].get(metric.name) for column in columns for metric in metrics]
        return Table(title, columns, tuple(main), rest, interval_note(figures))

    def _row(self, metric: Metric, columns: tuple[str, ...]) -> Row:
        found = [self._evaluation.results[column].get(metric.name) for column in columns]
        cells = tuple(None if value is None else cell(metric, value) for value in found)
        return Row(metric.label, metric.unit, _ARROWS[metric.direction], cells, self._reference(metric))

    def _reference(self, metric: Metric) -> Reference | None:
        own = [comparer for evaluators, comparer in self._comparers if metric.name.startswith(evaluators)]
        comparison = (own or [self._comparers[0][1]])[0].compare(metric)
        if comparison is not None:
            figure = comparison.figure
            variant = "" if figure.variant == paper.SODA else f", {figure.variant}"
            encoder = f", {figure.encoder}" if figure.encoder else ""
            shorts = self._note(comparison.reasons)
            return Reference(f"{figure.value:g}", f"{figure.table}{variant}{encoder}", shorts)
        evaluator, _, leaf = metric.name.partition("/")
        other = paper.ELSEWHERE.get(self._name, {}).get(evaluator) if leaf == "label" else None
        if other is None:
            return None
        text = f"a figure of the {paper.UNOFFICIAL}, {paper.UNOFFICIAL_DETAILS}, not of the paper"
        return Reference(f"{other:.1f}", paper.UNOFFICIAL, self._note([Reason("implementation", text)]))

    def _note(self, reasons: Iterable[Reason]) -> tuple[str, ...]:
        """Keeps the reasons' sentences for below the tables; returns their short names."""
        for reason in reasons:
            texts = self.reasons.setdefault(reason.short, [])
            if reason.text not in texts:
                texts.append(reason.text)
        return tuple(reason.short for reason in reasons)


def cell(metric: Metric, figure: float | Estimate) -> Cell:
    """A figure as text in its metric's unit."""
    value = float(figure)
    if not math.isfinite(value):
        return Cell("not a number")
    if not isinstance(figure, Estimate):
        return Cell(metric.number(value))
    return Cell(metric.number(value), f"[{metric.number(figure.low)}, {metric.number(figure.high)}]")


def interval_note(figures: Iterable[float | Estimate | None]) -> str:
    """What a group's intervals are over: "95 % intervals over 10,000 images"."""
    found = [figure for figure in figures if isinstance(figure, Estimate)]
    if not found:
        return "No intervals: no spread was measured."
    counts: dict[str, set[int]] = {}
    for figure in found:
        counts.setdefault(figure.over, set()).add(figure.count)
    parts = []
    for over, sizes in counts.items():
        span = f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
        parts.append(f"{span} {over}")
    return f"In brackets: 95 % intervals over {' and '.join(parts)}."


def online_table(curves: dict[str, list[tuple[int, float]]], examples: int, model: str) -> tuple[Table, int] | None:
    """(the online probe's last held-out accuracies, their step); None where training had no probe."""
    names = [name.removeprefix("probe/") for name in curves if name.startswith("probe/")]
    names = [name for name in names if name not in ("accuracy", "loss")]
    if not names:
        return None
    if len(names) == 2 and "mean" in names:
        names.remove("mean")  # of one label
    step = max(curves[f"probe/{name}"][-1][0] for name in names)
    columns = {model: "probe", "raw pixels": "probe_pixels"}
    columns = {title: prefix for title, prefix in columns.items() if f"{prefix}/{names[0]}" in curves}
    rows = []
    for name in sorted(names, key=lambda name: name == "mean"):
        metric = describe(f"online_probe/{name}")
        values = [curves.get(f"{prefix}/{name}") for prefix in columns.values()]
        cells = tuple(None if not points else cell(metric, points[-1][1]) for points in values)
        rows.append(Row(metric.label, metric.unit, _ARROWS[metric.direction], cells, None))
    how_many = f"up to {examples:,} held-out examples" if examples else "all held-out examples"
    note = f"By training itself at step {step:,}, on {how_many}; it keeps no spread, so there is no interval."
    main = rows if len(rows) <= LONG else rows[-1:]
    rest = () if len(rows) <= LONG else tuple(rows[:-1])
    return Table("Online probe", tuple(columns), tuple(main), rest, note), step


def history(evaluations: list[Evaluation]) -> Table | None:
    """The trained model's main figures at every evaluated step; None where there is but one."""
    steps = [evaluation for evaluation in evaluations if evaluation.own]
    if len(steps) < 2:
        return None
    names = dict.fromkeys(name for evaluation in steps for name in evaluation.own)
    rows = []
    for metric in map(describe, names):
        if not metric.main:
            continue
        found = [evaluation.own.get(metric.name) for evaluation in steps]
        cells = tuple(None if value is None else cell(metric, value) for value in found)
        rows.append(Row(f"{metric.group}: {metric.label}", metric.unit, _ARROWS[metric.direction], cells, None))
    columns = tuple(f"step {evaluation.step:,}" for evaluation in steps)
    return Table("Earlier evaluations", columns, tuple(rows), (), "")
