"""Diversity: how far apart samples from one latent are, that is, what the latent leaves open."""

import itertools

import numpy as np

from soda_jax.data.datasets import Dataset
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.batches import all_gather_rows, rows_of_this_process, whole_batches
from soda_jax.evaluation.image_scores import ImageMetrics
from soda_jax.evaluation.interface import ImageContext
from soda_jax.evaluation.record import Figures, Results
from soda_jax.inference.engine import Inference, Variables
from soda_jax.metrics.bootstrap import mean_estimate
from soda_jax.metrics.registry import IMAGE_METRICS

_SEEDS = 2**31  # that the sampler takes without wrapping


class Evaluator:
    """`diversity`: `Diversity` of the examples that are reconstructed, too."""

    def __init__(self, context: ImageContext):
        settings, self._trained = context.settings, context.trained
        # Seeds of runs that follow each other share no noise.
        self._first_seed = context.seed * settings.diversity_seeds % _SEEDS
        limit = settings.reconstruction_examples
        self.num_images = context.count(limit)
        self._diversity = Diversity(
            context.inference,
            context.dataset,
            context.spec,
            limit or None,
            context.metrics,
            seeds=settings.diversity_seeds,
        )

    def run(self, variables: Variables) -> Results:
        return {self._trained: self._diversity.run(variables, self._first_seed)}


class Diversity:
    """Compares samples that share their latent (and camera) and differ by the noise's seed.

    Args:
      inference: encoder and sampler.
      dataset, spec: the held-out split and its views.
      limit: examples, spread over the split; None is all.
      metrics: similarities to compare samples by; Frechet distances and pooled errors do not apply to pairs.
      seeds: samples drawn from each latent, at least 2.
    """

    def __init__(
        self,
        inference: Inference,
        dataset: Dataset,
        spec: ViewSpec,
        limit: int | None,
        metrics: ImageMetrics | None = None,
        *,
        seeds: int = 4,
    ):
        if seeds < 2:
            raise ValueError(f"seeds={seeds}: one sample has nothing to differ from; give 2 or more")
        self._inference, self._dataset, self._spec = inference, dataset, spec
        self._limit, self._seeds = limit, seeds
        metrics = ImageMetrics.load() if metrics is None else metrics
        self._pairwise = {name: metric for name, metric in metrics.pairwise.items() if not IMAGE_METRICS[name].pool}

    def run(self, variables: Variables, seed: int = 0) -> Figures:
        """Figures over examples, with their intervals.

        Returns:
          "diversity/std": standard deviation over the samples of a latent, of pixels in [0, 1], mean over pixels and
          channels; "diversity/METRIC": mean over all pairs of samples of a latent (a high PSNR or SSIM, or a low LPIPS,
          is little diversity).
        """
        values: dict[str, list[np.ndarray]] = {}
        first, size = 0, self._inference.sample_batch_size
        batches = whole_batches(self._dataset, self._spec, batch_size=size, limit=self._limit, what="diversity")
        for batch in batches:
            source_conditions, target_conditions = self._inference.conditions(batch)
            z = self._inference.guide(variables, batch["source"], batch["source_mask"], **source_conditions)
            draws = (
                self._inference.sample(variables, z, seed=seed + number, first_index=first, **target_conditions)
                for number in range(self._seeds)
            )
            samples = np.stack([sampled["images"] for sampled in draws])
            first += size
            for name, found in self._compare(samples[:, rows_of_this_process()]).items():
                values.setdefault(name, []).append(all_gather_rows(found)[batch["mask"]])
        return {f"diversity/{name}": mean_estimate(np.concatenate(parts)) for name, parts in values.items()}

    def _compare(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Values [B] of samples [S, B, H, W, 3] in [-1, 1]."""
        pairs = list(itertools.combinations(samples, 2))
        spread = samples.std(axis=0, ddof=1, dtype=np.float64).mean(axis=(1, 2, 3)) / 2
        return {"std": spread} | {
            name: np.mean([metric(left, right) for left, right in pairs], axis=0)
            for name, metric in self._pairwise.items()
        }
