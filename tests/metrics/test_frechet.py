"""Frechet distance against closed forms and SciPy's matrix root; streaming against NumPy's moments."""

import functools

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from soda_jax.metrics.frechet import _T, FeatureStatistics, frechet_distance, frechet_estimate


def gaussian(mean, covariance):
    return FeatureStatistics(2, np.asarray(mean, np.float64), np.asarray(covariance, np.float64))


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def random_gaussian(rng, size=6):
    root = rng.normal(size=(size, size))
    return gaussian(rng.normal(size=size), root @ root.T)


def test_one_dimension():
    """(m - n)^2 + (s - t)^2 for standard deviations s and t."""
    np.testing.assert_allclose(frechet_distance(gaussian([1], [[4]]), gaussian([4], [[25]])), 9 + 9, rtol=1e-12)


@pytest.mark.parametrize("size", [2, 50])
def test_common_axes(size):
    """Covariances with the same eigenvectors: the squared distance of the roots of their eigenvalues."""
    rng = np.random.default_rng(0)
    q = rotation(rng, size)
    m, n = rng.normal(size=(2, size))
    s, t = rng.uniform(0, 3, (2, size))
    distance = frechet_distance(gaussian(m, q @ np.diag(s**2) @ q.T), gaussian(n, q @ np.diag(t**2) @ q.T))
    np.testing.assert_allclose(distance, np.sum((m - n) ** 2) + np.sum((s - t) ** 2), rtol=1e-10)


def test_against_a_root_of_the_product():
    """The formula as it is written, tr (C_a C_b)^(1/2), by SciPy's Schur method."""
    rng = np.random.default_rng(1)
    for size in (3, 20):
        a, b = random_gaussian(rng, size), random_gaussian(rng, size)
        root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
        expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
        np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-8)
        np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-8)


def test_lines():
    """Gaussians of rank 1, s along u and t along v: s^2 + t^2 - 2 s t |u.v|; the product C_a C_b is singular."""
    rng = np.random.default_rng(2)
    u, v = rotation(rng, 40)[:2]
    v = (u + v) / np.sqrt(2)
    s, t = 3.0, 5.0
    a, b = gaussian(np.zeros(40), s**2 * np.outer(u, u)), gaussian(np.ones(40), t**2 * np.outer(v, v))
    np.testing.assert_allclose(frechet_distance(a, b), 40 + s**2 + t**2 - 2 * s * t * (u @ v), rtol=1e-10)


def test_fewer_examples_than_features():
    """Samples moved by a constant: only the mean's part remains, however low the rank."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 300)).astype(np.float32)
    a, b = FeatureStatistics.of(x), FeatureStatistics.of(x + np.float32(0.5))
    assert frechet_distance(a, a) < 1e-9
    np.testing.assert_allclose(frechet_distance(a, b), 300 * 0.25, rtol=1e-6)


def test_a_point():
    """Equal examples: a covariance of 0 is that of a point."""
    point = FeatureStatistics.of(np.full((5, 3), 2.0))
    np.testing.assert_allclose(frechet_distance(point, gaussian([2, 2, 3], np.diag([1, 4, 9]))), 1 + 14)


def test_rotations_and_scales():
    rng = np.random.default_rng(4)
    a, b, q = random_gaussian(rng), random_gaussian(rng), 3 * rotation(rng, 6)
    turned = [gaussian(q @ g.mean + 7, q @ g.covariance @ q.T) for g in (a, b)]
    np.testing.assert_allclose(frechet_distance(*turned), 9 * frechet_distance(a, b), rtol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_streaming(size):
    """Moments of all examples, in parts of any size and also far from 0."""
    x = np.random.default_rng(5).normal(size=(500, 8)) @ np.diag(np.arange(1.0, 9)) + 1e6
    parts = [FeatureStatistics.of(x[i : i + size]) for i in range(0, 500, size)]
    whole = functools.reduce(FeatureStatistics.merge, parts)
    assert whole.count == 500
    np.testing.assert_allclose(whole.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(whole.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)


def test_the_order_of_merging():
    rng = np.random.default_rng(6)
    a, b, c = (FeatureStatistics.of(rng.normal(size=(n, 4))) for n in (3, 0, 9))
    left, right = a.merge(b).merge(c), c.merge(b.merge(a))
    assert left.count == right.count == 12
    np.testing.assert_allclose(left.covariance, right.covariance, rtol=1e-12)


def test_padding_does_not_count():
    x = np.random.default_rng(7).normal(size=(10, 4)).astype(np.float32)
    x[7:] = np.nan
    masked = FeatureStatistics.of(x, np.arange(10) < 7)
    np.testing.assert_array_equal(masked.scatter, FeatureStatistics.of(x[:7]).scatter)


def test_the_interval_covers_the_distance():
    """Of samples from a known Gaussian: nine in ten of the intervals, at least, hold what they estimate."""
    rng = np.random.default_rng(8)
    reference, truth = gaussian([0, 0], np.eye(2)), 0.25 + 1
    covered = widths = 0
    for _ in range(100):
        x = rng.normal(size=(1000, 2)) * [1, 2] + [0.5, 0]
        found = frechet_estimate([FeatureStatistics.of(x[i::10]) for i in range(10)], reference)
        assert found.low <= found.value <= found.high and (found.count, found.over) == (10, "groups of images")
        covered += found.low <= truth <= found.high
        widths += found.high - found.low
    assert covered >= 90
    # By the delta method: the mean's part has variance (2 * 0.5)^2 / 1000, the second standard deviation's
    # (2 (2 - 1))^2 * 2^2 / 2000.
    np.testing.assert_allclose(widths / 100, 2 * _T[-1] * np.sqrt((1 + 8) / 1000), rtol=0.1)


def test_quantiles_of_t():
    np.testing.assert_allclose(_T, scipy.stats.t.ppf(0.975, np.arange(1, 10)), atol=5e-4)


def test_errors():
    x = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"features have shape \(4,\): give \[N, D\]"):
        FeatureStatistics.of(x[:, 0])
    with pytest.raises(ValueError, match=r"mask has shape \(3,\): give \(4,\)"):
        FeatureStatistics.of(x, np.ones(3, bool))
    with pytest.raises(ValueError, match="features of 1 of 4 examples are not finite"):
        FeatureStatistics.of(np.where(np.arange(12).reshape(4, 3) == 5, np.nan, 1))
    with pytest.raises(ValueError, match="at least 2 examples, and there are 1"):
        frechet_distance(FeatureStatistics.of(x[:1]), FeatureStatistics.of(x))
    with pytest.raises(ValueError, match="at least 2 examples, and there are 0"):
        frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(x[:0]))
    with pytest.raises(ValueError, match="one set has 3 features an example, the other 2"):
        frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(x[:, :2]))
    with pytest.raises(ValueError, match="1 groups: give 2 to 10"):
        frechet_estimate([FeatureStatistics.of(x)], FeatureStatistics.of(x))
