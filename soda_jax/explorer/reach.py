"""How far an edit along a direction may go, and the real images at its ends."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from soda_jax.api import LoadedModel
from soda_jax.latents.directions import Direction
from soda_jax.reporting.workdir import Evaluation, parse_evaluation
from soda_jax.workdir import export as exports

Strengths = Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Reach:
    """Where on a direction an image may be moved to, in sigma from the real codes' mean.

    Attributes:
      low, high: the ends; the image's own place lies between them.
      why: what sets them, a sentence.
    """

    low: float
    high: float
    why: str

    @property
    def is_empty(self) -> bool:
        return self.high - self.low < 1e-6


def measured_strengths(model: LoadedModel) -> dict[str, tuple[float, float]]:
    """{direction: (lowest, highest) strength that does what it says}, as the evaluator `edits` measured this very
    checkpoint; {} where it was not run."""
    figures = _figures(model)
    ends = ("safe_low", "safe_high")
    names = [name.removeprefix("edits/").removesuffix("/safe_low") for name in figures if name.endswith("/safe_low")]
    found = {name: tuple(float(figures.get(f"edits/{name}/{end}", np.nan)) for end in ends) for name in names}
    return {name: strengths for name, strengths in found.items() if np.isfinite(strengths).all()}


def reach(direction: Direction, own: float, strengths: Strengths, *, beyond: bool = False) -> Reach:
    """How far an image may be moved.

    Args:
      own: the image's place on the direction, in sigma from the real codes' mean.
      strengths: of `measured_strengths`.
      beyond: as far as real codes lie, whatever was measured.
    """
    real = min(direction.low, own), max(direction.high, own)
    if direction.name not in strengths or beyond:
        why = "99.8% of the real images lie between the ends."
        if direction.name not in strengths:
            why += " How far edits do what they say was not measured (`--mode=evaluate` with the evaluator `edits`)."
        return Reach(*real, why)
    low, high = strengths[direction.name]
    found = Reach(
        max(real[0], own + min(low, 0.0)),
        min(real[1], own + max(high, 0.0)),
        f"Edits of {low:+g} to {high:+g} sigma were measured to do what they say.",
    )
    if found.is_empty:
        return dataclasses.replace(found, why="No strength of this direction was measured to do what it says.")
    return found


def extremes(direction: Direction, codes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The real images farthest to either side.

    Args:
      codes: [N, d], of real images.
      count: of images at each end; fewer where there are not twice as many.

    Returns:
      (rows of `codes`, their places in sigma), from the lowest to the highest.
    """
    position = direction.position(codes)
    order = np.argsort(position, kind="stable")
    count = min(count, len(order) // 2)
    rows = np.concatenate([order[:count], order[len(order) - count :]])
    return rows, position[rows]


def ruler(direction: Direction, own: float, found: Reach, position: float) -> str:
    """The direction as an SVG: where real codes lie, how far the slider reaches, the image's own and its new place."""
    left, right = min(direction.low, own, position) - 0.3, max(direction.high, own, position) + 0.3

    def x(value: float) -> float:
        return 10 + 380 * (value - left) / (right - left)

    ticks = range(int(np.ceil(left)), int(np.floor(right)) + 1)
    marks = "".join(
        f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="30" y2="36" stroke="currentColor"/>'
        f'<text x="{x(tick):.1f}" y="49" text-anchor="middle" font-size="11" fill="currentColor">{tick:+d}</text>'
        for tick in ticks
    )
    label = (
        f"Own place {own:+.2f} sigma, moved to {position:+.2f}; the slider reaches from {found.low:+.2f} to "
        f"{found.high:+.2f}, real images from {direction.low:+.2f} to {direction.high:+.2f}"
    )
    return (
        f'<svg viewBox="0 0 400 56" role="img" aria-label="{label}" style="width:100%;max-width:40rem">'
        f"<title>{label}</title>"
        f'<rect x="{x(direction.low):.1f}" y="22" width="{x(direction.high) - x(direction.low):.1f}" height="6" '
        'rx="3" fill="currentColor" opacity=".2"/>'
        f'<rect x="{x(found.low):.1f}" y="22" width="{max(x(found.high) - x(found.low), 1):.1f}" height="6" rx="3" '
        'fill="#2e9e5b"/>'
        f'{marks}<circle cx="{x(position):.1f}" cy="25" r="6" fill="#e8590c"/>'
        f'<path d="M{x(own):.1f} 20 l-5 -9 h10 z" fill="currentColor"/>'
        f'<text x="{min(max(x(own), 20), 380):.1f}" y="9" text-anchor="middle" font-size="11" fill="currentColor">own'
        "</text></svg>"
    )


def _figures(model: LoadedModel) -> Mapping[str, Any]:
    """The checkpoint's own figures: of its evaluation, or of what an export says of it; {} where there are none."""
    if model.workdir is None:
        return {}
    if exports.is_export(model.workdir):
        about = model.meta["about"]
        content, path = {"results": about.get("figures", {}), "model": about.get("model", "")}, pathlib.Path()
        content |= {"step": model.step, "weights": model.weights_digest}
    else:
        path = pathlib.Path(model.workdir) / f"evaluation_{model.step:08d}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    try:
        found: Evaluation = parse_evaluation(content, path)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found.own if found.details.get("weights") == model.weights_digest else {}
