"""What a picture of `--mode=sample` is drawn from, what it is, and how it is written.

`config.pictures` lists the pictures; each is the function `picture` of the module that its entry names.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from soda_jax.config.pictures import PICTURES
from soda_jax.data.datasets import Dataset
from soda_jax.data.views import ViewSpec
from soda_jax.inference.engine import Inference, Variables
from soda_jax.workdir.writers import save_gif, save_png


@dataclasses.dataclass(frozen=True)
class PictureContext:
    """What a picture may be drawn from.

    Attributes:
      inference: encoder and sampler.
      variables: the weights.
      dataset, spec: the held-out split and its views.
      settings: `config.sampling`.
      seed: of the noise.
    """

    inference: Inference
    variables: Variables
    dataset: Dataset
    spec: ViewSpec
    settings: ConfigDict
    seed: int


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


def draw(name: str, context: PictureContext) -> Picture | None:
    """The picture that `config.pictures` lists as `name`; None where model and settings give none.

    Of several processes all must call this.
    """
    return importlib.import_module(f"soda_jax.inference.{PICTURES[name].module}").picture(context)


def write(picture: Picture, path: pathlib.Path) -> str:
    """Writes `path`, a PNG, and beside it a GIF of the frames; returns the files in words."""
    save_png(path, picture.still)
    if not picture.frames:
        return f"{path}"
    save_gif(path.with_suffix(".gif"), list(picture.frames), picture.seconds)
    return f"{path} and .gif"
