"""A run's curves as SVG, whose colours are the page's: they follow its light and dark scheme."""

import dataclasses
import io
import math
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

Points = Sequence[tuple[float, float]]

POINTS = 300  # of a line; more are averaged
SIZE = (3.75, 2.35)  # inches at 96 px: a phone's width
SERIES = 8
# Matplotlib draws in these colours, which are then replaced by the page's variables.
_INK, _GRID = "#010203", "#040506"
_LINES = tuple(f"#0a0b{index:02x}" for index in range(SERIES))


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve: its label, its points, and an interval (low, high) at each point where one is known."""

    label: str
    points: Points
    spread: Points | None = None
    markers: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawing: heading, SVG text, and what it shows in words."""

    title: str
    svg: str
    text: str


_LEVEL = ("least noise", "less noise", "more noise", "most noise")
# Heading, logarithmic, {metric: label}. What no chart names is drawn after these, by prefix.
_CHARTS: tuple[tuple[str, bool, dict[str, str]], ...] = (
    ("Loss", True, {"loss": "training", "eval/loss": "held out"}),
    (
        "Held-out loss by latent",
        True,
        {"latent_use/own": "own", "latent_use/other": "another image's", "latent_use/none": "none"},
    ),
    (
        "Share of another latent's loss that is saved",
        False,
        {"latent_use/saved": "all"} | {f"latent_use/saved_t{level}": _LEVEL[level] for level in range(len(_LEVEL))},
    ),
    ("Online probe, held-out accuracy", False, {"probe/mean": "latent", "probe_pixels/mean": "raw pixels"}),
    (
        "Online probe, training accuracy",
        False,
        {"probe/accuracy": "latent", "probe_pixels/accuracy": "raw pixels"},
    ),
    ("Online probe, training loss", False, {"probe/loss": "latent", "probe_pixels/loss": "raw pixels"}),
    ("Gradient norm", True, {"grad_norm/encoder": "encoder", "grad_norm/denoiser": "denoiser"}),
    ("Learning rate", False, {"learning_rate": "learning rate"}),
    ("Images per second", False, {"images_per_second": "training"}),
)
_OF_ALL_LABELS = ("probe/mean", "probe/accuracy", "probe/loss")


def charts(curves: dict[str, list[tuple[int, float]]]) -> list[Chart]:
    """Everything in metrics.jsonl as small charts."""
    drawn = {"grad_norm"}  # of all: next to the denoiser's it shows nothing new
    drawn |= {name for name in curves if name.startswith("latent_use/")}  # the rest of these stands in a table
    labels = [name for name in curves if name.startswith("probe/") and name not in _OF_ALL_LABELS]
    if len(labels) == 1:
        drawn.add(labels[0])  # the mean is the same
    found = []
    for title, logarithmic, names in _CHARTS:
        lines = [Line(label, curves[name]) for name, label in names.items() if curves.get(name)]
        drawn |= set(names)
        if lines:
            found.append(draw(title, lines, "step", logarithmic=logarithmic))
    rest: dict[str, list[Line]] = {}
    for name in sorted(curves.keys() - drawn):
        prefix, _, leaf = name.rpartition("/")
        title = {"probe": "Online probe, held-out accuracy by label"}.get(prefix, prefix or leaf)
        if prefix != "probe_pixels" and curves[name]:
            rest.setdefault(title.replace("_", " "), []).append(Line(leaf.replace("_", " "), curves[name]))
    for title, lines in rest.items():
        parts = [lines[start : start + SERIES] for start in range(0, len(lines), SERIES)]
        found += [draw(title, part, "step") for part in parts[:3]]  # 40 attributes would be more than a page
    return found


def draw(title: str, lines: Sequence[Line], xlabel: str, *, ylabel: str = "", logarithmic: bool = False) -> Chart:
    """A chart of up to `SERIES` lines."""
    lines = lines[:SERIES]
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, line in enumerate(lines):
            _add(axes, line, _LINES[number])
        values = [y for line in lines for _, y in line.points]
        if logarithmic and min(values) > 0:
            axes.set_yscale("log")
            wide = max(values) > 1000 * min(values)
            axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.grid(True)
        if len(lines) > 1:
            axes.legend(loc="best", ncols=2 if len(lines) > 4 else 1)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(title, _inline(file.getvalue(), title), _words(title, lines, xlabel))


def _style() -> dict[str, object]:
    return {
        "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
        "svg.hashsalt": "report",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.edgecolor": _GRID,
        "grid.color": _GRID,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.6,
    }


def _add(axes, line: Line, color: str) -> None:
    points = thinned(line.points)
    x, y = zip(*points, strict=True)
    single = len(points) < 12 or line.markers  # a few measurements show as such
    axes.plot(x, y, color=color, label=line.label, marker="o" if single else "", markersize=3.5)
    if line.spread:
        low, high = zip(*line.spread, strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def thinned(points: Points, limit: int = POINTS) -> Points:
    """At most `limit` points: means of as many neighbouring ones as that takes."""
    if len(points) <= limit:
        return points
    size = math.ceil(len(points) / limit)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(math.fsum(axis) / len(group) for axis in zip(*group, strict=True)) for group in groups]


def _inline(svg: str, title: str) -> str:
    """The <svg> element for an HTML page: page colours, ids of its own, the page's width."""
    svg = svg[svg.index("<svg") :]
    prefix = re.sub(r"\W+", "-", title.lower()).strip("-")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)([^)"]+)', rf"\g<1>{prefix}-\2", svg)
    colors = {_INK: "var(--ink)", _GRID: "var(--line)"}
    colors |= {color: f"var(--series-{number + 1})" for number, color in enumerate(_LINES)}
    for color, variable in colors.items():
        svg = svg.replace(color, variable)
    svg = re.sub(r"font-family:[^;\"]*; ?|<style[^>]*>.*?</style>", "", svg, flags=re.S)  # the page sets the font
    opening, rest = svg.split(">", 1)
    width, height = (float(re.search(rf'{side}="([\d.]+)pt"', opening).group(1)) for side in ("width", "height"))
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{rest}'


def _words(title: str, lines: Sequence[Line], xlabel: str) -> str:
    """First and last value of every line, for whoever cannot see the drawing."""
    parts = []
    for line in lines:
        (first, start), (last, end) = line.points[0], line.points[-1]
        name = f"{line.label} " if len(lines) > 1 else ""
        parts.append(f"{name}{start:.4g} at {xlabel} {first:,}" + (f", {end:.4g} at {last:,}" if last != first else ""))
    return "; ".join(parts) + "."
