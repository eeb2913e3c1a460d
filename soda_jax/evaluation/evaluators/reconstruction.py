"""Reconstruction: how much samples drawn from the sources' latents are like the targets (SODA 4.2.1)."""

from collections.abc import Iterator

import numpy as np

from soda_jax.data.datasets import Dataset
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.batches import whole_batches
from soda_jax.evaluation.frechet import Frechet
from soda_jax.evaluation.image_scores import ImageMetrics, ImageScores
from soda_jax.evaluation.interface import MEAN_IMAGE, ImageContext
from soda_jax.evaluation.record import Figures, Results
from soda_jax.inference.engine import Inference, Variables
from soda_jax.metrics.frechet import FeatureStatistics


class Evaluator:
    """`reconstruction`: `Reconstruction` and, if `config.eval.baselines`, the mean training image in every place."""

    def __init__(self, context: ImageContext):
        settings, self._trained, self._seed = context.settings, context.trained, context.seed
        limit = settings.reconstruction_examples
        self.num_images = context.count(limit)
        self._mean_image = context.mean_image if settings.baselines else None
        self._reconstruction = Reconstruction(
            context.inference,
            context.dataset,
            context.spec,
            limit or None,
            context.metrics,
            dataset_name=context.dataset_name,
            split=context.split,
            reference_limit=settings.test_examples or None,
        )

    def run(self, variables: Variables) -> Results:
        rows: Results = {self._trained: self._reconstruction.run(variables, self._seed)}
        return rows | ({MEAN_IMAGE: self._reconstruction.baseline(self._mean_image())} if self._mean_image else {})


class Reconstruction:
    """Scores over `limit` examples (None: all) of a split, each counted once.

    Frechet distances are from the targets of the whole split, or `reference_limit` of them.

    Args:
      inference: encoder and sampler.
      dataset, spec: the held-out split and its views.
      limit: examples, spread over the split.
      metrics: PSNR and SSIM by default.
      dataset_name, split: for the files of reference statistics.
    """

    def __init__(
        self,
        inference: Inference,
        dataset: Dataset,
        spec: ViewSpec,
        limit: int | None,
        metrics: ImageMetrics | None = None,
        *,
        dataset_name: str = "",
        split: str = "",
        reference_limit: int | None = None,
    ):
        self._inference, self._dataset, self._spec, self._limit = inference, dataset, spec, limit
        self._metrics = ImageMetrics.load() if metrics is None else metrics
        self._reference = {"dataset_name": dataset_name, "split": split, "limit": reference_limit}

    def run(self, variables: Variables, seed: int = 0) -> Figures:
        """{"reconstruction/METRIC": figure}; sampling noise follows from `seed` and an example's place in the list."""
        scores = ImageScores(self._metrics)
        for first, batch in self._batches("reconstruction"):
            source_conditions, target_conditions = self._inference.conditions(batch)
            z = self._inference.guide(variables, batch["source"], batch["source_mask"], **source_conditions)
            # Noise by the place in the list of examples: no two share it, and the batch size does not change it.
            sampled = self._inference.sample(variables, z, seed=seed, first_index=first, **target_conditions)["images"]
            scores.add(sampled, batch["target"], batch["mask"])
        return scores.figures("reconstruction", self._statistics)

    def baseline(self, mean_image: np.ndarray) -> Figures:
        """As `run`, for the same image [H, W, 3] in [0, 1] in place of every sample; no Frechet distances."""
        scores = ImageScores(self._metrics, frechet=False)
        for _, batch in self._batches("mean image"):
            shown = np.broadcast_to(2 * mean_image - 1, batch["target"].shape)
            scores.add(shown, batch["target"], batch["mask"])
        return scores.figures("reconstruction")

    def _batches(self, what: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        size = self._inference.sample_batch_size
        batches = whole_batches(self._dataset, self._spec, batch_size=size, limit=self._limit, what=what)
        for number, batch in enumerate(batches):
            yield number * size, batch

    def _statistics(self, frechet: Frechet) -> FeatureStatistics:
        size = self._inference.sample_batch_size
        return frechet.reference(self._dataset, self._spec, batch_size=size, **self._reference)
