"""The tab that moves an image along a direction."""

import math
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from soda_jax.explorer import actions, reach
from soda_jax.explorer.actions import quiet
from soda_jax.explorer.explorer import Explorer
from soda_jax.explorer.images import Chosen
from soda_jax.explorer.page.widgets import (
    PROGRESS,
    Controls,
    Tab,
    answered,
    captioned,
    film_of,
    keep,
    needed,
    picture,
    pictures,
    ready,
    reporter,
    sampling,
)
from soda_jax.inference.series import num_sections
from soda_jax.latents.sections import range_name

_EXTREMES = 3  # real images shown at each end
_FRAMES = 9  # of the film
_NONE_YET = (
    "No directions of this checkpoint are known yet. `python -m soda_jax.tools.edit --workdir=RUN --fit` finds some on "
    "the run's training images; then start the explorer again."
)


class _Asked(NamedTuple):
    """The inputs that say which edit is asked for, in the order of the functions' arguments."""

    direction: gr.Dropdown
    beyond: gr.Checkbox
    position: gr.Slider
    first: gr.Slider
    last: gr.Slider
    hold: gr.Dropdown


class _Results(NamedTuple):
    ruler: gr.HTML
    before: gr.Image
    after: gr.Image
    said: gr.Markdown


def edit(explorer: Explorer, chosen: list[gr.State], common: Controls) -> Tab:
    """Image A moved along a direction of the latent."""
    with gr.Tab("Edit") as item:
        if not explorer.model.directions:
            gr.Markdown(_NONE_YET)
            return Tab(item, "Edit", None, [], [])
        asked = _inputs(explorer)
        results = _outputs()
        with gr.Row():
            draw, along = gr.Button("Draw", variant="primary"), gr.Button("Draw a film along the range")
        film = picture("Along the range", "edit_film", is_film=True)
        with gr.Row():
            png, json_file = keep("Download PNG", "edit_png"), keep("Download edit (JSON)", "edit_json")
            source, gif = keep("Download source PNG", "edit_source"), keep("Download GIF", "edit_gif")
        gr.Markdown("Real images that lie farthest to either side, in sigma")
        extremes = pictures("Real images that lie farthest to either side, in sigma", "edit_extremes", "small")
        gr.Markdown(
            "The JSON is an edit that `python -m soda_jax.tools.edit --workdir=RUN --edit=edit.json "
            "--images=source.png` repeats."
        )
    editing = _Editing(explorer)
    inputs = [*chosen, *common, *asked]
    draw.click(
        answered(editing.full), inputs, [*results, png, json_file, source], api_name="edit", concurrency_id="device"
    )
    along.click(answered(editing.film), inputs, [film, gif], api_name="edit_film", concurrency_id="device")
    refreshed = [asked.position, results.ruler, extremes]
    for control in (asked.direction, asked.beyond):
        control.input(
            answered(editing.refresh),
            [chosen[0], asked.direction, asked.beyond],
            refreshed,
            api_name="edit_range" if control is asked.direction else None,
            api_visibility="public" if control is asked.direction else "private",
            concurrency_id="device",
        ).then(answered(editing.preview), inputs, list(results), api_visibility="private", concurrency_id="device")
    refresh = (editing.refresh, [asked.direction, asked.beyond], refreshed)
    own = list(asked)
    return Tab(item, "Edit", editing.preview, own, list(results), refresh)


def _inputs(explorer: Explorer) -> _Asked:
    directions = explorer.model.directions
    sections = num_sections(explorer.model.inference)
    names = list(directions)
    with gr.Row():
        direction = gr.Dropdown(names, value=names[0], label="Direction", min_width=200)
        hold = gr.Dropdown(names, value=[], multiselect=True, label="Hold (nothing moves along these)", min_width=200)
    with gr.Row(visible=sections > 1):
        first = gr.Slider(0, max(sections - 1, 1), 0, step=1, label="First section that moves (0 is the innermost)")
        last = gr.Slider(0, max(sections - 1, 1), max(sections - 1, 0), step=1, label="Last section that moves")
    position = gr.Slider(-1, 1, 0, step=0.01, label="Place on the direction, in sigma of real images")
    beyond = gr.Checkbox(
        False, label="Beyond the measured range, as far as real images lie", visible=bool(explorer.strengths)
    )
    return _Asked(direction, beyond, position, first, last, hold)


