"""The part of `--mode=evaluate` that works on samples: reconstruction, novel views, diversity and edits."""

import dataclasses
import functools
import itertools

import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.config.evaluators import wanted
from soda_jax.data.datasets import Dataset
from soda_jax.data.datasets.cache import cache_dir
from soda_jax.data.pipeline import iterate, train_batches
from soda_jax.evaluation import interface
from soda_jax.evaluation.image_scores import ImageMetrics, mean_target
from soda_jax.evaluation.interface import ImageContext
from soda_jax.evaluation.progress import shown
from soda_jax.evaluation.record import Results
from soda_jax.inference import directions
from soda_jax.inference.directions import Found
from soda_jax.inference.engine import Inference, Variables

MEAN_TARGETS = 4096  # training views in the mean image: its error is then 1/64 of a pixel's spread
MEAN_BATCH = 64


class ImageEvaluation:
    """The image evaluators that a config names, with the data and the networks' weights that they need.

    Raises:
      ValueError: weights of an image metric are missing or not what they should be; the data do not fit.
    """

    def __init__(self, config: ConfigDict, inference: Inference):
        self._config = config
        settings, split = config.eval, config_lib.scored_split(config)
        metrics = ImageMetrics.load(
            tuple(settings.image_metrics),
            lpips_weights=settings.lpips_weights,
            inception_weights=settings.inception_weights,
            cache_dir=cache_dir() / "frechet",
        )
        self._context = ImageContext(
            settings,
            config.seed,
            inference,
            build.dataset(config, split),
            build.view_spec(config),
            config.data.name,
            split,
            metrics,
            functools.cache(self._mean_image),
            config.data.train_split,
            self._train,
            self._found,
        )
        self.num_images: dict[str, int] = {}

    def run(self, variables: Variables, results: Results) -> None:
        """Adds the figures of the samples and, if `config.eval.baselines`, of what needs no model."""
        evaluators = {name: interface.load(name)(self._context) for name in wanted(self._config, "images")}
        for name, evaluator in evaluators.items():
            for row, figures in evaluator.run(variables).items():
                results.setdefault(row, {}).update(figures)
            self.num_images[name] = evaluator.num_images

    def _train(self) -> Dataset:
        return build.dataset(self._config, self._config.data.train_split)

    def _found(self, variables: Variables, components: int) -> Found:
        inference = self._context.inference
        # Of no model by name: they are used with these weights alone, and not kept.
        return directions.of_run(self._config, inference, variables, "", components=components)

    def _mean_image(self) -> np.ndarray:
        train = self._train()
        spec = dataclasses.replace(self._context.spec, num_sources=1, min_sources=0)
        batches = iterate(train_batches(train, spec, batch_size=MEAN_BATCH, seed=self._config.seed))
        count = MEAN_TARGETS // MEAN_BATCH
        return mean_target(shown(itertools.islice(batches, count), "mean training image", count))
