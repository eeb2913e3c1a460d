"""Bootstrap intervals against the central limit theorem, scipy's bootstrap, and bad input."""

import numpy as np
import pytest
from scipy import stats

from soda_jax.metrics.bootstrap import bootstrap, mean_estimate


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    estimate = mean_estimate(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(
        (estimate.value - half, estimate.value + half), abs=0.1 * half
    )
    assert (estimate.count, estimate.over) == (4000, "images")


def test_a_ratio_agrees_with_scipys_bootstrap():
    rng = np.random.default_rng(1)
    a, b = rng.gamma(2.0, size=200), rng.gamma(3.0, size=200)

    def ratio(x, y, axis=-1):
        return x.mean(axis=axis) / y.mean(axis=axis)

    ours = bootstrap(ratio, a, b)
    theirs = stats.bootstrap((a, b), ratio, paired=True, vectorized=True, method="percentile", rng=2, n_resamples=4000)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_estimate(values) == mean_estimate(values)


def test_blocks_of_resamples_give_what_one_block_gives(monkeypatch):
    values = np.random.default_rng(0).normal(size=64)
    whole = mean_estimate(values)
    monkeypatch.setattr("soda_jax.metrics.bootstrap._BLOCK", 64 * 7)
    assert mean_estimate(values) == whole


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.zeros(0),), "no values"),
        ((np.array([1.0, np.nan]),), "1 of 2 values are not finite"),
        ((np.zeros(3), np.zeros(4)), "lengths"),
    ],
)
def test_what_cannot_be_averaged_is_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(lambda *drawn: drawn[0].mean(axis=-1), *arrays)


def test_images_are_not_averaged_as_if_they_were_values():
    with pytest.raises(ValueError, match="shape"):
        mean_estimate(np.zeros((4, 3)))
