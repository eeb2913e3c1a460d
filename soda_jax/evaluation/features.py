"""The part of `--mode=evaluate` that works on features: k-NN, probes and disentanglement, beside their baselines.

Of several processes each encodes, and searches the neighbours of, its part of the examples; probes and disentanglement
run whole on every one, because features are small, the fits take minutes, and their results must agree on all.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import eval_batches, iterate, train_batches
from soda_jax.data.transforms import resize
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.evaluators.batches import all_gather
from soda_jax.evaluation.evaluators.disentanglement import Disentanglement
from soda_jax.evaluation.evaluators.features import (
    PIXELS_SIDE,
    FeatureSet,
    collect,
    pixels_side,
    probe_spec,
    probe_views,
    raw_pixels,
)
from soda_jax.evaluation.evaluators.few_shot import FewShot
from soda_jax.evaluation.evaluators.knn import KNN
from soda_jax.evaluation.evaluators.linear_probe import LinearProbeEvaluator
from soda_jax.evaluation.progress import num_batches
from soda_jax.evaluation.record import Results
from soda_jax.inference.engine import Inference, Variables
from soda_jax.models.modulation import is_sectioned, section_sizes

CALIBRATION_BATCHES = 50  # BatchNorm's average forgets its start by 0.9 ** 50
CALIBRATION_SIZE = 256  # examples of each, whatever the batch size that evaluates
CODE_SIDE = 16  # of the images whose pixels are codes: trees on more would take hours
CODE_PIXELS = f"raw pixels, {CODE_SIDE} x {CODE_SIDE}"

Batch = dict[str, np.ndarray]
Extract = Callable[[Batch], np.ndarray]


class FeatureEvaluation:
    """The feature evaluators that a config names, with the data that they need.

    Args:
      config: the run's.
      inference: its encoder.
      workdir: where features that exceed `config.eval.feature_memory_gib` go while they are used.

    Raises:
      ConfigError: the dataset has no labels to predict.
      ValueError: augmented views are asked for of a dataset that has none.
    """

    def __init__(self, config: ConfigDict, inference: Inference, workdir: str):
        self._config, self._inference, self._workdir = config, inference, workdir
        self._wanted = [name for name in config.eval.evaluators if name in config_lib.FEATURE_EVALUATORS]
        self._train = build.dataset(config, config.data.train_split)
        self._test = build.dataset(config, config.data.eval_split)
        self._spec = build.view_spec(config)
        task = build.probe_task(config, self._train.labels)
        if task is None:
            raise config_lib.ConfigError(
                f"config.eval.evaluators: {' and '.join(self._wanted)} need labels, and the dataset has none (or "
                "config.probe.kind is 'none'); leave them out"
            )
        self._task = task
        augmented = config.eval.probe_views != "none"
        self._probe_spec = probe_spec(self._spec, config.eval.probe_crop_rate) if augmented else None
        self.num_images: dict[str, int] = {}

    def run(self, variables: Variables, results: Results) -> None:
        """Adds the figures of the trained encoder ("SODA") and, if `config.eval.baselines`, of its baselines."""
        rows = {"SODA": self._encoder(variables)}
        if self._config.eval.baselines:
            rows["untrained encoder"] = self._encoder(self._untrained())
        pixels: dict[str, Extract] = {"raw pixels": self._pixels()} if self._config.eval.baselines else {}
        if set(self._wanted) - {"disentanglement"}:
            for name, extract in (rows | pixels).items():
                self._classify(name, extract, results.setdefault(name, {}))
        if "disentanglement" in self._wanted:
            pixels = {CODE_PIXELS: _few_pixels} if pixels else {}
            for name, extract in (rows | pixels).items():
                self._disentangle(name, extract, results.setdefault(name, {}))

    def _encoder(self, variables: Variables) -> Extract:
        return lambda batch: next(self._inference.encode_batches(variables, [batch], self._config.eval.feature))

    def _pixels(self) -> Extract:
        """Raw pixels, as many of each image as fit in `config.eval.feature_memory_gib`; a line says if that is few."""
        settings, resolution = self._config.eval, self._config.data.source_resolution
        count = min(settings.train_examples or len(self._train), len(self._train))
        side = pixels_side(count, resolution, settings.feature_memory_gib)
        if side < min(resolution, PIXELS_SIDE):
            _say(
                f"raw pixels: {side} x {side} of each image, so that {count} examples fit in "
                f"config.eval.feature_memory_gib={settings.feature_memory_gib:g}"
            )
        return functools.partial(raw_pixels, side=side)

    def _untrained(self) -> Variables:
        inference = self._inference
        batches = train_batches(
            self._train,
            self._spec,
            batch_size=inference.round_up(CALIBRATION_SIZE),
            seed=self._config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return inference.calibrate(
            inference.untrained_variables(), itertools.islice(iterate(batches), CALIBRATION_BATCHES)
        )

    def _features(
        self,
        dataset: Dataset,
        extract: Extract,
        limit: int,
        spec: ViewSpec | None = None,
        augment_seed: int | None = None,
    ) -> FeatureSet:
        batches: Iterator[Batch] = eval_batches(
            dataset,
            self._spec if spec is None else spec,
            batch_size=self._inference.eval_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            limit=limit or None,
            num_workers=self._config.data.num_workers,
            augment_seed=augment_seed,
        )
        memory = self._config.eval.feature_memory_gib
        # Several processes may share the workdir, on a slow disk; each has a temporary folder of its own.
        folder = self._workdir if jax.process_count() == 1 else None
        total = num_batches(len(dataset), limit, self._inference.eval_batch_size)
        return collect(batches, extract, self._task, memory_gib=memory, folder=folder, total=total)

    def _classify(self, name: str, extract: Extract, row: dict) -> None:
        """k-NN and probes."""
        settings = self._config.eval
        train = self._features(self._train, extract, settings.train_examples)
        test = self._features(self._test, extract, settings.test_examples)
        self._count("", train, test)
        if "knn" in self._wanted:
            row |= KNN(tuple(settings.knn_k), devices=list(self._inference.mesh.local_devices)).run(train, test)
        probe = self._probe()
        if "linear_probe" in self._wanted:
            row |= probe.run(train, test, self._views(extract))
        if "few_shot" in self._wanted:
            row |= FewShot(probe, tuple(settings.few_shot_shares), settings.few_shot_seeds).run(train, test)
        _say(f"{name}: {len(train.features)} training, {len(test.features)} test examples")

    def _probe(self) -> LinearProbeEvaluator:
        settings, options = self._config.eval, self._config.probe
        return LinearProbeEvaluator(
            tuple(settings.probe_learning_rates),
            settings.probe_epochs,
            dropout=options.dropout,
            label_smoothing=options.label_smoothing,
            init_scale=options.init_scale,
            bias_init=options.bias_init,
        )

    def _views(self, extract: Extract) -> Callable[[int], np.ndarray] | None:
        """Augmented training features by epoch, as `config.eval.probe_views` says."""
        settings, spec, first = self._config.eval, self._probe_spec, self._config.seed

        def extracted(number: int) -> FeatureSet:
            return self._features(self._train, extract, settings.train_examples, spec, augment_seed=first + number)

        return probe_views(settings.probe_views, settings.probe_cached_views, extracted)

    def _disentangle(self, name: str, extract: Extract, row: dict) -> None:
        """DCI, MIG, SAP and FactorVAE scores; the importance matrix goes to a file."""
        settings = self._config.eval
        train = self._features(self._train, extract, settings.dci_train)
        test = self._features(self._test, extract, settings.dci_test)
        self._count("dci_", train, test)
        evaluator = Disentanglement(
            train.names,
            method=settings.dci_method,
            num_train=settings.dci_train,
            num_test=settings.dci_test,
            repeats=settings.dci_repeats if name == "SODA" else 0,
            progress=jax.process_index() == 0,
        )
        sections = self._sections(train.features.shape[1]) if name != CODE_PIXELS else []
        figures, parts = evaluator.analyse(train.features, train.labels, test.features, test.labels, sections)
        row |= figures
        if name == "SODA" and jax.process_index() == 0:
            path = pathlib.Path(self._workdir) / "dci_importance.npy"
            np.save(path, parts[0].importance)
            _say(f"importance of each code for each factor ({', '.join(train.names)}): {path}")
        _say(f"{name}: {len(train.features)} training, {len(test.features)} test codes")

    def _sections(self, width: int) -> list[tuple[int, int]]:
        """Dimensions [start, stop) of the latent's sections, where the features are such a latent."""
        modulation = self._config.model.modulation
        sectioned = is_sectioned(modulation.kind, modulation.merge_by_section)
        if not (self._config.eval.dci_sections and sectioned and self._config.eval.feature in ("latent", "z")):
            return []
        number = self._inference.num_sections
        if width < 2 * number:  # completeness tells codes apart
            _say(f"no DCI by section: {width} codes in {number} sections leave one with fewer than two")
            return []
        ends = np.cumsum(section_sizes(width, number)).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def _count(self, prefix: str, train: FeatureSet, test: FeatureSet) -> None:
        self.num_images |= {f"{prefix}train": len(train.features), f"{prefix}test": len(test.features)}


def _few_pixels(batch: Batch) -> np.ndarray:
    """Pixels of the first source view, shrunk to 16 x 16, in [0, 1]."""
    small = np.stack([resize(image, CODE_SIDE, CODE_SIDE) for image in batch["source"][:, 0]])
    return all_gather(small.reshape(len(small), -1).astype(np.float32) / 255.0)


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line)
