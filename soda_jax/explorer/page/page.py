"""The page: two images at the top, the sampler's settings, and a tab for each thing that the model can do."""

import functools
import html
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from soda_jax.explorer import images
from soda_jax.explorer.explorer import Explorer
from soda_jax.explorer.images import Chosen
from soda_jax.explorer.page import tabs
from soda_jax.explorer.page.edit_tab import edit
from soda_jax.explorer.page.widgets import Controls, Tab, answered, captioned, controls, picture, pictures
from soda_jax.models.capabilities import NOISE, can

_DRAWN = 12  # held-out images shown at a time
_BUILDERS = {
    "Reconstruct": tabs.reconstruct,
    "Walk": tabs.walk,
    "Edit": edit,
    "Mix": tabs.mix,
    "Resample": tabs.resample,
    "Novel view": tabs.novel_view,
}
_HOUR = 3600
_SKIP = (gr.skip(), gr.skip())  # a slot's image and credit stay
# Small images keep sharp pixels; galleries have as many columns as there is room for; buttons stay apart on phones.
CSS = """
.pixels img { image-rendering: pixelated; object-fit: contain !important; }
.flow.small .grid-container { grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)) !important; }
.flow.drawn .grid-container { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) !important; }
.flow, .flow .grid-wrap { min-height: 0 !important; max-height: none !important; height: auto !important; }
.flow .thumbnail-item { min-width: 0; }
.credit p { font-size: .75rem; opacity: .8; overflow-wrap: anywhere; }
.flow .caption-label { font-size: .75rem; }
:focus-visible { outline: 3px solid #e8590c !important; outline-offset: 2px; }
"""


class _Slot:
    """One of the two images: what it shows, and how another one is chosen."""

    def __init__(self, name: str, first: Chosen | None):
        self.name = name
        with gr.Column(min_width=140):
            self.state = gr.State(first)
            self.image = picture(name, f"image_{name}")
            self.credit = gr.HTML(elem_id=f"credit_{name}", elem_classes="credit")
            self.upload = gr.UploadButton(
                f"Upload {name}", file_types=["image"], size="md", elem_id=f"upload_{name}", min_width=120
            )

    @property
    def shown(self) -> tuple[gr.Image, gr.HTML]:
        """What `_in_slot` updates."""
        return self.image, self.credit


def build(explorer: Explorer) -> gr.Blocks:
    """The page of an explorer.

    Raises:
      ValueError: the model can give none of the tabs.
    """
    offered = explorer.tabs
    with gr.Blocks(title=f"SODA: {explorer.title}", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        gr.Markdown(f"# SODA: {explorer.title}\n{_about(explorer)}")
        with gr.Row():
            slots = [_Slot("A", _at(explorer, 0))]
            if {"Walk", "Mix"} & set(offered):
                slots.append(_Slot("B", _at(explorer, 1)))
            second = slots[1].state if len(slots) > 1 else gr.State(None)
        pick = _held_out(explorer, [slot.name for slot in slots])
        common = controls(explorer.model)
        chosen = [slots[0].state, second]
        current = gr.State(offered[0])
        with gr.Tabs():
            made = [_BUILDERS[name](explorer, chosen, common) for name in offered]
        _connect(explorer, page, slots, pick, chosen, common, current, made)
    return page.queue(default_concurrency_limit=1)


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serves the page of `build`; `options` are those of gradio's own `launch`."""
    # The fonts of the machine: gradio's own would come from another server.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return page.launch(
        theme=theme,
        css=CSS,
        max_file_size=images.MOST_BYTES,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        **options,
    )


def _about(explorer: Explorer) -> str:
    model, held_out = explorer.model, explorer.held_out
    side = model.config.data.resolution
    lines = [f"Checkpoint {model.step}; images of {side} x {side} pixels."]
    lines += [f"Held-out images: {held_out.origin}."] if len(held_out) else ["Upload an image to begin."]
    return " ".join(lines)


def _at(explorer: Explorer, place: int) -> Chosen | None:
    return explorer.held_out[place] if place < len(explorer.held_out) else None


def _held_out(explorer: Explorer, slots: list[str]) -> tuple[gr.Gallery, gr.Button, gr.Radio, gr.State] | None:
    """(gallery, button for others, slot that a click fills, places of those that are shown); None without images."""
    held_out = explorer.held_out
    if len(held_out) == 0:
        return None
    rows = np.arange(min(_DRAWN, len(held_out))).tolist()
    with gr.Accordion("Held-out images", open=True):
        with gr.Row():
            slot = gr.Radio(slots, value=slots[0], label="A click chooses image", visible=len(slots) > 1)
            others = gr.Button("Draw others", min_width=120, elem_id="draw_others")
        gallery = pictures("Held-out images", "held_out", "small")
    return gallery, others, slot, gr.State((rows, 0))


