"""Accuracy, F1 and their intervals against scikit-learn and the plain bootstrap."""

import numpy as np
import pytest
from sklearn import metrics

from soda_jax.metrics import classification
from soda_jax.metrics.bootstrap import bootstrap, mean_estimate


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 10)).astype(np.float32), rng.integers(0, 10, 200)


@pytest.mark.filterwarnings("ignore:'k' .10. greater:Warning")  # which is the point of that case
@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_top_k_accuracy_is_that_of_scikit_learn(scores, k):
    logits, labels = scores
    expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=np.arange(10))
    np.testing.assert_allclose(classification.top_k_accuracy(logits, labels, k=k), expected)


def test_top_k_accuracy_leaves_out_padding(scores):
    logits, labels = scores
    padded = np.concatenate([logits, np.full((56, 10), 9.0, np.float32)])
    mask = np.arange(256) < 200
    value = classification.top_k_accuracy(padded, np.r_[labels, np.zeros(56, int)], k=3, mask=mask)
    assert value == classification.top_k_accuracy(logits, labels, k=3)


def test_equal_logits_do_not_count_as_right():
    """A constant classifier guesses one class; it does not get every example right."""
    labels = np.arange(10)
    assert np.isclose(classification.top_k_accuracy(np.zeros((10, 10)), labels), 0.1)


def test_top_k_accuracy_refuses_bad_input(scores):
    logits, labels = scores
    for k in (0, 11):
        with pytest.raises(ValueError, match=f"k is {k}"):
            classification.top_k_accuracy(logits, labels, k=k)
    with pytest.raises(ValueError, match="labels"):
        classification.top_k_accuracy(logits, labels[:-1])


