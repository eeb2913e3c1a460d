"""Held-out images, what is drawn from their moved latents, and the codes of what was drawn."""

import dataclasses
from typing import Any

import numpy as np
from einops import rearrange

from soda_jax import inputs
from soda_jax.evaluation.batches import whole_batches
from soda_jax.evaluation.interface import ImageContext
from soda_jax.inference import requests
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.series import draw_series
from soda_jax.models.capabilities import NOISE, can


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """Draws series of latents, whose frames share their noise, and encodes the frames again.

    Attributes:
      inference, variables: encoder and sampler, and the weights.
      crop_share: of a drawn image that the encoder is shown.
      steps: of sampling; 0: the config's.
      seed: of the noise.
      guidance_scale: None: the config's.
    """

    inference: Inference
    variables: Variables
    crop_share: float = 1.0
    steps: int = 0
    seed: int = 0
    guidance_scale: float | None = None

    def draw(self, z: np.ndarray) -> np.ndarray:
        """Images float32 [N, F, H, W, 3] in [-1, 1] of latents z [N, F, d]; series n has the noise of image n."""
        options: dict[str, Any] = {}
        if can(self.inference.model, NOISE):
            options = {"guidance_scale": self.guidance_scale, "num_steps": self.steps or None}
        return draw_series(self.inference, self.variables, z, seed=self.seed, **options)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Codes float32 [N, F, d] of drawn images [N, F, H, W, 3], each as the one source, of 8 bits a channel."""
        flat = inputs.to_uint8(rearrange(images, "n f h w c -> (n f) h w c"))
        side = self.inference.config.data.source_resolution
        codes = self.inference.encode(self.variables, requests.source_views(flat, side, self.crop_share))
        return rearrange(codes, "(n f) d -> n f d", f=images.shape[1])


def drawing(context: ImageContext, variables: Variables, guidance_scale: float | None = None) -> Drawing:
    """The drawing that `config.eval` asks for."""
    # Where source and target are the same view, a drawn image is what the encoder sees; else sources may be cropped.
    crop_share = 1.0 if context.spec.policy == "same" else context.spec.eval_crop
    steps = context.settings.edits_steps
    return Drawing(context.inference, variables, crop_share, steps, context.seed, guidance_scale)


def held_out(context: ImageContext, variables: Variables, limit: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes float32 [N, d] of held-out images, at most `limit` (0: all), and their factors int [N, F]; F may be 0."""
    inference = context.inference
    size = inference.sample_batch_size
    codes, factors = [], []
    for batch in whole_batches(context.dataset, context.spec, batch_size=size, limit=limit or None, what=what):
        conditions, _ = inference.conditions(batch)
        z = inference.encode(variables, batch["source"], batch["source_mask"], **conditions)
        codes.append(z[batch["mask"]])
        factors.append(batch.get("factors", np.zeros((len(z), 0), np.int32))[batch["mask"]])
    return np.concatenate(codes), np.concatenate(factors)