def _connect(
    explorer: Explorer,
    page: gr.Blocks,
    slots: list[_Slot],
    pick: tuple[gr.Gallery, gr.Button, gr.Radio, gr.State] | None,
    chosen: list[gr.State],
    common: Controls,
    current: gr.State,
    made: list[Tab],
) -> None:
    """What happens on the page: an image is chosen, a setting changed, a tab opened."""
    after = functools.partial(_redraw, chosen=chosen, common=common, current=current, made=made)
    for slot in slots:
        event = slot.upload.upload(
            answered(functools.partial(_uploaded, explorer)),
            [slot.upload],
            [slot.state, *slot.shown],
            api_name=f"upload_{slot.name}",
            concurrency_id="device",
        )
        after(event)
    opened = page.load(
        functools.partial(_opened, explorer, len(slots)),
        None,
        [part for slot in slots for part in slot.shown],
        api_visibility="private",
    )
    if pick is not None:
        gallery, others, slot_choice, shown_rows = pick
        outputs = [part for slot in slots for part in (slot.state, *slot.shown)]
        after(
            gallery.select(
                _picker(explorer, [slot.name for slot in slots]),
                [slot_choice, shown_rows],
                outputs,
                api_visibility="private",
                concurrency_id="device",
            )
        )
        others.click(
            functools.partial(_others, explorer), [shown_rows], [gallery, shown_rows], api_visibility="private"
        )
        page.load(functools.partial(_gallery, explorer), [shown_rows], [gallery], api_visibility="private")
    after(opened)
    for tab in made:
        _connect_tab(explorer, tab, chosen, common, current)


def _connect_tab(explorer: Explorer, tab: Tab, chosen: list[gr.State], common: Controls, current: gr.State) -> None:
    """Opening the tab, and each change in it, draws a preview; a later change replaces one that waits."""
    opened = tab.item.select(lambda: tab.name, None, current, api_visibility="private", queue=False)
    if tab.preview is None:
        return
    if tab.refresh is not None:
        function, inputs, outputs = tab.refresh
        opened = opened.then(
            _silent(answered(function)),
            [chosen[0], *inputs],
            outputs,
            api_visibility="private",
            concurrency_id="device",
        )
    inputs = [*chosen, *common, *tab.own]
    drawn = {"api_visibility": "private", "concurrency_id": "device", "show_progress": "minimal"}
    opened.then(_silent(answered(tab.preview)), inputs, tab.outputs, **drawn)
    refreshing = [] if tab.refresh is None else tab.refresh[1]
    changes = [control.input for control in tab.own if control not in refreshing]
    name = f"preview_{tab.name.lower().replace(' ', '_')}"
    gr.on(
        changes,
        answered(tab.preview),
        inputs,
        tab.outputs,
        trigger_mode="always_last",
        api_name=name,
        **drawn | {"api_visibility": "public"},
    )
    if not can(explorer.model.inference.model, NOISE):
        return
    gr.on(
        [common.guidance.input, common.seed.input],
        _when(tab.name, _silent(answered(tab.preview))),
        [current, *inputs],
        tab.outputs,
        trigger_mode="always_last",
        **drawn,
    )


def _redraw(event: Any, *, chosen: list[gr.State], common: Controls, current: gr.State, made: list[Tab]) -> None:
    """After `event`, which chose another image: the open tab is drawn again."""
    for tab in made:
        if tab.preview is None:
            continue
        drawn = {"api_visibility": "private", "concurrency_id": "device", "show_progress": "minimal"}
        if tab.refresh is not None:
            function, inputs, outputs = tab.refresh
            refreshed = _when(tab.name, _silent(answered(function)))
            event = event.success(refreshed, [current, chosen[0], *inputs], outputs, **drawn)
        preview = _when(tab.name, _silent(answered(tab.preview)))
        event = event.success(preview, [current, *chosen, *common, *tab.own], tab.outputs, **drawn)


def _when(name: str, function: Any) -> Any:
    """The function where the tab `name` is open; else nothing changes."""
    return lambda current, *args: function(*args) if current == name else gr.skip()


def _silent(function: Any) -> Any:
    """The function; nothing changes, without a word, where an image that it needs is not chosen yet."""
    return lambda *args: gr.skip() if args[0] is None else function(*args)


def _uploaded(explorer: Explorer, path: str | None) -> tuple[Chosen, dict[str, Any], str]:
    if path is None:
        raise ValueError("no file came: choose an image")
    found = images.of_upload(path, explorer.model)
    return found, *_in_slot(explorer, found)


def _in_slot(explorer: Explorer, chosen: Chosen) -> tuple[dict[str, Any], str]:
    """The updates that show an image in its slot, and below it its name, which may be a long credit."""
    return gr.update(value=explorer.downloads.shown(chosen.views[0])), f"<p>{html.escape(chosen.name)}</p>"


def _opened(explorer: Explorer, slots: int) -> list[Any]:
    """The first images, as a page that is opened shows them."""
    found = [_at(explorer, place) for place in range(slots)]
    return [part for chosen in found for part in (_SKIP if chosen is None else _in_slot(explorer, chosen))]


def _gallery(explorer: Explorer, shown_rows: tuple[list[int], int]) -> list[Any]:
    rows = shown_rows[0]
    return captioned(explorer.downloads, [explorer.held_out.views[row, 0] for row in rows], [str(row) for row in rows])


def _others(explorer: Explorer, shown_rows: tuple[list[int], int]) -> tuple[list[Any], tuple[list[int], int]]:
    seed = shown_rows[1] + 1
    found = explorer.held_out.rows(_DRAWN, seed).tolist(), seed
    return _gallery(explorer, found), found


def _picker(explorer: Explorer, names: list[str]) -> Callable[..., list[Any]]:
    """What a click on the gallery does: the clicked image comes into its slot, and the other slot stays."""

    def picked(slot: str, shown_rows: tuple[list[int], int], event: gr.SelectData) -> list[Any]:
        found = explorer.held_out[shown_rows[0][event.index]]
        updates: list[Any] = []
        for name in names:
            updates += [found, *_in_slot(explorer, found)] if name == slot else [gr.skip(), *_SKIP]
        return updates

    return picked
