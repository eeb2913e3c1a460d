"""Parity of the fast trees with scikit-learn's, which are the definition."""

import sys

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

from soda_jax.metrics.disentanglement import boosting

N, M, D = 400, 200, 6


def coarse_data(size):
    """Codes of few distinct values, which bins hold without loss, and a factor that some of them carry."""
    rng = np.random.default_rng(size)
    hidden = rng.normal(size=(N + M, D))
    codes = np.round(10 * hidden).astype(np.float32)
    score = hidden[:, 0] + 0.5 * np.square(hidden[:, 1]) + 0.3 * rng.normal(size=N + M)
    if size == 1:
        return codes, score
    return codes, np.searchsorted(np.quantile(score, np.arange(1, size) / size), score)


@pytest.mark.parametrize("size", [2, 4])
def test_classes_of_the_fast_method_are_scikit_learns(size):
    codes, factor = coarse_data(size)
    fast = boosting.fit(codes[:N], factor[:N], codes[N:], size=size)
    model = GradientBoostingClassifier(random_state=0).fit(codes[:N], factor[:N])
    np.testing.assert_array_equal(fast.train, model.predict(codes[:N]))
    assert np.mean(fast.test != model.predict(codes[N:])) < 0.02  # thresholds lie elsewhere in the same gaps
    # Equal but for splits that several codes make equally well.
    np.testing.assert_allclose(fast.importance, model.feature_importances_, atol=5e-3)


def test_values_of_the_fast_method_are_scikit_learns():
    codes, factor = coarse_data(1)
    fast = boosting.fit(codes[:N], factor[:N], codes[N:], size=1)
    model = GradientBoostingRegressor(random_state=0).fit(codes[:N], factor[:N])
    np.testing.assert_allclose(fast.train, model.predict(codes[:N]), atol=1e-4)
    np.testing.assert_allclose(fast.importance, model.feature_importances_, atol=2e-3)
    errors = [np.square(p - factor[N:]).mean() for p in (fast.test, model.predict(codes[N:]))]
    np.testing.assert_allclose(*errors, rtol=0.05)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_exact_is_scikit_learn(size):
    codes, factor = coarse_data(size)
    kind = GradientBoostingRegressor if size == 1 else GradientBoostingClassifier
    model = kind(random_state=3).fit(codes[:N], factor[:N])
    exact = boosting.fit(codes[:N], factor[:N], codes[N:], size=size, method="exact", seed=3)
    np.testing.assert_array_equal(exact.importance, model.feature_importances_)
    np.testing.assert_array_equal(exact.test, model.predict(codes[N:]))


@pytest.mark.parametrize("method", boosting.METHODS)
@pytest.mark.parametrize(("size", "expected"), [(1, 0.7), (2, 1.0), (3, 2.0)])
def test_codes_that_never_vary_predict_the_most_frequent_value(method, size, expected):
    factor = np.array([0.1, 0.3, 1.0, 1.0, 1.1]) if size == 1 else np.array([0, 1, size - 1, size - 1, size - 1])
    fit = boosting.fit(np.ones((5, 3), np.float32), factor, np.zeros((2, 3), np.float32), size=size, method=method)
    np.testing.assert_array_equal(fit.importance, np.zeros(3))
    np.testing.assert_allclose(fit.test, [expected] * 2)


def test_two_copies_share_their_importance():
    codes, factor = coarse_data(4)
    single = boosting.fit(codes[:N], factor[:N], codes[N:], size=4).importance
    doubled = boosting.fit(np.tile(codes[:N], 2), factor[:N], np.tile(codes[N:], 2), size=4).importance
    np.testing.assert_allclose(doubled[:D] + doubled[D:], single, atol=0.01)
    assert 0.35 < doubled[0] / (doubled[0] + doubled[D]) < 0.65


def test_cuts_hold_every_threshold_of_few_values_and_the_gap_between_groups():
    rng = np.random.default_rng(0)
    group = np.repeat([0.0, 1.0], [311, 1689])
    marks = (group[:, None] - group.mean()) / group.std()
    few = np.round(rng.normal(size=2000), 1)
    np.testing.assert_allclose(boosting._cuts(few, marks), (np.unique(few)[1:] + np.unique(few)[:-1]) / 2)
    cuts = boosting._cuts(group + 0.9 * rng.random(2000), marks)
    assert len(cuts) <= boosting.BINS - 1
    assert np.sum((cuts > 0.9) & (cuts < 1)) == 1


def test_threads_do_not_change_the_fit():
    codes, factor = coarse_data(4)
    one, two = (boosting.fit(codes[:N], factor[:N], codes[N:], size=4, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.importance, two.importance)
    np.testing.assert_array_equal(one.test, two.test)


def test_unknown_method():
    with pytest.raises(ValueError, match="method='best': choose fast or exact"):
        boosting.fit(np.eye(3), np.arange(3), np.eye(3), size=3, method="best")


@pytest.mark.parametrize(
    ("method", "module", "remedy"),
    [("fast", "lightgbm", "pip install lightgbm"), ("exact", "sklearn.ensemble", "pip install scikit-learn")],
)
def test_missing_library_is_named(monkeypatch, method, module, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    codes, factor = coarse_data(2)
    with pytest.raises(ImportError, match=remedy):
        boosting.fit(codes[:N], factor[:N], codes[N:], size=2, method=method)
