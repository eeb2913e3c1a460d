"""What an evaluator of `--mode=evaluate` is given, and what it returns.

`config.evaluators` lists them. Each is the class `Evaluator` of the module of its name in `evaluation/evaluators/`:

- one of features: `Evaluator(FeatureContext)` with `features`, which says what it reads, and `run(FeatureRow)`, which
  gives the figures of one row;
- one of images: `Evaluator(ImageContext)` with `run(variables)`, which gives the figures of all its rows, and
  `num_images`, the number of images or objects that these are over.

The names of figures start with the evaluator's own.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from soda_jax.data.datasets import Dataset
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.feature_sets import FeatureSet, raw_pixels
from soda_jax.evaluation.image_scores import ImageMetrics
from soda_jax.evaluation.probe_fit import Views
from soda_jax.evaluation.record import Figures, Results
from soda_jax.inference.directions import Found
from soda_jax.inference.engine import Inference, Variables

RAW_PIXELS = "raw pixels"  # the row of features that are no more than pixels
MEAN_IMAGE = "mean training image"  # the row of a baseline that shows the same image always

Extract = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureRequest:
    """Which features an evaluator reads; evaluators with equal requests share them.

    Attributes:
      train_limit, test_limit: examples at most; 0 is the whole split.
      pixels: from a batch to the pixels [B, d] that stand for features in the baseline without an encoder.
      pixels_row: the row of that baseline.
      noun: what the printed line counts.
      prefix: of "train" and "test" among an evaluation's numbers of images.
    """

    train_limit: int
    test_limit: int
    pixels: Extract = raw_pixels
    pixels_row: str = RAW_PIXELS
    noun: str = "examples"
    prefix: str = ""


@dataclasses.dataclass(frozen=True)
class FeatureContext:
    """What an evaluator of features may build on.

    Attributes:
      settings, probe: `config.eval` and `config.probe`.
      inference: the model, on its devices.
      workdir: of the run.
      num_sections: of the features, where they are a latent whose sections drive the denoiser apart; else 0.
    """

    settings: ConfigDict
    probe: ConfigDict
    inference: Inference
    workdir: str
    num_sections: int

    def shared_request(self) -> FeatureRequest:
        """The whole splits, as far as config.eval.train_examples and test_examples go."""
        return FeatureRequest(self.settings.train_examples, self.settings.test_examples)


@dataclasses.dataclass(frozen=True)
class FeatureRow:
    """The features of one row of an evaluation.

    Attributes:
      kind: "trained", "own_latent" (a denoiser guided by the image's own latent), "untrained" or "pixels": what they
        are of.
      train, test: of the two splits.
      views: gives augmented training features by epoch, as `config.eval.probe_views` says, or None for "none"; may
        encode the training split several times.
    """

    kind: str
    train: FeatureSet
    test: FeatureSet
    views: Callable[[], Views | None]


@dataclasses.dataclass(frozen=True)
class ImageContext:
    """What an evaluator of images may build on.

    Attributes:
      settings: `config.eval`.
      seed: the run's; the noise of samples follows from it.
      inference: encoder and sampler.
      dataset, spec: the held-out split and its views.
      dataset_name, split: their names.
      metrics: those that the config names, with their weights.
      mean_image: gives the mean of the training targets, float32 [H, W, 3] in [0, 1].
      train_split: the name of the training split.
      train: opens it.
      found: from the weights and a number of principal components to what training images tell about the latent
        (`inference.directions`); encodes them.
    """

    settings: ConfigDict
    seed: int
    inference: Inference
    dataset: Dataset
    spec: ViewSpec
    dataset_name: str
    split: str
    metrics: ImageMetrics
    mean_image: Callable[[], np.ndarray]
    train_split: str
    train: Callable[[], Dataset]
    found: Callable[[Variables, int], Found]

    @property
    def trained(self) -> str:
        """The row of the checkpoint's own figures: the model's name in the paper."""
        return self.inference.model.title

    def count(self, limit: int) -> int:
        """How many examples of the split `limit` leaves; 0 leaves all."""
        return min(limit, len(self.dataset)) if limit else len(self.dataset)


class FeatureEvaluator(Protocol):
    """Measures features."""

    features: FeatureRequest

    def run(self, row: FeatureRow) -> Figures: ...


class ImageEvaluator(Protocol):
    """Measures samples."""

    @property
    def num_images(self) -> int: ...

    def run(self, variables: Variables) -> Results: ...


def load(name: str) -> type[FeatureEvaluator] | type[ImageEvaluator]:
    """The class that measures what `config.evaluators` lists as `name`."""
    return importlib.import_module(f"soda_jax.evaluation.evaluators.{name}").Evaluator
