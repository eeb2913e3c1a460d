"""Held-out images and what is drawn from their latents: the common part of the pictures of the latent space."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from soda_jax import inputs
from soda_jax.data.pipeline import eval_batches
from soda_jax.inference.grids import widened
from soda_jax.inference.pictures import PictureContext
from soda_jax.inference.series import draw_series
from soda_jax.models.capabilities import NOISE, can

SECONDS = 4.0  # of an animation, there and back


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out images.

    Attributes:
      sources: uint8 [N, h, w, 3], the first source view of each.
      z: float32 [N, ...], their latents.
      conditions: the cameras of their targets as arguments of `Inference.sample`; none where the model takes none.
    """

    sources: np.ndarray
    z: np.ndarray
    conditions: dict[str, Any]

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, rows: slice | np.ndarray) -> "HeldOut":
        """Some of them, or some of them repeatedly."""
        return HeldOut(self.sources[rows], self.z[rows], jax.tree.map(lambda x: np.asarray(x)[rows], self.conditions))


def held_out(context: PictureContext, count: int) -> HeldOut:
    """The first `count` held-out images, those of the grid; fewer where there are fewer."""
    batch = next(iter(eval_batches(context.dataset, context.spec, batch_size=count, limit=count)))
    batch = {name: value[batch["mask"]] for name, value in batch.items()}
    source_conditions, target_conditions = context.inference.conditions(batch)
    z = context.inference.encode(context.variables, batch["source"], batch["source_mask"], **source_conditions)
    return HeldOut(batch["source"][:, 0], z, target_conditions)


def draw(
    context: PictureContext,
    shown: HeldOut,
    z: np.ndarray,
    *,
    section_mask: np.ndarray | None = None,
    seed: int | None = None,
) -> np.ndarray:
    """Images uint8 [N, F, H, W, 3] of latents z [N, F, d], by the config's sampler.

    All F frames of a series have the noise and the camera of the image of `shown` that it belongs to.

    Args:
      section_mask: [F, sections] of 0/1; all by default.
      seed: of the noise; the config's by default.
    """
    seen = shown.take(np.repeat(np.arange(len(z)), z.shape[1])).conditions
    if section_mask is not None:
        section_mask = np.broadcast_to(section_mask, (len(z), *section_mask.shape))
    seed = context.seed if seed is None else seed
    images = draw_series(context.inference, context.variables, z, section_mask=section_mask, seed=seed, **seen)
    return inputs.to_uint8(images)


def origin(context: PictureContext) -> str:
    """Where the images come from, for captions: the latent alone, and which noise."""
    if not can(context.inference.model, NOISE):
        return "from z alone (no noise)"
    return f"from z alone (fresh noise of seed {context.seed}, the same in all frames of an image)"


def animation(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames uint8 [H, W, 3] there and back, of one size; none for none."""
    there = widened(frames) if frames else []
    return [*there, *there[-2:0:-1]]
