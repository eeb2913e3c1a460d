"""The part of `--mode=evaluate` that works on samples: reconstruction, novel views and diversity."""

import dataclasses
import itertools

import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.data.datasets import Dataset
from soda_jax.data.datasets.cache import cache_dir
from soda_jax.data.pipeline import iterate, train_batches
from soda_jax.evaluation.evaluators.diversity import Diversity
from soda_jax.evaluation.evaluators.novel_view import NovelView, mean_target
from soda_jax.evaluation.evaluators.reconstruction import Reconstruction
from soda_jax.evaluation.image_scores import ImageMetrics
from soda_jax.evaluation.record import Results
from soda_jax.inference.engine import Inference, Variables

MEAN_TARGETS = 4096  # training views in the mean image: its error is then 1/64 of a pixel's spread
MEAN_BATCH = 64


class ImageEvaluation:
    """The image evaluators that a config names, with the data and the networks' weights that they need.

    Raises:
      ValueError: weights of an image metric are missing or not what they should be; the data do not fit.
    """

    def __init__(self, config: ConfigDict, inference: Inference):
        self._config, self._inference = config, inference
        settings = config.eval
        self._metrics = ImageMetrics.load(
            tuple(settings.image_metrics),
            lpips_weights=settings.lpips_weights,
            inception_weights=settings.inception_weights,
            cache_dir=cache_dir() / "frechet",
        )
        self._dataset = build.dataset(config, config.data.eval_split)
        self._spec = build.view_spec(config)
        self.num_images: dict[str, int] = {}

    def run(self, variables: Variables, results: Results) -> None:
        """Adds the figures of the samples ("SODA") and, if `config.eval.baselines`, of what needs no model."""
        wanted = self._config.eval.evaluators
        if "reconstruction" in wanted:
            self._reconstruct(variables, results)
        if "diversity" in wanted:
            limit = self._config.eval.reconstruction_examples or None
            seeds = self._config.eval.diversity_seeds
            evaluator = Diversity(self._inference, self._dataset, self._spec, limit, self._metrics, seeds=seeds)
            results["SODA"] |= evaluator.run(variables)
            self.num_images["diversity"] = self._limited(limit)
        if "novel_view" in wanted:
            self._novel_views(variables, results)

    def _reconstruct(self, variables: Variables, results: Results) -> None:
        settings, data = self._config.eval, self._config.data
        limit = settings.reconstruction_examples or None
        evaluator = Reconstruction(
            self._inference,
            self._dataset,
            self._spec,
            limit,
            self._metrics,
            dataset_name=data.name,
            split=data.eval_split,
            reference_limit=settings.test_examples or None,
        )
        results["SODA"] |= evaluator.run(variables)
        if settings.baselines:
            row = results.setdefault("mean training image", {})
            row |= evaluator.baseline(self._mean_image())
        self.num_images["reconstruction"] = self._limited(limit)

    def _novel_views(self, variables: Variables, results: Results) -> None:
        """Views of held-out objects."""
        settings = self._config.eval
        evaluator = NovelView(
            self._inference,
            self._dataset,
            self._spec,
            counts=tuple(settings.novel_view_sources),
            num_targets=settings.novel_view_targets,
            limit=settings.novel_view_examples or None,
            metrics=self._metrics,
        )
        results["SODA"] |= evaluator.run(variables)
        if settings.baselines:
            for name, row in evaluator.baselines(self._mean_image()).items():
                results.setdefault(name, {}).update(row)
        self.num_images["novel_view"] = evaluator.num_objects

    def _mean_image(self) -> np.ndarray:
        train: Dataset = build.dataset(self._config, self._config.data.train_split)
        spec = dataclasses.replace(self._spec, num_sources=1, min_sources=0)
        batches = iterate(train_batches(train, spec, batch_size=MEAN_BATCH, seed=self._config.seed))
        return mean_target(itertools.islice(batches, MEAN_TARGETS // MEAN_BATCH))

    def _limited(self, limit: int | None) -> int:
        return len(self._dataset) if limit is None else min(limit, len(self._dataset))
