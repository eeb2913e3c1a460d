"""What a picture of `--mode=sample` is drawn from, what it is, and how it is written.

`config.pictures` lists the pictures; each is the function `picture` of the module that its entry names.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from soda_jax.config.pictures import NEEDS, PICTURES
from soda_jax.data.datasets import Dataset
from soda_jax.data.views import ViewSpec
from soda_jax.inference.directions import Found
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.series import has_vector, num_sections
from soda_jax.models.capabilities import NOISE, can
from soda_jax.workdir.writers import save_gif, save_mp4, save_png


@dataclasses.dataclass(frozen=True)
class PictureContext:
    """What a picture may be drawn from.

    Attributes:
      inference: encoder and sampler.
      variables: the weights.
      dataset, spec: the held-out split and its views.
      settings: `config.sampling`.
      seed: of the noise.
      found: gives what training images tell about the latent; the first call encodes them.
    """

    inference: Inference
    variables: Variables
    dataset: Dataset
    spec: ViewSpec
    settings: ConfigDict
    seed: int
    found: Callable[[], Found]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
      still: uint8 [H, W, 3].
      frames: of an animation beside it, uint8 [H, W, 3] each; none: there is no animation.
      seconds: that all frames take together.
    """

    still: np.ndarray
    frames: Sequence[np.ndarray] = ()
    seconds: float = 0.0


def missing(name: str, context: PictureContext) -> str:
    """What the picture `name` needs and cannot get, in words; "" where nothing is missing."""
    inference = context.inference
    there = {
        "cameras": lambda: inference.model.pose is not None and inference.model.pose.needs_cameras,
        "vector": lambda: has_vector(inference),
        "sections": lambda: num_sections(inference) > 1,
        "noise": lambda: can(inference.model, NOISE),
        "labels": lambda: bool(context.dataset.labels) and inference.config.probe.kind != "none",
        "images": lambda: len(context.dataset) > 1,
    }
    return next((NEEDS[need] for need in PICTURES[name].needs if not there[need]()), "")


def draw(name: str, context: PictureContext) -> Picture | None:
    """The picture that `config.pictures` lists as `name`; None where model and settings give none.

    Of several processes all must call this.
    """
    if missing(name, context):
        return None
    return importlib.import_module(f"soda_jax.inference.{PICTURES[name].module}").picture(context)


def write(picture: Picture, path: pathlib.Path) -> str:
    """Writes `path`, a PNG, and beside it a GIF and an MP4 of the frames; returns the files in words."""
    save_png(path, picture.still)
    if not picture.frames:
        return f"{path}"
    save_gif(path.with_suffix(".gif"), list(picture.frames), picture.seconds)
    save_mp4(path.with_suffix(".mp4"), list(picture.frames), picture.seconds)
    return f"{path}, .gif and .mp4"
