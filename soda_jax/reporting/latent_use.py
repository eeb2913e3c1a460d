"""How much the denoiser uses the latent, as training's last evaluation found it: a table by noise level, in words."""

import dataclasses
from typing import Any

from soda_jax.diffusion.schedules import SCHEDULES, alphas_cumprod
from soda_jax.metrics.latent_use import (
    GROUP,
    IGNORED,
    LATENTS,
    SAVED,
    in_words,
    level_edges,
    settled_at,
    suffixes,
    verdict,
)
from soda_jax.reporting.metric_names import describe
from soda_jax.reporting.results import Cell, Row, Table

TITLE = describe(GROUP).group
_COLUMNS = ("own latent", "another image's", "none", "own saves of another's", "own saves of none's")
_NORMAL_95 = 1.96


@dataclasses.dataclass(frozen=True)
class LatentUse:
    """The table, and a warning where the denoiser ignores the latent; "" otherwise."""

    table: Table
    warning: str


def latent_use(curves: dict[str, list[tuple[int, float]]], flat: dict[str, Any]) -> LatentUse | None:
    """Of a run's curves and dotted config; None where training measured nothing of it."""
    points = curves.get(f"{GROUP}/saved")
    if not points:
        return None
    step = points[-1][0]
    values = {name: dict(curve) for name, curve in curves.items() if name.startswith(f"{GROUP}/")}
    found = {name: by_step[step] for name, by_step in values.items() if step in by_step}
    shown = [suffix for suffix in suffixes() if f"{GROUP}/saved{suffix}" in found]
    labels = _labels(flat, len(shown) - 1)
    rows = [Row(label, "", "", _cells(found, suffix), None) for label, suffix in zip(labels, shown, strict=True)]
    rows = (*rows[1:], rows[0])  # the levels, and then all of them
    settled = settled_at(
        flat.get("train.num_steps", 0),
        flat.get("optim.warmup_steps", 0),
        flat.get("train.ema_decay", 0.0),
        flat.get("train.ema_warmup", True),
    )
    judged = verdict(found, step, settled)
    told = in_words(judged, found, settled, flat.get("diffusion.latent_mask_rate", 0.0))
    note = (
        f"{told} Mean denoising losses of the same noised images by training itself at step {step:,}, lower is better; "
        "in brackets 95 % intervals over the images."
    )
    return LatentUse(Table(TITLE, _COLUMNS, rows, (), note), told if judged == IGNORED else "")


def _labels(flat: dict[str, Any], levels: int) -> list[str]:
    """What the rows are of: all levels, and each one's timesteps with the share of the image's variance at its ends."""
    steps, schedule = flat.get("diffusion.num_timesteps"), flat.get("diffusion.schedule")
    if not steps or schedule not in SCHEDULES or len(edges := level_edges(steps)) != levels + 1:
        return ["all noise levels", *(f"noise level {level}" for level in range(levels))]
    abar = alphas_cumprod(schedule, steps)
    spans = zip(edges[:-1] + 1, edges[1:], strict=True)
    return ["all noise levels", *(f"t {a:,} to {b:,}, signal {abar[a]:.2f} to {abar[b]:.2f}" for a, b in spans)]


def _cells(found: dict[str, float], suffix: str) -> tuple[Cell | None, ...]:
    losses = [found.get(f"{GROUP}/{name}{suffix}") for name in LATENTS]
    cells = [None if loss is None else Cell(f"{loss:.4f}") for loss in losses]
    for name in SAVED:
        saved, error = (found.get(f"{GROUP}/{name}{suffix}") for name in (name, f"{name}_error"))
        if saved is None or error is None:
            cells.append(None)
            continue
        ends = saved - _NORMAL_95 * error, saved + _NORMAL_95 * error
        cells.append(Cell(f"{saved:.1%}", "[{:.1%}, {:.1%}]".format(*ends)))
    return tuple(cells)
