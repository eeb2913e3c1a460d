"""k-NN against scikit-learn, whatever the blocks and the devices."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from soda_jax.metrics import knn

CLASSES = 7


@pytest.fixture(scope="module")
def features():
    """Overlapping clusters, so that votes are contested."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, 16))
    train_labels, test_labels = rng.integers(0, CLASSES, 500), rng.integers(0, CLASSES, 150)
    train = centres[train_labels] + 2 * rng.normal(size=(500, 16))
    test = centres[test_labels] + 2 * rng.normal(size=(150, 16))
    return train.astype(np.float32), train_labels, test.astype(np.float32)


@pytest.mark.parametrize(("devices", "gallery_block", "query_block"), [(1, 1000, 1000), (3, 37, 64), (8, 4, 150)])
@pytest.mark.parametrize("k", [1, 20])
def test_neighbours_are_those_of_scikit_learn(features, devices, gallery_block, query_block, k):
    """Also where a device's block holds fewer than k, and the last block is mostly padding."""
    train, _, test = features
    blocks = {"gallery_block": gallery_block, "query_block": query_block}
    similarities, indices = knn.nearest_neighbours(train, test, k, devices=jax.devices()[:devices], **blocks)
    reference = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(train.astype(np.float64))
    distances, expected = reference.kneighbors(test.astype(np.float64))
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(similarities, 1 - distances, atol=1e-6)


def test_all_of_the_gallery_may_be_asked_for(features):
    train, _, test = features
    _, indices = knn.nearest_neighbours(train[:30], test[:5], 30, gallery_block=2)
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(30), (5, 1)))


def test_of_equal_similarities_the_earlier_example_is_nearer():
    gallery = np.ones((40, 4), np.float32)
    for devices in (1, 8):
        _, indices = knn.nearest_neighbours(gallery, gallery[:2], 5, devices=jax.devices()[:devices], gallery_block=3)
        np.testing.assert_array_equal(indices, np.tile(np.arange(5), (2, 1)))


def test_features_in_a_file_give_the_same(features, tmp_path):
    train, _, test = features
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=train.shape)
    mapped[:] = train
    for found, expected in zip(
        knn.nearest_neighbours(mapped, test, 3), knn.nearest_neighbours(train, test, 3), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (50, 1.0), (500, 0.001)])
def test_the_vote_is_that_of_scikit_learn(features, k, temperature):
    train, labels, test = features
    reference = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp(-(distance - distance.min(1, keepdims=True)) / temperature),
    ).fit(train.astype(np.float64), labels)
    predictions = knn.knn_predict(train, labels, test, k=k, temperature=temperature, num_classes=CLASSES)
    assert predictions.dtype == np.int32 and predictions.shape == (len(test),)
    np.testing.assert_array_equal(predictions, reference.predict(test.astype(np.float64)))


def test_votes_count_by_similarity_alone(monkeypatch):
    """Two near neighbours outweigh one nearer; in blocks of one query each as all at once."""
    similarities, labels = np.array([[0.9, 0.8, 0.8], [0.5, 0.1, 0.0]]), np.array([[0, 2, 2], [1, 0, 0]])
    expected = np.exp([[0.0, -np.inf, 0.0], [0.0, 0.0, -np.inf]])
    expected[0, 2], expected[1, 0] = 2 * np.exp(-1), np.exp(-4) + np.exp(-5)
    for limit in (1 << 24, 1):
        monkeypatch.setattr(knn, "_VOTES", limit)
        np.testing.assert_allclose(knn.knn_votes(similarities, labels, num_classes=3, temperature=0.1), expected)


def test_length_does_not_matter_and_zero_features_survive(features):
    train, labels, test = features
    settings = dict(k=20, num_classes=CLASSES)
    expected = knn.knn_predict(train, labels, test, **settings)
    scaled = knn.knn_predict(100 * train, labels, 0.01 * test, **settings)
    assert np.mean(expected == scaled) > 0.99
    zeros = knn.knn_predict(train, labels, np.zeros((3, 16)), **settings)
    assert ((zeros >= 0) & (zeros < CLASSES)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=0), "k is 0"),
        (dict(k=501), "500 training examples"),
        (dict(temperature=0.0), "temperature is 0.0"),
        (dict(num_classes=6), "num_classes 6"),
        (dict(test_features=np.zeros((3, 5))), "test_features"),
        (dict(test_features=np.zeros((0, 16))), "0 test features"),
        (dict(test_features=np.full((2, 16), np.nan)), "test_features hold NaN"),
        (dict(train_labels=np.zeros(3, int)), "train_labels have shape"),
        (dict(train_labels=np.zeros(500)), "labels are float64: give the classes as whole numbers"),
        (dict(train_labels=np.full(500, "cat")), "labels are <U3: give the classes as whole numbers"),
        (dict(k=2.5), "k is 2.5"),
        (dict(test_features=np.full((2, 16), "a")), "test_features are <U1"),
        (dict(test_features=np.full((2, 16), 1j)), "test_features are complex128"),
        (dict(train_features=np.zeros((500, 0)), test_features=np.zeros((2, 0))), "at least one a row"),
    ],
    ids=str,
)
def test_bad_input_is_refused(features, change, message):
    train, labels, test = features
    settings = dict(train_features=train, train_labels=labels, test_features=test, k=20, num_classes=CLASSES)
    with pytest.raises(ValueError, match=message):
        knn.knn_predict(**(settings | change))


def test_blocks_of_no_rows_are_refused(features):
    train, _, test = features
    for name in ("gallery_block", "query_block"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            knn.nearest_neighbours(train, test, 1, **{name: 0})


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(dtype, scale) for dtype in (np.float32, np.float64) for scale in (1e37, 1e20, 1e-7, 1e-13, 1e-30)]
    + [(np.float64, scale) for scale in (1e300, 1e38, 1e-42, 1e-300)],
)
def test_no_scale_changes_the_neighbours(features, dtype, scale):
    train, labels, test = features
    large, small = ((part.astype(np.float64) * scale).astype(dtype) for part in (train, test))
    expected, where = knn.nearest_neighbours(train, test, 20)
    for pair in ((large, small), (train, small), (large, test)):
        similarities, indices = knn.nearest_neighbours(*pair, 20)
        np.testing.assert_allclose(similarities, expected, atol=1e-5)
        assert np.mean(indices == where) > 0.99


def test_rows_of_all_scales_beside_each_other(features):
    train, labels, test = features
    scales = 10.0 ** np.random.default_rng(0).integers(-200, 200, (len(train), 1))
    similarities, indices = knn.nearest_neighbours(train * scales, test, 20)
    expected, where = knn.nearest_neighbours(train, test, 20)
    np.testing.assert_allclose(similarities, expected, atol=1e-5)
    assert np.mean(indices == where) > 0.99
    whole = np.round(train * 100).astype(np.int64)
    np.testing.assert_allclose(
        knn.nearest_neighbours(whole * 10**14, test, 5)[0], knn.nearest_neighbours(whole, test, 5)[0], atol=1e-5
    )