def test_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predictions = rng.random((2, 300, 6)) < np.linspace(0, 0.9, 6)
    predictions[:, 1], labels[:, 1] = False, True
    value = classification.binary_f1(predictions, labels.astype(np.int32))
    expected = metrics.f1_score(labels, predictions, average=None, zero_division=0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert value[0] == 0 and value[1] == 0

    mask = rng.random(300) < 0.5
    value = classification.binary_f1(predictions, labels, mask=mask)
    expected = metrics.f1_score(labels[mask], predictions[mask], average=None, zero_division=0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_f1_refuses_bad_input():
    with pytest.raises(ValueError, match="labels"):
        classification.binary_f1(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="mask has shape"):
        classification.binary_f1(np.zeros((3, 2)), np.zeros((3, 2)), mask=np.ones(2))


@pytest.mark.parametrize("levels", [2, 7, 1_000_000])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_average_precision_is_that_of_scikit_learn(levels, share, monkeypatch):
    """With few levels of the scores most are ties; weighted samples in blocks of two or all at once."""
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, levels, 300).astype(np.float32), rng.random(300) < share
    (value,) = classification.average_precision(scores, labels)
    assert value == pytest.approx(metrics.average_precision_score(labels, scores))
    weights = rng.multinomial(300, np.full(300, 1 / 300), size=5)
    weights[0] = 1
    expected = [metrics.average_precision_score(labels, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(classification.average_precision(scores, labels, weights), expected)
    monkeypatch.setattr(classification, "_WEIGHTS", 600)
    np.testing.assert_allclose(classification.average_precision(scores, labels, weights), expected)


def test_average_precision_at_its_ends():
    labels = np.array([1, 1, 0, 0, 0])
    assert classification.average_precision(-np.arange(5.0), labels) == 1.0
    assert classification.average_precision(np.zeros(5), labels) == 0.4  # one threshold: the share of class 1
    assert classification.average_precision(np.arange(5.0), np.zeros(5)) == 0.0
    broken = np.array([np.nan, 3.0, 2.0, 1.0, 0.0])  # comes last
    assert classification.average_precision(broken, labels) == pytest.approx((1 + 2 / 5) / 2)
    for shapes in (((3,), (2,), None), ((0,), (0,), None), ((3,), (3,), (1, 2)), ((3, 1), (3, 1), None)):
        arrays = [None if shape is None else np.zeros(shape) for shape in shapes]
        with pytest.raises(ValueError, match="of at least one example"):
            classification.average_precision(*arrays)


def test_ranks_count_the_classes_before():
    logits = np.array([[0.0, 3.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0], [1.0, 2.0, np.nan, 0.0]], np.float32)
    for labels, expected in (([0, 0, 0], [3, 0, 1]), ([1, 1, 2], [0, 1, 4]), ([3, 3, 1], [1, 3, 0])):
        np.testing.assert_array_equal(classification.class_ranks(logits, np.array(labels)), expected)


@pytest.fixture(scope="module")
def attributes():
    """Ranks [N, A] of a classifier that is right four times in five, and the labels."""
    rng = np.random.default_rng(0)
    return (rng.random((400, 3)) < 0.2).astype(int), (rng.random((400, 3)) < [0.1, 0.5, 0.9]).astype(int)


def test_estimates_of_attributes_are_those_of_scikit_learn(attributes):
    ranks, labels = attributes
    found = classification.classification_estimates(ranks, labels, (2, 2, 2), ("a", "b", "c"))
    assert list(found) == ["a", "b", "c", "a_f1", "b_f1", "c_f1", "mean", "mean_f1"]
    predicted = np.where(ranks == 0, labels, 1 - labels)
    f1 = metrics.f1_score(labels, predicted, average=None)
    np.testing.assert_allclose([found[f"{name}_f1"].value for name in "abc"], f1)
    np.testing.assert_allclose(found["mean_f1"].value, metrics.f1_score(labels, predicted, average="macro"))
    accuracies = [metrics.accuracy_score(*pair) for pair in zip(labels.T, predicted.T, strict=True)]
    np.testing.assert_allclose([found[name].value for name in "abc"], accuracies)
    np.testing.assert_allclose(found["mean"].value, np.mean(accuracies))


@pytest.mark.parametrize("draws", [1 << 24, 7 * 400])
def test_intervals_are_those_of_copied_resamples(attributes, draws, monkeypatch):
    """Weights in place of copies, in blocks or at once: the same draws, the same interval."""
    monkeypatch.setattr(classification, "_DRAWS", draws)
    ranks, labels = attributes
    found = classification.classification_estimates(ranks, labels, (2, 2, 2), ("a", "b", "c"))
    predicted = np.where(ranks == 0, labels, 1 - labels)

    def f1(right, guessed):
        return 2 * (right & guessed).sum(axis=1) / (right.sum(axis=1) + guessed.sum(axis=1))

    for name, plain in (
        ("mean", mean_estimate((ranks == 0).mean(axis=1))),
        ("b", mean_estimate(ranks[:, 1] == 0)),
        ("a_f1", bootstrap(f1, labels[:, 0], predicted[:, 0])),
    ):
        pair = (found[name].value, found[name].low, found[name].high)
        np.testing.assert_allclose(pair, (plain.value, plain.low, plain.high), rtol=1e-6)
        assert (found[name].count, found[name].over) == (400, "images")


def test_estimates_of_scores_have_an_average_precision(attributes):
    """Of several runs the mean, and with the interval of copied resamples."""
    ranks, labels = attributes
    rng = np.random.default_rng(1)
    margins = (np.where(ranks == 0, 1, -1) * (2 * labels - 1) * rng.random(ranks.shape).round(1)).astype(np.float32)
    found = classification.classification_estimates(ranks, labels, (2, 2, 2), "abc", scores=margins)
    assert list(found) == ["a", "b", "c", "a_f1", "b_f1", "c_f1", "a_ap", "b_ap", "c_ap", "mean", "mean_f1", "mean_ap"]
    expected = [metrics.average_precision_score(*pair) for pair in zip(labels.T, margins.T, strict=True)]
    np.testing.assert_allclose([found[f"{name}_ap"].value for name in "abc"], expected)
    assert found["mean_ap"].value == pytest.approx(np.mean(expected))
    plain = classification.classification_estimates(ranks, labels, (2, 2, 2), "abc")
    assert plain.items() <= found.items()

    def precision(right, score):
        return np.array([metrics.average_precision_score(*pair) for pair in zip(right, score, strict=True)])

    copied = bootstrap(precision, labels[:, 0], margins[:, 0])
    np.testing.assert_allclose((found["a_ap"].low, found["a_ap"].high), (copied.low, copied.high))
    runs = [np.stack(pair) for pair in ((ranks, ranks), (margins, rng.random(ranks.shape)))]
    two = classification.classification_estimates(runs[0], labels, (2, 2, 2), "abc", scores=runs[1])
    other = metrics.average_precision_score(labels, runs[1][1])
    assert two["mean_ap"].value == pytest.approx((np.mean(expected) + other) / 2)


def test_scores_are_of_two_way_labels():
    ranks = np.zeros((3, 1), int)
    for sizes, scores in (((3,), ranks), ((2,), np.zeros((3, 2)))):
        with pytest.raises(ValueError, match=r"give \(3, 1\), as ranks have, of labels of two classes"):
            classification.classification_estimates(ranks, ranks, sizes, ("a",), scores=scores)
    (label, f1, ap) = classification.classification_estimates(ranks, ranks, (2,), ("a",), scores=ranks)
    assert (label, f1, ap) == ("a", "a_f1", "a_ap")


def test_estimates_of_classes_have_a_top_5():
    rng = np.random.default_rng(0)
    ranks, labels = rng.integers(0, 10, (300, 1)), rng.integers(0, 10, (300, 1))
    found = classification.classification_estimates(ranks, labels, (10,), ("label",), over="objects")
    assert list(found) == ["label", "label_top5"]
    assert found["label"].value == np.mean(ranks == 0) and found["label_top5"].value == np.mean(ranks < 5)
    assert found["label"].over == "objects"
    factors = classification.classification_estimates(np.repeat(ranks, 2, 1), np.repeat(labels, 2, 1), (10, 10), "ab")
    assert list(factors) == ["a", "b", "mean"]


def test_several_runs_are_averaged_and_widen_the_interval():
    """Runs of accuracies 0.2 and 0.8: drawing runs as well moves the mean between them."""
    labels = np.zeros((1000, 1), int)
    runs = np.stack([np.arange(1000) >= 200, np.arange(1000) >= 800])[..., None].astype(int)
    both = classification.classification_estimates(runs, labels, (3,), ("label",))["label"]
    assert both.value == pytest.approx(0.5) and both.over == "images, 2 seeds"
    assert both.low < 0.23 and both.high > 0.77
    alike = classification.classification_estimates(runs[[0, 0]], labels, (3,), ("label",))["label"]
    one = classification.classification_estimates(runs[0], labels, (3,), ("label",))["label"]
    np.testing.assert_allclose((alike.low, alike.high), (one.low, one.high), rtol=1e-6)


def test_estimates_refuse_bad_input():
    for ranks, labels, message in (
        (np.zeros((3, 2)), np.zeros((4, 2)), "labels"),
        (np.zeros((3, 1)), np.zeros((3, 1)), "2 sizes and 2 names"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "no examples to score"),
    ):
        with pytest.raises(ValueError, match=message):
            classification.classification_estimates(ranks, labels, (2, 2), ("a", "b"))
