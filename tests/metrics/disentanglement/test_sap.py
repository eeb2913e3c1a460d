import numpy as np
import pytest
from sklearn.svm import LinearSVC

from soda_jax.metrics.disentanglement import sap
from soda_jax.metrics.disentanglement.factors import prepare
from soda_jax.metrics.disentanglement.sap import linear_svm, predictabilities


def data(count=600, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, (2, 3, 4), size=(count, 3)).astype(float)
    codes = factors @ rng.normal(size=(3, 5)) + 0.3 * rng.normal(size=(count, 5))
    return codes, factors


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (5.0, 0.3), (0.2, 0.05), (-20.0, 40.0)])
def test_machine_on_one_code_is_scikit_learns(size, mean, std):
    rng = np.random.default_rng(0)
    classes = rng.choice(size, p=np.arange(1, size + 1) / np.arange(1, size + 1).sum(), size=500)
    code = mean + std * (0.5 * classes + rng.normal(size=500))
    slopes, offsets = linear_svm(code, classes, size)
    model = LinearSVC(C=0.01, class_weight="balanced", tol=1e-10, max_iter=100_000).fit(code[:, None], classes)
    np.testing.assert_allclose(slopes, model.coef_[:, 0], atol=1e-5 * np.abs(model.coef_).max())
    np.testing.assert_allclose(offsets, model.intercept_, atol=1e-5 * np.abs(model.intercept_).max())


def test_separable_codes_have_a_machine_too():
    classes = np.arange(60) % 3
    slopes, offsets = linear_svm(classes * 100.0, classes, 3)
    model = LinearSVC(C=0.01, class_weight="balanced", tol=1e-10, max_iter=100_000).fit(
        classes[:, None] * 100.0, classes
    )
    np.testing.assert_allclose(slopes, model.coef_[:, 0], atol=1e-6)
    np.testing.assert_allclose(offsets, model.intercept_, atol=1e-6)


def test_accuracies_are_scikit_learns_whatever_the_processes():
    codes, factors = data()
    problem = prepare(codes[:400], factors[:400], codes[400:], factors[400:])
    table = predictabilities(problem)
    np.testing.assert_array_equal(table, predictabilities(problem, jobs=2))
    for i in range(codes.shape[1]):
        for k in range(factors.shape[1]):
            model = LinearSVC(C=0.01, class_weight="balanced", tol=1e-8, max_iter=10_000)
            model.fit(problem.train_codes[:, i : i + 1], problem.train_factors[:, k])
            expected = model.score(problem.test_codes[:, i : i + 1], problem.test_factors[:, k])
            assert table[i, k] == pytest.approx(expected, abs=1e-12)


def test_continuous_factors_by_squared_correlation():
    codes, factors = data()
    problem = prepare(codes, factors, codes, factors, "continuous")
    expected = np.square(np.corrcoef(codes.T, factors.T)[:5, 5:])
    np.testing.assert_allclose(predictabilities(problem), expected, atol=1e-5)


def test_identity_and_copies():
    rng = np.random.default_rng(0)
    factors = rng.integers(2, size=(3000, 3))
    # The best code is always right, the next as often as by chance.
    assert sap(factors[:2000], factors[:2000], factors[2000:], factors[2000:]) == pytest.approx(0.5, abs=0.05)
    copies = np.concatenate([factors, -factors], axis=1)
    assert sap(copies[:2000], factors[:2000], copies[2000:], factors[2000:]) == 0.0


def test_collapsed_codes_score_zero():
    _, factors = data(60)
    assert sap(np.ones((60, 3)), factors, np.ones((60, 3)), factors) == 0.0


def test_one_code_has_no_gap():
    codes, factors = data(60)
    with pytest.raises(ValueError, match="at least 2 codes"):
        sap(codes[:, :1], factors, codes[:, :1], factors)
