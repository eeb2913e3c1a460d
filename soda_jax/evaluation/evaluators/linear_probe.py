"""Offline linear probe on frozen features (SODA, Appendix E.1)."""

import dataclasses
import functools

import numpy as np

from soda_jax.evaluation import probe_fit
from soda_jax.evaluation.feature_sets import FeatureSet, check_pair
from soda_jax.evaluation.interface import FeatureContext, FeatureRow
from soda_jax.evaluation.probe_fit import ProbeOptions, Statistics, Views
from soda_jax.evaluation.record import Figures
from soda_jax.metrics.classification import classification_estimates

VALIDATION_SHARE = 0.1


class Evaluator:
    """`linear_probe`: `OfflineProbe` on augmented or plain training features, as `config.eval.probe_views` says."""

    def __init__(self, context: FeatureContext):
        self.features = context.shared_request()
        self._probe = OfflineProbe.from_context(context)

    def run(self, row: FeatureRow) -> Figures:
        return self._probe.run(row.train, row.test, row.views())


class OfflineProbe:
    """Softmax probe on features normalised without affine parameters, with dropout and no weight decay.

    Several learning rates are trained side by side; the one that does best on a held-out tenth of the training features
    is trained once more on all of them, and that probe is measured on the test features. A single one is trained once.

    The features are frozen, so they are normalised by their exact mean and variance over the training examples (with
    augmented views: over the first view of each), where BatchNorm would keep running averages of these.

    Args:
      learning_rates: of Adam, with cosine decay to 0.
      epochs: passes over the training features.
      batch_size: examples of a step.
      label_smoothing, dropout, init_scale, bias_init: as for the online probe.
      seed: of initial weights, held-out examples, order and dropout.
    """

    def __init__(
        self,
        learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2),
        epochs: int = 100,
        batch_size: int = 512,
        *,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        init_scale: float = 0.02,
        bias_init: float = 0.0,
        seed: int = 0,
    ):
        if not learning_rates:
            raise ValueError("learning_rates=(): give at least one (config.eval.probe_learning_rates)")
        if epochs < 1 or batch_size < 1:
            raise ValueError(f"epochs={epochs} and batch_size={batch_size} must be at least 1")
        self.learning_rates, self.epochs, self.batch_size = tuple(learning_rates), epochs, batch_size
        self._options = ProbeOptions(batch_size, dropout, label_smoothing, init_scale, bias_init)
        self._seed = seed

    @classmethod
    def from_context(cls, context: FeatureContext) -> "OfflineProbe":
        """With the learning rates and epochs of `config.eval`, and the online probe's other settings."""
        settings, options = context.settings, context.probe
        return cls(
            tuple(settings.probe_learning_rates),
            settings.probe_epochs,
            dropout=options.dropout,
            label_smoothing=options.label_smoothing,
            init_scale=options.init_scale,
            bias_init=options.bias_init,
        )

    def run(self, train: FeatureSet, test: FeatureSet, views: Views | None = None) -> Figures:
        """{"linear_probe/NAME": accuracy} and the other scores of `classification_estimates`; the learning rate chosen.

        Args:
          train: un-augmented features; a tenth of them chooses among several learning rates.
          test: held out from training altogether: neither weights nor learning rate depend on it.
          views: from the epoch to the features [N, d] to train on, of the examples of `train` in their order
            (`probe_views`); those of `train` by default.

        Raises:
          ValueError: the sets do not belong together, every training example is of one class, or there is only one.
        """
        check_pair(train, test)
        rate = self.learning_rates[0]
        if len(self.learning_rates) > 1:  # views by epoch cost an epoch of the encoder each
            rate = self.learning_rates[int(self.validate(train, self.epochs, views=views).argmax())]
        said = self.fit_and_answer(train, test, rate, self.epochs, views=views)
        scores = classification_estimates(said.ranks, test.labels, train.sizes, train.names, scores=said.scores)
        results: Figures = {f"linear_probe/{name}": score for name, score in scores.items()}
        return results | {"linear_probe/learning_rate": rate}

    def validate(
        self,
        train: FeatureSet,
        epochs: int,
        *,
        views: Views | None = None,
        normaliser: Statistics | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Accuracy of each learning rate on a held-out tenth of `train`, mean over labels: [R].

        Args:
          normaliser: statistics of the features; by default those of the examples trained on.
          batch_size: in place of the probe's own.

        Raises:
          ValueError: `train` has fewer than 2 examples.
        """
        count = len(train.features)
        if count < 2:
            raise ValueError(f"a linear probe needs at least 2 training examples, got {count}")
        order = np.random.default_rng(self._seed).permutation(count)
        held = max(1, int(count * VALIDATION_SHARE))
        weights = self._fit(train, order[held:], self.learning_rates, epochs, views, normaliser, batch_size)
        out = order[:held]
        ranks = probe_fit.ranks(weights, train.features[out], train.labels[out], train.sizes)
        return (ranks == 0).mean(axis=(1, 2))

    def fit_and_answer(
        self,
        train: FeatureSet,
        test: FeatureSet,
        rate: float,
        epochs: int,
        *,
        views: Views | None = None,
        normaliser: Statistics | None = None,
        batch_size: int | None = None,
    ) -> probe_fit.Answers:
        """What a probe trained on all of `train` at one rate says of `test`: ranks and scores [N, H]."""
        rows = np.arange(len(train.features))
        weights = self._fit(train, rows, (rate,), epochs, views, normaliser, batch_size)
        said = probe_fit.answers(weights, test.features, test.labels, train.sizes)
        return probe_fit.Answers(said.ranks[0], None if said.scores is None else said.scores[0])

    def _fit(self, train, rows, rates, epochs, views, normaliser, batch_size) -> probe_fit.Weights:
        # Views may be extracted anew at each call, and the first serve the statistics too.
        views = functools.lru_cache(maxsize=1)(self._checked(views, train))
        return probe_fit.fit(
            views,
            train.labels,
            rows,
            train.sizes,
            rates=rates,
            epochs=epochs,
            normaliser=probe_fit.statistics(views(0), rows) if normaliser is None else normaliser,
            options=dataclasses.replace(self._options, batch_size=batch_size or self.batch_size),
            seed=self._seed,
        )

    @staticmethod
    def _checked(views: Views | None, train: FeatureSet) -> Views:
        if views is None:
            return lambda epoch: train.features

        def checked(epoch: int) -> np.ndarray:
            features = np.asanyarray(views(epoch), np.float32)
            if features.shape != train.features.shape:
                raise ValueError(
                    f"views({epoch}) has shape {features.shape} and the training features {train.features.shape}: they "
                    "must be of the same examples in the same order"
                )
            return features

        return checked
