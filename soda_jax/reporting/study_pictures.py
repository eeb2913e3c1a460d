"""A study's two pictures: the curves of all rows in one, and a grid of images of each row in the other."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from soda_jax.reporting.curves import thinned
from soda_jax.reporting.workdir import read_curves

_DPI = 120
_PANEL = (6.0, 3.6)  # inches
_TILE = 2.6  # inches of a row's grid
_ACROSS = 5  # grids side by side
_COLORS = tuple(colormaps["tab10"].colors)
_STYLES = ("-", "--", ":")


def curves(folder: pathlib.Path, record: Mapping[str, Any], path: pathlib.Path) -> bool:
    """Draws `record["curves"]` of all rows, means over seeds in a band from the least to the most.

    Args:
      folder: of the study.
      record: of study.json.
      path: of the PNG.

    Returns:
      Whether there was anything to draw.
    """
    rows = [row["name"] for row in record["rows"] if not row["checkpoint_of"]]
    found = {row: _runs_curves(folder, record, row) for row in rows}
    panels = [name for name in record["curves"] if any(name in curve for seeds in found.values() for curve in seeds)]
    if not panels:
        return False
    figure = Figure(
        figsize=(_PANEL[0] * len(panels), _PANEL[1] + 0.25 * math.ceil(len(rows) / 4)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, row in enumerate(rows):
            _draw(axes, [seeds[name] for seeds in found[row] if seeds.get(name)], row, number)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("step")
        axes.grid(True, alpha=0.3)
        if "loss" in name:
            axes.set_yscale("log")
    handles = {text: line for axes in figure.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return True


def _runs_curves(folder: pathlib.Path, record: Mapping[str, Any], row: str) -> list[dict[str, list[tuple[int, float]]]]:
    """{metric: points} of each seed of a row, damaged lines left out."""
    places = [folder / run["folder"] / "metrics.jsonl" for run in record["runs"] if run["row"] == row]
    return [read_curves(place, []) for place in places]


def _draw(axes: Any, seeds: Sequence[Sequence[tuple[int, float]]], label: str, number: int) -> None:
    """A row's line: its mean at the steps that all its seeds have come to."""
    if not seeds:
        return
    steps = sorted(set.intersection(*({step for step, _ in points} for points in seeds)))
    if not steps:
        return
    values = np.array([[dict(points)[step] for step in steps] for points in seeds])
    color = _COLORS[number % len(_COLORS)]
    style = _STYLES[number // len(_COLORS) % len(_STYLES)]
    points = thinned(list(zip(steps, values.mean(0), strict=True)))
    marker = "o" if len(points) < 12 else ""
    axes.plot(*zip(*points, strict=True), color=color, linestyle=style, label=label, marker=marker, markersize=3)
    if len(seeds) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)


def grids(folder: pathlib.Path, record: Mapping[str, Any], path: pathlib.Path) -> bool:
    """Draws the newest grid of images of each row's first run that has one, as `curves`; False where none has."""
    found = {row["name"]: _newest_grid(folder, record, row["name"]) for row in record["rows"]}
    shown = {name: image for name, image in found.items() if image is not None}
    if not shown:
        return False
    across = min(_ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    shape = max(image.shape[0] / image.shape[1] for image in shown.values())
    figure = Figure(figsize=(_TILE * across, (_TILE * shape + 0.3) * down), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(down, across, squeeze=False).ravel()
    for axes in places:
        axes.axis("off")
    for axes, (name, image) in zip(places, shown.items(), strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=8)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return True


def _newest_grid(folder: pathlib.Path, record: Mapping[str, Any], row: str) -> np.ndarray | None:
    """uint8 [H, W, 3]: what --mode=sample drew of a row, or training at its end."""
    for run in (run for run in record["runs"] if run["row"] == row):
        for pattern in ("samples/grid_*.png", "images/reconstructions_*.png", "images/*.png"):
            for path in sorted((folder / run["folder"]).glob(pattern), reverse=True):
                try:
                    with Image.open(path) as image:
                        return np.asarray(image.convert("RGB"))
                except (OSError, ValueError, SyntaxError):  # cut short by a kill
                    continue
    return None
