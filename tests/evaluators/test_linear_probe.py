"""The offline linear probe against scikit-learn's logistic regression."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from soda_jax.evaluators.features import FeatureSet
from soda_jax.evaluators.linear_probe import LinearProbeEvaluator

pytestmark = pytest.mark.usefixtures("quick_compile")

CLASSES = 4


def make_sets(noise, *, heads=1, train=1200, test=1000, scale=1.0, seed=0):
    """Gaussian classes in 8 of 12 dimensions, of very different scales; the more noise, the more they overlap."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((heads, CLASSES, 12)) * (np.arange(12) < 8)
    scales = scale * 10.0 ** rng.uniform(-2, 2, 12)
    sets = []
    for count in (train, test):
        targets = rng.integers(0, CLASSES, (count, heads))
        features = sum(centres[head][targets[:, head]] for head in range(heads))
        features = (features + noise * rng.standard_normal(features.shape)) * scales + 5.0
        names = ("label",) if heads == 1 else tuple(f"head{i}" for i in range(heads))
        sets.append(FeatureSet(features.astype(np.float32), targets, (CLASSES,) * heads, names))
    return sets


def sklearn_accuracy(train, test, head=0):
    scaler = StandardScaler().fit(train.features)
    classifier = LogisticRegression(max_iter=2000).fit(scaler.transform(train.features), train.targets[:, head])
    return classifier.score(scaler.transform(test.features), test.targets[:, head])


@pytest.mark.parametrize(("noise", "low", "high"), [(0.1, 0.99, 1.0), (1.2, 0.6, 0.95)])
def test_accuracy_of_logistic_regression(noise, low, high):
    train, test = make_sets(noise)
    expected = sklearn_accuracy(train, test)
    assert low <= expected <= high
    results = LinearProbeEvaluator(epochs=30, batch_size=128).run(train, test)
    assert set(results) == {"linear_probe/label", "linear_probe/learning_rate"}
    assert abs(results["linear_probe/label"] - expected) < 0.02


def test_several_heads_are_measured_each():
    train, test = make_sets(0.8, heads=3, train=4000)
    results = LinearProbeEvaluator((1e-2,), epochs=20, batch_size=128).run(train, test)
    expected = [sklearn_accuracy(train, test, head) for head in range(3)]
    found = [results[f"linear_probe/head{head}"] for head in range(3)]
    assert max(expected) - min(expected) > 0.05
    np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_allclose(results["linear_probe/mean"], np.mean(found), rtol=1e-6)


@pytest.mark.parametrize("rates", [(1e-7, 1e-2), (1e-2, 1e-7)])
def test_the_better_learning_rate_is_chosen(rates):
    train, test = make_sets(0.3)
    results = LinearProbeEvaluator(rates, epochs=5, batch_size=128).run(train, test)
    assert results["linear_probe/learning_rate"] == pytest.approx(1e-2)
    assert results["linear_probe/label"] > 0.9  # with its weights, not the other's


def test_constant_and_huge_features_give_finite_weights():
    train, test = make_sets(0.3)
    spoilt = []
    for found in (train, test):
        features = np.concatenate([found.features, np.full((len(found.features), 2), [0.0, 1e4], np.float32)], axis=1)
        spoilt.append(FeatureSet(features, found.targets, found.sizes, found.names))
    results = LinearProbeEvaluator((1e-2,), epochs=10, batch_size=128).run(*spoilt)
    assert results["linear_probe/label"] > 0.95


def test_features_of_no_use_give_chance():
    train, test = make_sets(0.3)
    constant = [FeatureSet(np.ones_like(s.features), s.targets, s.sizes, s.names) for s in (train, test)]
    assert LinearProbeEvaluator((1e-2,), epochs=3).run(*constant)["linear_probe/label"] < 2 / CLASSES


def test_sets_of_one_shape_share_one_program():
    """The trained and the untrained encoder's features: compiling takes longer than fitting."""
    probe = LinearProbeEvaluator((1e-2,), epochs=1)
    for seed in (0, 1):
        probe.run(*make_sets(0.3, seed=seed))
    assert probe._fit._cache_size() == 1


def test_the_bias_starts_where_it_is_told_and_the_kernel_small():
    train, test = make_sets(0.3)
    probe = LinearProbeEvaluator((0.0,), epochs=1, bias_init=-10.0, init_scale=0.5)
    params = probe._fit(train.features, train.targets, train.sizes)  # a learning rate of 0 keeps the start
    np.testing.assert_array_equal(params["bias"], -10.0)
    np.testing.assert_allclose(np.std(params["kernel"]), 0.5, rtol=0.3)


def test_label_smoothing_keeps_the_logits_small():
    """On separable classes the smoothed loss is least at a margin of log((1 - a + a/C) / (a/C)), at the centres."""
    train, test = make_sets(0.02)
    margins = {}
    for smoothing in (0.0, 0.2):
        probe = LinearProbeEvaluator((3e-2,), 40, 128, dropout=0.0, label_smoothing=smoothing)
        features = StandardScaler().fit_transform(train.features)
        params = probe._fit(features.astype(np.float32), train.targets, train.sizes)
        logits = np.sort(features @ np.asarray(params["kernel"][0]) + np.asarray(params["bias"][0]), axis=1)
        margins[smoothing] = logits[:, -1] - logits[:, :-1].mean(axis=1)
    optimum = np.log((1 - 0.2 + 0.05) / 0.05)
    np.testing.assert_allclose(margins[0.2].mean(), optimum, rtol=0.05)
    assert margins[0.0].mean() > 2 * optimum


@pytest.mark.parametrize("count", [2, 700])
def test_splits_of_any_size_train(count):
    """Also those smaller than a batch, or not a multiple of it."""
    train, test = make_sets(0.3, train=count, test=5)
    results = LinearProbeEvaluator((1e-2,), epochs=2, batch_size=512).run(train, test)
    assert 0.0 <= results["linear_probe/label"] <= 1.0


def test_one_example_is_too_few():
    train, test = make_sets(0.3, train=1, test=5)
    with pytest.raises(ValueError, match="at least 2 training examples, got 1"):
        LinearProbeEvaluator().run(train, test)
