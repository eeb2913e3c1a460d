"""The offline linear probe against scikit-learn's logistic regression."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.preprocessing import StandardScaler

from soda_jax.evaluation import probe_fit
from soda_jax.evaluation.evaluators.linear_probe import OfflineProbe
from soda_jax.evaluation.feature_sets import FeatureSet
from soda_jax.evaluation.probe_fit import ProbeOptions

CLASSES = 4


def make_sets(noise, *, heads=1, train=1200, test=1000, scale=1.0, seed=0):
    """Gaussian classes in 8 of 12 dimensions, of very different scales; the more noise, the more they overlap."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((heads, CLASSES, 12)) * (np.arange(12) < 8)
    scales = scale * 10.0 ** rng.uniform(-2, 2, 12)
    sets = []
    for count in (train, test):
        labels = rng.integers(0, CLASSES, (count, heads))
        features = sum(centres[head][labels[:, head]] for head in range(heads))
        features = (features + noise * rng.standard_normal(features.shape)) * scales + 5.0
        names = ("label",) if heads == 1 else tuple(f"head{i}" for i in range(heads))
        sets.append(FeatureSet(features.astype(np.float32), labels, (CLASSES,) * heads, names))
    return sets


def sklearn_accuracy(train, test, head=0):
    scaler = StandardScaler().fit(train.features)
    classifier = LogisticRegression(max_iter=2000).fit(scaler.transform(train.features), train.labels[:, head])
    return classifier.score(scaler.transform(test.features), test.labels[:, head])


@pytest.mark.parametrize(("noise", "low", "high"), [(0.1, 0.99, 1.0), (1.2, 0.6, 0.95)])
def test_accuracy_of_logistic_regression(noise, low, high):
    train, test = make_sets(noise)
    expected = sklearn_accuracy(train, test)
    assert low <= expected <= high
    results = OfflineProbe(epochs=30, batch_size=128).run(train, test)
    assert set(results) == {"linear_probe/label", "linear_probe/learning_rate"}
    found = results["linear_probe/label"]
    assert abs(found.value - expected) < 0.02
    assert found.low <= found.value <= found.high and (found.count, found.over) == (1000, "images")


def test_several_heads_are_measured_each():
    train, test = make_sets(0.8, heads=3, train=4000)
    results = OfflineProbe((1e-2,), epochs=20, batch_size=128).run(train, test)
    expected = [sklearn_accuracy(train, test, head) for head in range(3)]
    found = [results[f"linear_probe/head{head}"].value for head in range(3)]
    assert max(expected) - min(expected) > 0.05
    np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_allclose(results["linear_probe/mean"].value, np.mean(found), rtol=1e-6)


@pytest.mark.parametrize("rates", [(1e-7, 1e-2), (1e-2, 1e-7)])
def test_the_better_learning_rate_is_chosen(rates):
    train, test = make_sets(0.3)
    results = OfflineProbe(rates, epochs=5, batch_size=128).run(train, test)
    assert results["linear_probe/learning_rate"] == pytest.approx(1e-2)
    assert results["linear_probe/label"].value > 0.9  # with its weights, not the other's


def test_constant_and_huge_features_give_finite_weights():
    train, test = make_sets(0.3)
    spoilt = []
    for found in (train, test):
        features = np.concatenate([found.features, np.full((len(found.features), 2), [0.0, 1e4], np.float32)], axis=1)
        spoilt.append(FeatureSet(features, found.labels, found.sizes, found.names))
    results = OfflineProbe((1e-2,), epochs=10, batch_size=128).run(*spoilt)
    assert results["linear_probe/label"].value > 0.95


def test_features_of_no_use_give_chance():
    train, test = make_sets(0.3)
    constant = [FeatureSet(np.ones_like(s.features), s.labels, s.sizes, s.names) for s in (train, test)]
    assert OfflineProbe((1e-2,), epochs=3).run(*constant)["linear_probe/label"].value < 2 / CLASSES


def test_sets_of_one_width_share_one_program():
    """The trained and the untrained encoder's features, and draws of any size: compiling takes longer than fitting."""
    probe = OfflineProbe((1e-2,), epochs=1, batch_size=64)
    probe.run(*make_sets(0.3))
    count = probe_fit._train._cache_size()
    for seed, train in ((1, 1200), (2, 300), (3, 40)):
        probe.run(*make_sets(0.3, seed=seed, train=train))
    assert probe_fit._train._cache_size() == count


def fitted(train, rates=(1e-2,), epochs=20, views=None, rows=None, **options):
    """(weights for every rate, normalised features)."""
    normaliser = probe_fit.statistics(train.features)
    weights = probe_fit.fit(
        views or (lambda epoch: train.features),
        train.labels,
        np.arange(len(train.features)) if rows is None else rows,
        train.sizes,
        rates=rates,
        epochs=epochs,
        normaliser=normaliser,
        options=ProbeOptions(**({"batch_size": 128} | options)),
    )
    return weights, (train.features - normaliser.mean) / normaliser.std


