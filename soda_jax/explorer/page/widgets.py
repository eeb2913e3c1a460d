"""Parts of the page that several tabs share."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from soda_jax.api import LoadedModel
from soda_jax.explorer.actions import PREVIEW_STEPS, Report, Sampling
from soda_jax.explorer.downloads import Downloads
from soda_jax.explorer.images import Chosen
from soda_jax.latents.directions import StrengthWarning
from soda_jax.models.capabilities import GUIDANCE, NOISE, can

_STEPS = (10, 25, 50, 100)
PROGRESS = gr.Progress()  # as a default argument it tells gradio to pass one of the call's own


class Controls(NamedTuple):
    """Guidance, steps and seed, which all tabs share; those that the model has no use for are hidden."""

    guidance: gr.Slider
    steps: gr.Radio
    seed: gr.Number


class Tab(NamedTuple):
    """What a tab gives to the page.

    Attributes:
      item: the tab.
      name: of `actions.TABS`.
      preview: from (first, second, guidance, steps, seed, *own) to the outputs; None where there is nothing to draw.
      own: what the user may change in this tab.
      outputs: what is drawn.
      refresh: what must be done before the preview when another image is chosen: (function of the first image and
        some of the own inputs, these inputs, its outputs); None for nothing.
    """

    item: gr.Tab
    name: str
    preview: Callable[..., Any] | None
    own: list[Any]
    outputs: list[Any]
    refresh: tuple[Callable[..., Any], list[Any], list[Any]] | None = None


def controls(model: LoadedModel) -> Controls:
    """The settings of the sampler, with the config's values."""
    settings = model.config.sampling
    noise, guided = can(model.inference.model, NOISE), can(model.inference.model, GUIDANCE)
    steps = sorted({*_STEPS, settings.num_steps})
    with gr.Row(visible=noise):
        guidance = gr.Slider(
            0.0,
            max(6.0, settings.guidance_scale),
            settings.guidance_scale if guided else 1.0,
            step=0.1,
            label="Guidance",
            info="1 is none, at half the cost; the paper takes 2 to 3",
            visible=guided,
        )
        chosen = gr.Radio(
            steps, value=settings.num_steps, label="Steps", info=f"of Draw; a preview takes at most {PREVIEW_STEPS}"
        )
        seed = gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed", info="of the noise")
    return Controls(guidance, chosen, seed)


def sampling(model: LoadedModel, guidance: float, steps: int, seed: int | None) -> Sampling:
    """The controls' values as the actions take them."""
    known = model.inference.model
    if not can(known, NOISE):
        return Sampling()
    return Sampling(int(steps), float(guidance) if can(known, GUIDANCE) else None, int(seed or 0))


def needed(chosen: Chosen | None, slot: str) -> Chosen:
    """The image of a slot.

    Raises:
      ValueError: there is none yet.
    """
    if chosen is None:
        raise ValueError(f"image {slot} is missing: upload one, or click one of the held-out images")
    return chosen


def answered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with bad input told to the user in a line, and edits beyond the data with a warning."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", StrengthWarning)
            try:
                found = function(*args)
            except ValueError as error:
                raise gr.Error(str(error), print_exception=False) from error
            except OSError as error:
                raise gr.Error(f"a file cannot be read ({error.strerror})", print_exception=False) from error
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            gr.Warning(message)
        return found

    return call


def reporter(progress: gr.Progress, what: str) -> Report:
    """Shows how many images are drawn."""
    progress(0.0, desc=what)
    return lambda done, total: progress((done, total), desc=what, unit="images")


def picture(label: str, name: str, *, is_film: bool = False) -> gr.Image:
    """One image.

    Args:
      is_film: a GIF, which takes no room before it is drawn.
    """
    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        buttons=[],
        elem_id=name,
        elem_classes="pixels",
        visible=not is_film,
        min_width=140,
        alt_text=label,
    )


def pictures(label: str, name: str, kind: str = "drawn", *, is_later: bool = False) -> gr.Gallery:
    """Several images, in as many columns as there is room for.

    Args:
      kind: "drawn", or "small" for images to choose from or to compare with.
      is_later: takes no room before `pictures_of` fills it.
    """
    return gr.Gallery(
        label=label,
        show_label=False,  # which would lie over the first of them
        format="png",
        interactive=False,
        allow_preview=False,
        height="auto",
        object_fit="contain",
        buttons=[],
        elem_id=name,
        elem_classes=f"pixels flow {kind}",
        visible=not is_later,
    )


def captioned(files: Downloads, images: Sequence[np.ndarray], captions: Sequence[str]) -> list[tuple[str, str]]:
    """Images uint8 [h, h, 3] for `pictures`."""
    return [(files.shown(image), caption) for image, caption in zip(images, captions, strict=True)]


def keep(label: str, name: str) -> gr.DownloadButton:
    """A button that downloads a file once there is one."""
    return gr.DownloadButton(label, interactive=False, size="md", min_width=120, elem_id=name)


def pictures_of(files: Downloads, images: Sequence[np.ndarray], captions: Sequence[str]) -> dict[str, Any]:
    """The update that fills `pictures` of later."""
    return gr.update(value=captioned(files, images, captions), visible=True)


def film_of(path: str) -> dict[str, Any]:
    """The update that shows a GIF in a `picture` for films."""
    return gr.update(value=path, visible=True)


def ready(path: str) -> dict[str, Any]:
    """The update that gives a file to a button of `keep`."""
    return gr.update(value=path, interactive=True)
