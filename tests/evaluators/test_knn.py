"""k-NN on features: the wiring of heads, names and neighbours; the vote itself is tested with the metrics."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from soda_jax.evaluators.features import FeatureSet
from soda_jax.evaluators.knn import KNN


def make_sets(names=("hue", "shape"), sizes=(4, 3), train=60, test=40):
    """Noisy features of targets: neighbours are often, not always, of the right class."""
    rng = np.random.default_rng(0)
    centres = [2 * rng.standard_normal((size, 6)) for size in sizes]
    sets = []
    for count in (train, test):
        targets = np.stack([rng.integers(0, size, count) for size in sizes], axis=1)
        features = sum(centre[column] for centre, column in zip(centres, targets.T, strict=True))
        features = (features + 1.5 * rng.standard_normal(features.shape)).astype(np.float32)
        sets.append(FeatureSet(features, targets, sizes, names))
    return sets


def sklearn_accuracy(train, test, head, k, temperature):
    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    votes = KNeighborsClassifier(k, weights=lambda distance: np.exp((1 - distance**2 / 2) / temperature))
    votes.fit(unit(train.features), train.targets[:, head])
    return votes.score(unit(test.features), test.targets[:, head])


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_accuracy_of_each_head_and_k(temperature):
    train, test = make_sets()
    results = KNN((1, 5), temperature).run(train, test)
    assert list(results) == ["knn1/hue", "knn1/shape", "knn1/mean", "knn5/hue", "knn5/shape", "knn5/mean"]
    for k in (1, 5):
        expected = [sklearn_accuracy(train, test, head, k, temperature) for head in range(2)]
        assert 0.3 < min(expected) and max(expected) < 1.0
        np.testing.assert_allclose([results[f"knn{k}/hue"], results[f"knn{k}/shape"]], expected)
        np.testing.assert_allclose(results[f"knn{k}/mean"], np.mean(expected))


def test_one_head_needs_no_mean():
    train, test = make_sets(names=("label",), sizes=(4,))
    assert list(KNN((5,)).run(train, test)) == ["knn5/label"]


def test_more_neighbours_than_examples_are_skipped():
    train, test = make_sets(train=20)
    assert list(KNN((20, 200)).run(train, test)) == ["knn20/hue", "knn20/shape", "knn20/mean"]
