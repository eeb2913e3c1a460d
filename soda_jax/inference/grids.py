"""PNG grids: source | target | reconstruction or novel view | unconditional sample, one row an example.

Columns that the model cannot fill are left out.
Where the model takes cameras, the unconditional sample is a new object as the target's camera sees it ("pose only").
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from soda_jax import inputs
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.pictures import Picture, PictureContext
from soda_jax.models.capabilities import SOURCE, UNCONDITIONAL, can

MIN_SIDE = 96  # smaller images are enlarged a whole number of times, so that a person can see them
PADDING = 4
HEADER = 22  # height of the captions
STEP = 32  # the margin's width for captions of rows is a multiple of it


def picture(context: PictureContext) -> Picture:
    """The grid of the first `config.sampling.num_images` held-out examples."""
    grid = GridWriter(context.inference, context.dataset, context.spec, context.settings.num_images)
    return Picture(grid.draw(context.variables, seed=context.seed))


class GridWriter:
    """Draws grids of fixed held-out examples.

    Args:
      inference: encoder and sampler.
      dataset, spec: the split and its views.
      count: rows.
    """

    def __init__(self, inference: Inference, dataset: Dataset, spec: ViewSpec, count: int):
        self._inference = inference
        self._batch = next(iter(eval_batches(dataset, spec, batch_size=count, limit=count)))
        self._third = "novel view" if spec.policy == "camera" else "reconstruction"

    def draw(self, variables: Variables, seed: int = 0) -> np.ndarray:
        """The grid, uint8 [H, W, 3]."""
        batch, real = self._batch, self._batch["mask"]
        source_conditions, target_conditions = self._inference.conditions(batch)
        columns = {"source": batch["source"][:, 0], "target": batch["target"]}
        if can(self._inference.model, SOURCE):
            z = self._inference.guide(variables, batch["source"], batch["source_mask"], **source_conditions)
            columns[self._third] = self._images(self._inference.sample(variables, z, seed=seed, **target_conditions))
        if can(self._inference.model, UNCONDITIONAL):
            # With a camera, what no source guides is still seen from the target's.
            name = "pose only" if target_conditions else "unconditional"
            sampled = self._inference.sample_unconditional(variables, len(real), seed=seed, **target_conditions)
            columns[name] = self._images(sampled)
        return image_grid({name: images[real] for name, images in columns.items()})

    @staticmethod
    def _images(sampled: dict[str, np.ndarray]) -> np.ndarray:
        return inputs.to_uint8(sampled["images"])


def display_side(side: int) -> int:
    """The side at which square images of `side` pixels are drawn: a whole multiple, at least `MIN_SIDE`."""
    return side * -(-MIN_SIDE // side)


def image_grid(columns: Mapping[str, Sequence[np.ndarray]], *, rows: Sequence[str] = (), title: str = "") -> np.ndarray:
    """Columns of square uint8 images [h, h, 3] (sides may differ) under their captions.

    Args:
      columns: by caption. A column is as wide as its images, or as its caption where that is wider.
      rows: captions at the left, of one line or more, one for each row of images.
      title: lines above all columns.
    """
    side = display_side(max(len(image) for images in columns.values() for image in images))
    count = max(len(images) for images in columns.values())
    widths = [max(side, _text_size(caption)[0] + PADDING) for caption in columns]
    # In steps, so that columns of grids whose captions are about as long stand below each other.
    margin = -(-(max(_text_size(row)[0] for row in rows) + PADDING) // STEP) * STEP if rows else 0
    title_size = _text_size(title)
    top = HEADER + (title_size[1] + 2 * PADDING if title else 0)
    width = max(PADDING + margin + sum(widths) + PADDING * len(widths), title_size[0] + 2 * PADDING)
    canvas = Image.new("RGB", (width, top + (side + PADDING) * count), "white")
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((PADDING, PADDING), title, fill="black", font=_font())
    for row, caption in enumerate(rows):
        place = (PADDING, top + row * (side + PADDING) + side / 2)
        pen.text(place, caption, fill="black", font=_font(), anchor="lm")
    left = PADDING + margin
    for (caption, images), room in zip(columns.items(), widths, strict=True):
        pen.text((left + room / 2, top - HEADER / 2), caption, fill="black", font=_font(), anchor="mm")
        for row, image in enumerate(images):
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (left + (room - side) // 2, top + row * (side + PADDING)))
        left += room + PADDING
    return np.asarray(canvas)


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 [H, W, 3] one below the other, narrower ones filled up with white."""
    return np.concatenate(widened(parts))


def widened(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pictures uint8 [H, W, 3], white at the right where others are wider."""
    width = max(part.shape[1] for part in parts)
    return [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in parts]


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=13)


def _text_size(text: str) -> tuple[int, int]:
    """Width and height of a text of one line or more, in pixels."""
    if not text:
        return 0, 0
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=_font())
    return math.ceil(right - min(left, 0)), math.ceil(bottom - min(top, 0))
