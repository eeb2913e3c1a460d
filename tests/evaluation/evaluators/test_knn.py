"""k-NN on features: the wiring of heads, names and neighbours; the vote itself is tested with the metrics."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from soda_jax.evaluation import batches
from soda_jax.evaluation.evaluators import knn
from soda_jax.evaluation.evaluators.knn import KNN
from soda_jax.evaluation.feature_sets import FeatureSet
from soda_jax.metrics.knn import nearest_neighbours


def make_sets(names=("hue", "shape"), sizes=(4, 3), train=60, test=40):
    """Noisy features of labels: neighbours are often, not always, of the right class."""
    rng = np.random.default_rng(0)
    centres = [2 * rng.standard_normal((size, 6)) for size in sizes]
    sets = []
    for count in (train, test):
        labels = np.stack([rng.integers(0, size, count) for size in sizes], axis=1)
        features = sum(centre[column] for centre, column in zip(centres, labels.T, strict=True))
        features = (features + 1.5 * rng.standard_normal(features.shape)).astype(np.float32)
        sets.append(FeatureSet(features, labels, sizes, names))
    return sets


def sklearn_accuracy(train, test, head, k, temperature):
    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    votes = KNeighborsClassifier(k, weights=lambda distance: np.exp((1 - distance**2 / 2) / temperature))
    votes.fit(unit(train.features), train.labels[:, head])
    return votes.score(unit(test.features), test.labels[:, head])


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_accuracy_of_each_head_and_k(temperature):
    train, test = make_sets()
    results = KNN((1, 5), temperature).run(train, test)
    assert list(results) == ["knn1/hue", "knn1/shape", "knn1/mean", "knn5/hue", "knn5/shape", "knn5/mean"]
    for k in (1, 5):
        expected = [sklearn_accuracy(train, test, head, k, temperature) for head in range(2)]
        assert 0.3 < min(expected) and max(expected) < 1.0
        found = [float(results[f"knn{k}/{name}"]) for name in ("hue", "shape", "mean")]
        np.testing.assert_allclose(found, [*expected, np.mean(expected)])
        interval = results[f"knn{k}/mean"]
        assert interval.low < interval.value < interval.high and (interval.count, interval.over) == (40, "images")


def test_one_head_needs_no_mean():
    train, test = make_sets(names=("label",), sizes=(4,))
    assert list(KNN((5,)).run(train, test)) == ["knn5/label"]


def test_attributes_have_an_f1():
    train, test = make_sets(names=("hat", "smile"), sizes=(2, 2))
    names = [f"knn5/{name}" for name in ("hat", "smile", "hat_f1", "smile_f1", "mean", "mean_f1")]
    assert list(KNN((5,)).run(train, test)) == names


def test_more_neighbours_than_examples_are_left_out_and_said(capsys):
    train, test = make_sets(train=20)
    assert list(KNN((20, 200)).run(train, test)) == ["knn20/hue", "knn20/shape", "knn20/mean"]
    assert capsys.readouterr().out == "no scores of 200 neighbours: the gallery holds 20 examples\n"
    assert KNN((200,)).run(train, test) == {}


def test_scores_do_not_depend_on_the_number_of_devices():
    train, test = make_sets()
    one, four = (KNN((5, 20), devices=jax.devices()[:count]).run(train, test) for count in (1, 4))
    assert one == four


@pytest.mark.parametrize(("count", "examples"), [(2, 40), (3, 40), (3, 41), (4, 41), (4, 2)])
def test_scores_do_not_depend_on_the_number_of_processes(monkeypatch, count, examples):
    """Threads stand for processes: each searches for its part alone, and has the scores of the whole."""
    train, test = make_sets(test=examples)
    alone = KNN((5, 20)).run(train, test)
    own, meeting, parts, searched = threading.local(), threading.Barrier(count, timeout=60), [None] * count, []

    def gather(part, tiled):
        assert tiled
        parts[own.index] = part
        meeting.wait()
        joined = np.concatenate(parts)  # refuses rows that are not as many on every process
        meeting.wait()
        return joined

    def search(train_features, test_features, *arguments, **options):
        searched.append(len(test_features))
        return nearest_neighbours(train_features, test_features, *arguments, **options)

    def process(index):
        own.index = index
        return KNN((5, 20), devices=jax.devices()[:2]).run(train, test)

    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(jax, "process_index", lambda: own.index)
    monkeypatch.setattr(batches.multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(knn, "nearest_neighbours", search)
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(process, range(count)))
    assert max(searched) == -(-examples // count) and len(searched) == count
    assert all(scores == alone for scores in found)


def test_bad_input_is_refused():
    train, test = make_sets()
    for ks in ((), (0, 20)):
        with pytest.raises(ValueError, match="config.eval.knn_k"):
            KNN(ks)
    with pytest.raises(ValueError, match="of one class"):
        KNN().run(dataclasses.replace(train, labels=np.zeros_like(train.labels)), test)
