"""The part of `--mode=evaluate` that works on features: k-NN, probes and disentanglement, beside their baselines.

Of several processes each encodes, and searches the neighbours of, its part of the examples; probes and disentanglement
run whole on every one, because features are small, the fits take minutes, and their results must agree on all.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.config.evaluators import wanted
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import eval_batches, iterate, train_batches
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation import interface
from soda_jax.evaluation.denoiser_choice import Choice, choose
from soda_jax.evaluation.feature_sets import (
    PIXELS_SIDE,
    FeatureSet,
    collect,
    pixels_side,
    probe_spec,
    probe_views,
    raw_pixels,
)
from soda_jax.evaluation.interface import Extract, FeatureContext, FeatureEvaluator, FeatureRequest, FeatureRow
from soda_jax.evaluation.probe_fit import Views
from soda_jax.evaluation.progress import num_batches, shown
from soda_jax.evaluation.record import Results
from soda_jax.inference.denoiser import DenoiserFeatures
from soda_jax.inference.engine import Inference, Variables
from soda_jax.models.capabilities import DENOISER, LATENT, SECTIONS, can, require

DENOISER_FEATURE = "denoiser"  # the value of config.eval.feature
CALIBRATION_BATCHES = 50  # BatchNorm's average forgets its start by 0.9 ** 50
CALIBRATION_SIZE = 256  # examples of each, whatever the batch size that evaluates


class FeatureEvaluation:
    """The feature evaluators that a config names, with the data that they need.

    Args:
      config: the run's.
      inference: its encoder.
      workdir: where features that exceed `config.eval.feature_memory_gib` go while they are used.

    Raises:
      ConfigError: the dataset has no labels to predict, or the model no such features.
      ValueError: augmented views are asked for of a dataset that has none.
    """

    def __init__(self, config: ConfigDict, inference: Inference, workdir: str):
        self._config, self._inference, self._workdir = config, inference, workdir
        names = wanted(config, "features")
        self._of_denoiser = config.eval.feature == DENOISER_FEATURE
        needed = DENOISER if self._of_denoiser else LATENT
        require(inference.model, needed, f"config.eval.feature={config.eval.feature!r}")
        self._train = build.dataset(config, config.data.train_split)
        self._test = build.dataset(config, config_lib.scored_split(config))
        self._spec = build.view_spec(config)
        task = build.probe_task(config, self._train.labels)
        if task is None:
            named = " and ".join(name for name in config.eval.evaluators if name in names)
            raise config_lib.ConfigError(
                f"config.eval.evaluators: {named} need labels, and the dataset has none (or "
                "config.probe.kind is 'none'); leave them out"
            )
        self._task = task
        augmented = config.eval.probe_views != "none"
        self._probe_spec = probe_spec(self._spec, config.eval.probe_crop_rate) if augmented else None
        context = FeatureContext(config.eval, config.probe, inference, workdir, self._num_sections())
        self._groups: dict[FeatureRequest, list[FeatureEvaluator]] = {}
        for name in names:
            evaluator = interface.load(name)(context)
            self._groups.setdefault(evaluator.features, []).append(evaluator)
        self.num_images: dict[str, int] = {}

    def run(self, variables: Variables, results: Results) -> None:
        """Adds the figures of the trained encoder and, if `config.eval.baselines`, of its baselines."""
        encoders = self._of_blocks(variables, results) if self._of_denoiser else self._of_latents(variables)
        for request, evaluators in self._groups.items():
            rows = dict(encoders)
            if self._config.eval.baselines:
                rows["pixels"] = (request.pixels_row, self._pixels(request))
            for kind, (name, extract) in rows.items():
                self._measure(name, kind, extract, request, evaluators, results)

    def _of_latents(self, variables: Variables) -> dict[str, tuple[str, Extract]]:
        """By kind of row: its name, and what makes its features."""
        encoders = {"trained": (self._inference.model.title, self._encoder(variables))}
        if self._config.eval.baselines:
            encoders["untrained"] = ("untrained encoder", self._encoder(self._untrained()))
        return encoders

    def _of_blocks(self, variables: Variables, results: Results) -> dict[str, tuple[str, Extract]]:
        """As `_of_latents`, of the denoiser's blocks; adds what each block gave on held-out training examples."""
        title = self._inference.model.title
        rows = {"trained": (title, DenoiserFeatures(self._inference))}
        if can(self._inference.model, LATENT):
            rows["own_latent"] = (f"{title}, given its own latent", DenoiserFeatures(self._inference, own_latent=True))
        settings, encoders, choices = self._config.eval, {}, {}
        for kind, (name, features) in rows.items():
            choices[kind] = choose(
                features,
                variables,
                lambda: self._batches(self._train, settings.denoiser_examples),
                self._task,
                blocks=settings.denoiser_blocks,
                levels=settings.denoiser_levels,
                seed=self._config.seed,
            )
            results.setdefault(name, {}).update(choices[kind].figures())
            if jax.process_index() == 0:
                print(choices[kind].table(name))
            encoders[kind] = (name, self._block(features, variables, choices[kind]))
        if settings.baselines:  # the same block and level
            block = self._block(rows["trained"][1], self._untrained(), choices["trained"])
            encoders["untrained"] = ("untrained denoiser", block)
        return encoders

    @staticmethod
    def _block(features: DenoiserFeatures, variables: Variables, choice: Choice) -> Extract:
        t = features.timestep(choice.level)
        return lambda batch: features(variables, batch, t)[choice.block]

    def _measure(
        self,
        name: str,
        kind: str,
        extract: Extract,
        request: FeatureRequest,
        evaluators: list[FeatureEvaluator],
        results: Results,
    ) -> None:
        """Adds the figures of one row, whose features are free again afterwards."""
        row = self._row(kind, extract, request)
        train, test = len(row.train.features), len(row.test.features)
        self.num_images |= {f"{request.prefix}train": train, f"{request.prefix}test": test}
        for evaluator in evaluators:
            results.setdefault(name, {}).update(evaluator.run(row))
        if jax.process_index() == 0:
            print(f"{name}: {train} training, {test} test {request.noun}")

    def _num_sections(self) -> int:
        """Of the features; 0 where they are no latent that is cut into sections."""
        model = self._inference.model
        sectioned = can(model, SECTIONS) and model.generator.sectioned
        return self._inference.num_sections if sectioned and self._config.eval.feature in ("latent", "z") else 0

    def _encoder(self, variables: Variables) -> Extract:
        return lambda batch: next(self._inference.encode_batches(variables, [batch], self._config.eval.feature))

    def _pixels(self, request: FeatureRequest) -> Extract:
        """The pixels that `request` asks for; of raw ones as many of each image as fit in memory, which a line says."""
        if request.pixels is not raw_pixels:
            return request.pixels
        settings, resolution = self._config.eval, self._config.data.source_resolution
        count = min(request.train_limit or len(self._train), len(self._train))
        side = pixels_side(count, resolution, settings.feature_memory_gib)
        if side < min(resolution, PIXELS_SIDE) and jax.process_index() == 0:
            print(
                f"raw pixels: {side} x {side} of each image, so that {count} examples fit in "
                f"config.eval.feature_memory_gib={settings.feature_memory_gib:g}"
            )
        return functools.partial(raw_pixels, side=side)

    def _untrained(self) -> Variables:
        inference = self._inference
        batches = train_batches(
            self._train,
            dataclasses.replace(self._spec, min_sources=0),  # as its features: of all sources
            batch_size=inference.round_up(CALIBRATION_SIZE),
            seed=self._config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        some = itertools.islice(iterate(batches), CALIBRATION_BATCHES)
        counted = shown(some, "measuring the untrained encoder's BatchNorm", CALIBRATION_BATCHES)
        return inference.calibrate(inference.untrained_variables(), counted)

    def _row(self, kind: str, extract: Extract, request: FeatureRequest) -> FeatureRow:
        train = self._features(self._train, extract, request.train_limit)
        test = self._features(self._test, extract, request.test_limit)
        return FeatureRow(kind, train, test, lambda: self._views(extract, request.train_limit))

    def _features(
        self,
        dataset: Dataset,
        extract: Extract,
        limit: int,
        spec: ViewSpec | None = None,
        augment_seed: int | None = None,
    ) -> FeatureSet:
        batches = self._batches(dataset, limit, spec, augment_seed)
        memory = self._config.eval.feature_memory_gib
        # Several processes may share the workdir, on a slow disk; each has a temporary folder of its own.
        folder = self._workdir if jax.process_count() == 1 else None
        total = num_batches(len(dataset), limit, self._inference.eval_batch_size)
        return collect(batches, extract, self._task, memory_gib=memory, folder=folder, total=total)

    def _batches(
        self, dataset: Dataset, limit: int, spec: ViewSpec | None = None, augment_seed: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """The first `limit` examples (0: all), as an evaluation shows them or in other views."""
        return eval_batches(
            dataset,
            self._spec if spec is None else spec,
            batch_size=self._inference.eval_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            limit=limit or None,
            num_workers=self._config.data.num_workers,
            augment_seed=augment_seed,
        )

    def _views(self, extract: Extract, limit: int) -> Views | None:
        """Augmented training features by epoch, as `config.eval.probe_views` says."""
        settings, spec, first = self._config.eval, self._probe_spec, self._config.seed

        def extracted(number: int) -> FeatureSet:
            return self._features(self._train, extract, limit, spec, augment_seed=first + number)

        return probe_views(settings.probe_views, settings.probe_cached_views, extracted)
