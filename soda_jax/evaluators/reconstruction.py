"""Reconstruction: PSNR and SSIM between targets and samples drawn from the sources' latents."""

import numpy as np

from soda_jax.data.pipeline import eval_batches
from soda_jax.data.sources import Source
from soda_jax.data.views import ViewSpec
from soda_jax.inference import Inference, Variables
from soda_jax.metrics.image import psnr, ssim


class Reconstruction:
    """Means over `limit` examples (None: all) of a split, each counted once."""

    def __init__(self, inference: Inference, source: Source, spec: ViewSpec, limit: int | None):
        self._inference, self._source, self._spec, self._limit = inference, source, spec, limit

    def run(self, variables: Variables, seed: int = 0) -> dict[str, float]:
        """{"reconstruction/psnr": dB on [0, 1], "reconstruction/ssim": 7x7 uniform kernel}."""
        values: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": []}
        batches = eval_batches(
            self._source, self._spec, batch_size=self._inference.sample_batch_size, limit=self._limit
        )
        first = 0
        for batch in batches:
            real = batch["mask"]
            seen_from, seen_at = self._inference.conditions(batch)
            z = self._inference.encode(variables, batch["source"], batch["source_mask"], **seen_from)
            # Noise by the place in the list of examples: no two share it, and the batch size does not change it.
            sampled = self._inference.sample(variables, z, seed=seed, first_index=first, **seen_at)["images"]
            first += len(real)
            target = batch["target"].astype(np.float32) / 255.0
            for name, metric in (("psnr", psnr), ("ssim", ssim)):
                values[name].append(np.asarray(metric((sampled + 1) / 2, target))[real])
        return {f"reconstruction/{name}": float(np.concatenate(parts).mean()) for name, parts in values.items()}