def test_the_bias_starts_where_it_is_told_and_the_kernel_small():
    weights, _ = fitted(make_sets(0.3)[0], (0.0,), 1, bias_init=-10.0, init_scale=0.5)  # a rate of 0 keeps the start
    np.testing.assert_array_equal(weights.bias, -10.0)
    np.testing.assert_allclose(np.std(weights.kernel), 0.5, rtol=0.3)


def test_label_smoothing_keeps_the_logits_small():
    """On separable classes the smoothed loss is least at a margin of log((1 - a + a/C) / (a/C)), at the centres."""
    train, _ = make_sets(0.02)
    margins = {}
    for smoothing in (0.0, 0.2):
        weights, features = fitted(train, (3e-2,), 40, dropout=0.0, label_smoothing=smoothing)
        logits = np.sort(features @ np.asarray(weights.kernel[:, 0]) + np.asarray(weights.bias[0]), axis=1)
        margins[smoothing] = logits[:, -1] - logits[:, :-1].mean(axis=1)
    optimum = np.log((1 - 0.2 + 0.05) / 0.05)
    np.testing.assert_allclose(margins[0.2].mean(), optimum, rtol=0.05)
    assert margins[0.0].mean() > 2 * optimum


def test_the_weights_are_those_of_logistic_regression():
    """Overlapping classes have one optimum; without dropout and smoothing the probe comes to it."""
    train, _ = make_sets(2.0)
    weights, features = fitted(train, (0.1,), 400, batch_size=1200, dropout=0.0)
    reference = LogisticRegression(C=np.inf, max_iter=2000).fit(features, train.labels[:, 0])
    kernel, bias = np.asarray(weights.kernel[:, 0]), np.asarray(weights.bias[0])
    np.testing.assert_allclose(kernel - kernel.mean(axis=1, keepdims=True), reference.coef_.T, atol=0.02)
    np.testing.assert_allclose(bias - bias.mean(), reference.intercept_, atol=0.02)


def test_rates_side_by_side_are_what_each_is_alone():
    train, test = make_sets(0.8, heads=2)
    together, _ = fitted(train, (1e-3, 1e-2), epochs=3)
    for column, rate in enumerate((1e-3, 1e-2)):
        alone, _ = fitted(train, (rate,), epochs=3)
        np.testing.assert_allclose(together.kernel[:, column], alone.kernel[:, 0], atol=1e-5)
        np.testing.assert_allclose(together.bias[column], alone.bias[0], atol=1e-5)
    ranks = probe_fit.ranks(together, test.features, test.labels, test.sizes)
    assert ranks.shape == (2, 1000, 2)
    normaliser = together.statistics
    logits = (test.features - normaliser.mean) / normaliser.std @ np.asarray(together.kernel[:, 1])
    guesses = (logits + np.asarray(together.bias[1])).reshape(1000, 2, CLASSES).argmax(axis=-1)
    np.testing.assert_array_equal(ranks[1] == 0, guesses == test.labels)