def _outputs() -> _Results:
    ruler = gr.HTML(elem_id="edit_ruler")
    with gr.Row():
        before, after = picture("Before", "edit_before"), picture("After", "edit_after")
    return _Results(ruler, before, after, gr.Markdown())


class _Editing:
    """The tab's functions; all but `refresh` take (first, second, guidance, steps, seed, *_Asked)."""

    def __init__(self, explorer: Explorer):
        self._explorer = explorer
        self._model = explorer.model

    def refresh(self, first: Chosen | None, name: str, beyond: bool) -> tuple[Any, ...]:
        """The slider at the image's own place, with its range; the ruler; the real images at the direction's ends."""
        direction, (own, found) = self._model.directions[name], self._reach(first, name, beyond)
        low, high, at = math.ceil(found.low * 100) / 100, math.floor(found.high * 100) / 100, round(own, 2)
        low, high = min(low, at), max(high, at)
        room = 0.01 if low == high else 0.0  # a slider without room is none
        slider = gr.update(minimum=low - room, maximum=high + room, value=at, interactive=not room, info=found.why)
        held_out = self._explorer.held_out
        rows, places = reach.extremes(direction, self._explorer.codes, _EXTREMES) if len(held_out) else ([], [])
        real = captioned(
            self._explorer.downloads, [held_out.views[row, 0] for row in rows], [f"{place:+.1f}" for place in places]
        )
        return slider, reach.ruler(direction, own, found, at), real

    def preview(self, first, second, guidance, steps, seed, *asked):
        wanted = sampling(self._model, guidance, steps, seed).preview()
        found = actions.edit(self._model, needed(first, "A"), self._edit(*asked), wanted, quiet)
        return self._results(found, first, asked)

    def full(self, first, second, guidance, steps, seed, name, beyond, position, low, high, hold, progress=PROGRESS):
        asked = name, beyond, position, low, high, hold
        wanted, edit_ = sampling(self._model, guidance, steps, seed), self._edit(*asked)
        found = actions.edit(self._model, needed(first, "A"), edit_, wanted, reporter(progress, "drawing"))
        strip = {"image": first.views[0], "before": found.before, f"{edit_.position:+g} sigma": found.after}
        downloads, title = self._explorer.downloads, self._model.directions[edit_.direction].describe()
        files = (
            downloads.strip("edit", strip, title),
            downloads.edit(actions.stored(self._model, edit_, wanted)),
            downloads.source(first),
        )
        return *self._results(found, first, asked), *map(ready, files)

    def film(self, first, second, guidance, steps, seed, name, beyond, position, low, high, hold, progress=PROGRESS):
        edit_ = self._edit(name, beyond, position, low, high, hold)
        _, found = self._reach(needed(first, "A"), edit_.direction, beyond)
        if found.is_empty:
            raise ValueError(f"{found.why} Tick the box to go beyond.")
        positions = np.linspace(found.low, found.high, _FRAMES).tolist()
        wanted, report = sampling(self._model, guidance, steps, seed), reporter(progress, "drawing the film")
        frames = actions.edit_walk(self._model, first, edit_, positions, wanted, report)
        path = self._explorer.downloads.film("edit", frames)
        return film_of(path), ready(path)

    def _reach(self, first: Chosen | None, name: str, beyond: bool) -> tuple[float, reach.Reach]:
        """(the image's own place, 0 where there is no image; how far it may be moved)."""
        own = 0.0 if first is None else actions.place(self._model, first, name)
        return own, reach.reach(self._model.directions[name], own, self._explorer.strengths, beyond=beyond)

    def _edit(self, direction, beyond, position, first, last, hold) -> actions.Edit:
        sections = num_sections(self._model.inference)
        low, high = sorted((int(first), int(last)))
        whole = sections < 2 or (low, high) == (0, sections - 1)
        return actions.Edit(direction, float(position), None if whole else range_name(low, high), tuple(hold))

    def _results(self, found: actions.Edited, first: Chosen, asked: tuple[Any, ...]) -> tuple[Any, ...]:
        direction, beyond, position = asked[:3]
        limits = reach.reach(self._model.directions[direction], found.own, self._explorer.strengths, beyond=beyond)
        ruler = reach.ruler(self._model.directions[direction], found.own, limits, float(position))
        asked_for, realised = (round(value, 2) + 0.0 for value in (found.asked, found.realised))  # without a -0
        said = f"Asked for {asked_for:+.2f} sigma; encoded again, the image has moved by {realised:+.2f}."
        return ruler, *map(self._explorer.downloads.shown, (found.before, found.after)), said
