"""Accuracy, k-NN and F1 against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

from soda_jax.metrics import classification


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 10)).astype(np.float32), rng.integers(0, 10, 200)


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
    targets, predictions = rng.random((2, 300, 6)) < np.linspace(0, 0.9, 6)
    predictions[:, 1], targets[:, 1] = False, True
    value = classification.binary_f1(predictions, targets.astype(np.int32))
    expected = metrics.f1_score(targets, predictions, average=None, zero_division=0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert value[0] == 0 and value[1] == 0

    mask = rng.random(300) < 0.5
    value = classification.binary_f1(predictions, targets, mask=mask)
    expected = metrics.f1_score(targets[mask], predictions[mask], average=None, zero_division=0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_f1_refuses_bad_input():
    with pytest.raises(ValueError, match="targets"):
        classification.binary_f1(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="mask has shape"):
        classification.binary_f1(np.zeros((3, 2)), np.zeros((3, 2)), mask=np.ones(2))


@pytest.fixture(scope="module")
def features():
    """Overlapping clusters, so that votes are contested."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 16))
    train_labels, test_labels = rng.integers(0, 7, 500), rng.integers(0, 7, 150)
    train = centres[train_labels] + 2 * rng.normal(size=(500, 16))
    test = centres[test_labels] + 2 * rng.normal(size=(150, 16))
    return train.astype(np.float32), train_labels, test.astype(np.float32)


@pytest.mark.parametrize("block_size", [1, 37, 100, 500, 4096])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (50, 1.0), (500, 0.001)])
def test_knn_is_that_of_scikit_learn(features, block_size, k, temperature):
    train, labels, test = features
    if block_size == 1:
        train, labels, test, k = train[:30], labels[:30], test[:5], min(k, 30)
    reference = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp(-(distance - distance.min(1, keepdims=True)) / temperature),
    ).fit(train.astype(np.float64), labels)
    predictions = classification.knn_predict(
        train,
        labels,
        test,
        k=k,
        temperature=temperature,
        num_classes=7,
        block_size=block_size,
    )
    assert predictions.dtype == np.int32 and predictions.shape == (len(test),)
    np.testing.assert_array_equal(predictions, reference.predict(test.astype(np.float64)))


def test_knn_ignores_length_and_survives_zero_features(features):
    train, labels, test = features
    settings = dict(k=20, num_classes=7)
    expected = classification.knn_predict(train, labels, test, **settings)
    scaled = classification.knn_predict(100 * train, labels, 0.01 * test, **settings)
    assert np.mean(expected == scaled) > 0.99
    zeros = classification.knn_predict(train, labels, np.zeros((3, 16)), **settings)
    assert ((zeros >= 0) & (zeros < 7)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=0), "k is 0"),
        (dict(k=501), "500 training examples"),
        (dict(temperature=0.0), "temperature is 0.0"),
        (dict(num_classes=6), "num_classes 6"),
        (dict(block_size=0), "block_size is 0"),
        (dict(test_features=np.zeros((3, 5))), "test_features"),
        (dict(test_features=np.zeros((0, 16))), "0 test features"),
        (dict(train_labels=np.zeros(3, int)), "train_labels have shape"),
    ],
    ids=str,
)
def test_knn_refuses_bad_input(features, change, message):
    train, labels, test = features
    settings = dict(train_features=train, train_labels=labels, test_features=test, k=20)
    with pytest.raises(ValueError, match=message):
        classification.knn_predict(**{**settings, "num_classes": 7, **change})