def test_chunks_and_files_change_nothing(monkeypatch, tmp_path):
    """Neither the number of steps that reach the device at a time, nor where the features lie."""
    train, test = make_sets(0.8)
    weights, _ = fitted(train, epochs=3, dropout=0.0)
    monkeypatch.setattr(probe_fit, "_BLOCK_BYTES", 4 * 12 * 300)  # two steps of 128 examples
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=train.features.shape)
    mapped[:] = train.features
    in_parts, _ = fitted(dataclasses.replace(train, features=mapped), epochs=3, dropout=0.0)
    for one, other in zip(weights[:2], in_parts[:2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    ranks = [probe_fit.ranks(w, test.features, test.labels, test.sizes) for w in (weights, in_parts)]
    assert np.mean(ranks[0] == ranks[1]) > 0.999


def test_the_stream_shows_every_row_once_an_epoch():
    """Steps that span epochs included: with an odd number of rows, of some examples only."""
    rows, width = np.arange(3, 24, 2), 2
    seen = []

    def views(epoch):
        seen.append(epoch)
        return np.stack([np.arange(30), np.full(30, epoch)], axis=1).astype(np.float32)

    labels = np.arange(30)[:, None]
    chunks = list(probe_fit._chunks(views, labels, rows, 8, 3, 4, 0.1, seed=0))
    assert len(chunks) == 3 and all(x.shape == bits.shape == (3, 4, width) for x, _, bits in chunks)
    stream, labels = (np.concatenate([chunk[i].reshape(12, -1) for chunk in chunks]) for i in range(2))
    assert not stream[32:].any() and seen == [0, 1, 2]
    np.testing.assert_array_equal(stream[:32, :1], labels[:32])
    orders = [stream[epoch * 11 : min(32, (epoch + 1) * 11)] for epoch in range(3)]
    for epoch, order in enumerate(orders):
        np.testing.assert_array_equal(order[:, 1], epoch)
        assert set(order[:, 0]) <= set(rows) and len(set(order[:, 0])) == len(order)
    assert (orders[0][:, 0] != orders[1][:, 0]).any()


def test_a_tenth_of_the_features_is_dropped_anew_at_each_step():
    bits = probe_fit._random_bits(400_000, (0, 2, 0))
    np.testing.assert_allclose(np.mean(bits < round(0.1 * 2**16)), 0.1, atol=0.002)
    assert (bits != probe_fit._random_bits(400_000, (0, 2, 1))).mean() > 0.99


def test_augmented_views_are_trained_on_and_plain_features_choose_the_rate():
    """Views that hold the classes where the plain features hold none: those are what the weights learn."""
    train, test = make_sets(0.3)
    blind = dataclasses.replace(train, features=np.ones_like(train.features))
    epochs = []

    def views(epoch):
        epochs.append(epoch)
        return train.features

    results = OfflineProbe((1e-2,), epochs=5, batch_size=128).run(blind, test, views)
    assert results["linear_probe/label"].value > 0.9
    assert epochs == list(range(5))  # views by epoch cost an epoch of the encoder each
    OfflineProbe((1e-7, 1e-2), epochs=5, batch_size=128).run(blind, test, views)
    assert epochs == 3 * list(range(5))  # once more to choose a rate
    with pytest.raises(ValueError, match=r"views\(0\) has shape \(7, 12\)"):
        OfflineProbe().run(train, test, lambda epoch: train.features[:7])


def test_the_test_split_chooses_nothing():
    """Whatever its labels, the same rate: even where they are all wrong, so that an untrained probe would do better."""
    train, test = make_sets(0.3)
    wrong = dataclasses.replace(test, labels=(test.labels + 1) % CLASSES)
    results = [OfflineProbe((1e-7, 1e-2), 5, 128).run(train, other) for other in (test, wrong)]
    assert [row["linear_probe/learning_rate"] for row in results] == [1e-2, 1e-2]
    assert results[1]["linear_probe/label"].value < 0.1


def test_attributes_have_an_f1_and_an_average_precision():
    """As scikit-learn's logistic regression, on attributes of which one is rare."""
    train, test = make_sets(0.8, heads=2)
    train, test = (
        dataclasses.replace(s, labels=(s.labels == 0).astype(int), sizes=(2, 2), names=("hat", "beard"))
        for s in (train, test)
    )
    results = OfflineProbe((1e-2,), epochs=20, batch_size=128).run(train, test)
    scaler = StandardScaler().fit(train.features)
    for head, name in enumerate(train.names):
        reference = LogisticRegression(max_iter=2000).fit(scaler.transform(train.features), train.labels[:, head])
        expected = f1_score(test.labels[:, head], reference.predict(scaler.transform(test.features)))
        assert results[f"linear_probe/{name}_f1"].value == pytest.approx(expected, abs=0.03)
        logits = reference.decision_function(scaler.transform(test.features))
        expected = average_precision_score(test.labels[:, head], logits)
        assert results[f"linear_probe/{name}_ap"].value == pytest.approx(expected, abs=0.03)
    mean = np.mean([results[f"linear_probe/{name}_f1"].value for name in train.names])
    assert results["linear_probe/mean_f1"].value == pytest.approx(mean)
    mean = np.mean([results[f"linear_probe/{name}_ap"].value for name in train.names])
    assert results["linear_probe/mean_ap"].value == pytest.approx(mean)


def test_statistics_are_exact_far_from_zero():
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((5000, 7)) * 10.0 ** np.arange(-3, 4) + 1e3).astype(np.float32)
    rows = rng.permutation(5000)[:3000]
    for chosen in (None, rows):
        mean, std = probe_fit.statistics(features, chosen)
        part = features.astype(np.float64)[slice(None) if chosen is None else chosen]
        np.testing.assert_allclose(mean, part.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(std, np.sqrt(part.var(axis=0) + 1e-5), rtol=1e-6)


@pytest.mark.parametrize("count", [2, 700])
def test_splits_of_any_size_train(count):
    """Also those smaller than a batch, or not a multiple of it."""
    train, test = make_sets(0.3, train=count, test=5)
    results = OfflineProbe((1e-2,), epochs=2, batch_size=512).run(train, test)
    assert 0.0 <= results["linear_probe/label"].value <= 1.0


def test_bad_input_is_refused():
    train, test = make_sets(0.3, train=5, test=5)
    with pytest.raises(ValueError, match="at least 2 training examples, got 1"):
        OfflineProbe().validate(train.subset(np.array([0])), 1)
    with pytest.raises(ValueError, match="of one class"):
        OfflineProbe().run(dataclasses.replace(train, labels=0 * train.labels), test)
    for arguments in (((),), ((1e-2,), 0), ((1e-2,), 1, 0)):
        with pytest.raises(ValueError, match="at least"):
            OfflineProbe(*arguments)
