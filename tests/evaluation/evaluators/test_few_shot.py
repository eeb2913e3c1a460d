"""The few-shot probe: what is drawn, and its scores against scikit-learn's logistic regression on the same draws."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from soda_jax.evaluation.evaluators import few_shot
from soda_jax.evaluation.evaluators.few_shot import FewShot, stratified
from soda_jax.evaluation.evaluators.linear_probe import OfflineProbe
from soda_jax.evaluation.feature_sets import FeatureSet
from soda_jax.evaluation.probe_fit import Answers


def make_sets(train=2000, test=800, noise=1.0):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 10))
    sets = []
    for count in (train, test):
        labels = rng.choice(4, size=(count, 1), p=(0.4, 0.3, 0.2, 0.1))
        features = centres[labels[:, 0]] + noise * rng.standard_normal((count, 10)) + 5.0
        sets.append(FeatureSet(features.astype(np.float32), labels, (4,), ("label",)))
    return sets


@pytest.mark.parametrize("share", [0.013, 0.1, 0.5, 1.0])
def test_draws_keep_the_classes_in_proportion(share):
    labels = np.random.default_rng(0).choice(9, size=(3000, 1), p=np.arange(1, 10) / 45)
    rows = stratified(labels, share, seed=0)
    assert len(rows) == len(set(rows.tolist())) == round(3000 * share)
    drawn, whole = (np.bincount(t[:, 0], minlength=9) for t in (labels[rows], labels))
    assert (np.abs(drawn - share * whole) <= 1).all()


def test_draws_keep_every_target_in_proportion():
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 8, 4000), rng.integers(0, 3, 4000), rng.random(4000) < 0.05], axis=1).astype(int)
    rows = stratified(labels, 0.1, seed=0)
    assert len(rows) == 400
    for column in labels.T:
        assert (np.abs(np.bincount(column[rows]) - 0.1 * np.bincount(column)) <= 3).all()


def test_draws_see_every_class_however_rare():
    labels = np.r_[np.zeros(990, int), np.arange(1, 11)][:, None]
    rows = stratified(labels, 0.005, seed=0)
    assert set(labels[rows, 0]) == set(range(11)) and len(rows) < 5 + 11


def test_draws_differ_by_seed_and_are_at_random():
    labels = np.zeros((1000, 1), int)
    draws = [stratified(labels, 0.1, seed) for seed in range(50)]
    assert all((stratified(labels, 0.1, seed) == draws[seed]).all() for seed in range(2))
    often = np.bincount(np.concatenate(draws), minlength=1000)
    assert often.max() < 20 and (often > 0).mean() > 0.98  # each is in 5 draws on average


def test_accuracy_of_logistic_regression_on_few_labels(monkeypatch):
    monkeypatch.setattr(few_shot, "MIN_STEPS", 300)
    train, test = make_sets()
    results = FewShot(OfflineProbe((3e-3, 1e-2), epochs=10, batch_size=64), (0.02, 0.1), seeds=2).run(train, test)
    scaler = StandardScaler().fit(train.features)
    for share, name, count in ((0.02, "few_shot_2pct", 40), (0.1, "few_shot_10pct", 200)):
        expected = []
        for seed in range(2):
            rows = stratified(train.labels, share, seed)
            model = LogisticRegression(max_iter=2000).fit(scaler.transform(train.features[rows]), train.labels[rows, 0])
            expected.append(model.score(scaler.transform(test.features), test.labels[:, 0]))
        found = results[f"{name}/label"]
        assert found.value == pytest.approx(np.mean(expected), abs=0.03)
        assert found.low < found.value < found.high and found.over == "images, 2 seeds"
        assert results[f"{name}/examples"] == count and results[f"{name}/learning_rate"] in (3e-3, 1e-2)
    assert len(results) == 6


def test_few_labels_train_for_many_passes(monkeypatch):
    seen = []
    probe = OfflineProbe((1e-3, 1e-2), epochs=7, batch_size=100)
    monkeypatch.setattr(probe, "validate", lambda draw, epochs, **_: seen.append(epochs) or np.zeros(2))
    right = Answers(np.zeros((5, 1), int), None)
    monkeypatch.setattr(probe, "fit_and_answer", lambda *_, **__: right)
    FewShot(probe, (0.05, 1.0), seeds=1).run(*make_sets(test=5, train=20_000))
    assert seen == [100, 7]


def test_two_way_labels_have_an_average_precision(monkeypatch):
    """The mean over draws: one ranks every example right, the other says the same of all."""
    train, test = (
        dataclasses.replace(each, labels=(each.labels == 0).astype(int), sizes=(2,)) for each in make_sets(100, 50)
    )
    probe, ranks = OfflineProbe((1e-3,)), np.zeros((50, 1), int)
    draws = iter([Answers(ranks, test.labels.astype(np.float32)), Answers(ranks, np.zeros((50, 1), np.float32))])
    monkeypatch.setattr(probe, "fit_and_answer", lambda *_, **__: next(draws))
    found = FewShot(probe, (0.5,), seeds=2).run(train, test)["few_shot_50pct/label_ap"]
    assert found.value == pytest.approx((1 + test.labels.mean()) / 2) and found.over == "images, 2 seeds"


def test_bad_input_is_refused():
    probe = OfflineProbe()
    for arguments, message in (
        ((probe, (0.0,)), "share 0.0"),
        ((probe, (1.5,)), "share 1.5"),
        ((probe, (0.1,), 0), "seeds=0"),
    ):
        with pytest.raises(ValueError, match=message):
            FewShot(*arguments)
    train, test = make_sets(train=20, test=5)
    with pytest.raises(ValueError, match="of one class"):
        FewShot(probe).run(dataclasses.replace(train, labels=0 * train.labels), test)


@pytest.mark.parametrize(("count", "expected"), [(2, 16), (16, 16), (17, 32), (300, 512), (512, 512), (5000, 512)])
def test_batches_of_few_examples_are_small(count, expected):
    assert few_shot.batch_size(count, 512) == expected
    assert few_shot.batch_size(count, 8) == 8


def test_a_tiny_set_takes_seconds(monkeypatch):
    """1 % of five images is an example a class: no hundred thousand passes over them."""
    passes = []
    fit = few_shot.probe_fit.fit
    monkeypatch.setattr(
        few_shot.probe_fit, "fit", lambda *a, **k: passes.append((k["epochs"], len(a[2]))) or fit(*a, **k)
    )
    labels = np.array([[0], [1], [0], [1], [0]])
    tiny = FeatureSet(np.eye(5, 4, dtype=np.float32) + labels, labels, (2,), ("label",))
    results = FewShot(OfflineProbe(), (0.01,), 2).run(tiny, tiny)
    assert results["few_shot_1pct/examples"] == 2
    assert max(epochs for epochs, _ in passes) == 8000  # a thousand steps of 16
    assert len(passes) == 4
