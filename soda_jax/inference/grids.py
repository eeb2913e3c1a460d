"""PNG grids: source | target | reconstruction or novel view | unconditional sample, one row an example.

Columns that the model cannot fill are left out.
Where the model takes cameras, the unconditional sample is a new object as the target's camera sees it ("pose only").
"""

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


def image_grid(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Columns of square uint8 images [N, h, h, 3] (sides may differ between columns) under their captions."""
    side = display_side(max(images.shape[1] for images in columns.values()))
    rows = max(len(images) for images in columns.values())
    font = ImageFont.load_default(size=13)
    cell = side + PADDING
    canvas = Image.new("RGB", (PADDING + cell * len(columns), HEADER + cell * rows), "white")
    pen = ImageDraw.Draw(canvas)
    for column, (caption, images) in enumerate(columns.items()):
        left = PADDING + column * cell
        pen.text((left + side / 2, HEADER / 2), caption, fill="black", font=font, anchor="mm")
        for row, image in enumerate(images):
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (left, HEADER + row * cell))
    return np.asarray(canvas)
