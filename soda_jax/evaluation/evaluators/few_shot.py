"""Few-shot probe: the linear probe with the labels of a small part of the training split."""

import numpy as np

from soda_jax.evaluation import probe_fit
from soda_jax.evaluation.evaluators.linear_probe import OfflineProbe
from soda_jax.evaluation.feature_sets import FeatureSet, check_pair
from soda_jax.evaluation.interface import FeatureContext, FeatureRow
from soda_jax.evaluation.record import Figures
from soda_jax.metrics.classification import classification_estimates

MIN_STEPS = 1000  # of training: a hundred passes over a few examples would be too few
MIN_BATCH = 16
_CANDIDATES = 8


class Evaluator:
    """`few_shot`: `FewShot` with `config.eval.few_shot_shares` of the labels."""

    def __init__(self, context: FeatureContext):
        settings = context.settings
        self.features = context.shared_request()
        probe = OfflineProbe.from_context(context)
        self._few_shot = FewShot(probe, tuple(settings.few_shot_shares), settings.few_shot_seeds)

    def run(self, row: FeatureRow) -> Figures:
        return self._few_shot.run(row.train, row.test)


class FewShot:
    """Linear probes on several stratified draws of a share of the labels; scores are means over the draws.

    Images cost little where labels are few: features are normalised by their mean and variance over the whole training
    split. The learning rate is one for all draws of a share, the best on average on held-out tenths of the draws; each
    probe is then trained on all of its draw.

    Args:
      probe: how probes are trained. They take its epochs, or more where these are fewer than 1000 steps, and smaller
        batches for fewer examples (`batch_size`).
      shares: of the training examples, each in (0, 1].
      seeds: number of draws.
    """

    def __init__(self, probe: OfflineProbe, shares: tuple[float, ...] = (0.01, 0.1), seeds: int = 3):
        for share in shares:
            if not 0 < share <= 1:
                raise ValueError(f"share {share} must lie in (0, 1] (config.eval.few_shot_shares)")
        if seeds < 1:
            raise ValueError(f"seeds={seeds} must be at least 1 (config.eval.few_shot_seeds)")
        self._probe, self._shares, self._seeds = probe, tuple(shares), seeds

    def run(self, train: FeatureSet, test: FeatureSet) -> Figures:
        """{"few_shot_1pct/NAME": accuracy} and the other scores of `classification_estimates`, for every share.

        Also the learning rate chosen and the number of examples drawn ("few_shot_1pct/examples"). Intervals are over
        test examples and draws together.

        Raises:
          ValueError: the sets do not belong together, or every training example is of one class.
        """
        check_pair(train, test)
        normaliser = probe_fit.statistics(train.features)
        results: Figures = {}
        for share in self._shares:
            draws = [train.subset(stratified(train.labels, share, seed)) for seed in range(self._seeds)]
            count = len(draws[0].features)
            size = batch_size(count, self._probe.batch_size)
            epochs = max(self._probe.epochs, -(-MIN_STEPS * size // count))
            settings = {"normaliser": normaliser, "batch_size": size}
            rate = self._probe.learning_rates[0]
            if len(self._probe.learning_rates) > 1:
                held_out = [self._probe.validate(draw, epochs, **settings) for draw in draws]
                rate = self._probe.learning_rates[int(np.mean(held_out, axis=0).argmax())]
            said = [self._probe.fit_and_answer(draw, test, rate, epochs, **settings) for draw in draws]
            ranks = np.stack([one.ranks for one in said])
            margins = None if said[0].scores is None else np.stack([one.scores for one in said])
            scores = classification_estimates(ranks, test.labels, train.sizes, train.names, scores=margins)
            prefix = f"few_shot_{100 * share:g}pct"
            results |= {f"{prefix}/{name}": score for name, score in scores.items()}
            results |= {f"{prefix}/learning_rate": rate, f"{prefix}/examples": float(count)}
        return results


def batch_size(count: int, largest: int) -> int:
    """Of a probe on `count` examples: the next power of two, from 16 to `largest`.

    Larger ones would show the same few examples over and over in one step: of 2 examples 256,000 passes in 1000 steps.
    Powers of two keep the compiled programs few.
    """
    return min(largest, max(MIN_BATCH, 1 << (count - 1).bit_length()))


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Sorted rows of a random `share` of the examples, with every class of every label in nearly its proportion.

    One after another, of a few random examples of the class that lacks most of its share, the one whose other classes
    lack most is drawn. Classes still missing in the end get one example each, so that every one is seen.

    Args:
      labels: int [N, H].
      share: in (0, 1].
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    # Numbers the classes of all labels one after another: class j of these is to get `quota[j]` examples.
    codes = np.stack([np.unique(column, return_inverse=True)[1] for column in labels.T], axis=1)
    codes += np.cumsum([0, *(codes.max(axis=0)[:-1] + 1)])
    quota = share * np.bincount(codes.ravel())
    lacking = 1 + 1e-6 * rng.random(len(quota))  # a share of the quota; equal needs are met in random order
    waiting = [order[(codes[order] == code).any(axis=1)].tolist() for code in range(len(quota))]
    wanted, taken, seen = max(1, round(share * len(labels))), set(), np.zeros(len(quota), bool)
    while len(taken) < wanted or not seen.all():
        code = int(lacking.argmax() if len(taken) < wanted else seen.argmin())
        candidates = []
        while waiting[code] and len(candidates) < _CANDIDATES:
            row = waiting[code].pop()
            candidates += [row] * (row not in taken)
        if not candidates:
            lacking[code] = -np.inf  # all of its examples are drawn
            continue
        best = candidates.pop(int(lacking[codes[candidates]].sum(axis=1).argmax()))
        waiting[code] += reversed(candidates)
        taken.add(best)
        lacking[codes[best]] -= 1 / quota[codes[best]]
        seen[codes[best]] = True
    return np.array(sorted(taken))
