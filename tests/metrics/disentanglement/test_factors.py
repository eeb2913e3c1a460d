import numpy as np
import pytest

from soda_jax.metrics.disentanglement import dci, factor_vae_score, mig, sap
from soda_jax.metrics.disentanglement.factors import binned, prepare

CODES = np.random.default_rng(0).normal(size=(8, 3))
FACTORS = np.stack([np.arange(8) % 2, np.arange(8) % 3], axis=1)
NAN = np.where(np.arange(24).reshape(8, 3) == 13, np.nan, CODES)
ONE_VALUE = FACTORS * np.array([1, 0])


def measure_mig(train_codes, train_factors, test_codes, test_factors):
    return mig(train_codes, train_factors)


@pytest.mark.parametrize("metric", [dci, sap, factor_vae_score, measure_mig])
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (CODES[:0], FACTORS[:0], "empty"),
        (CODES, FACTORS[:5], "8 rows and .*factors 5"),
        (NAN, FACTORS, "not finite in 1 rows, the first is row 4"),
        (CODES, FACTORS + np.where(np.arange(8) == 2, np.inf, 0)[:, None], "the first is row 2"),
        (CODES, ONE_VALUE, "factor 1 has one value, 0"),
        (CODES, FACTORS.astype(str), "give numbers"),
        (CODES[:, None], FACTORS, "give a matrix"),
    ],
)
def test_bad_training_data(metric, codes, factors, message):
    with pytest.raises(ValueError, match=message):
        metric(codes, factors, CODES, FACTORS)


@pytest.mark.parametrize("metric", [dci, sap, factor_vae_score])
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (CODES[:0], FACTORS[:0], "test_codes .* empty"),
        (CODES[:5], FACTORS, "test_codes have 5 rows"),
        (NAN, FACTORS, "test_codes .* not finite"),
        (CODES[:, :2], FACTORS, "train_codes have 3 columns and test_codes 2"),
        (CODES, FACTORS[:, :1], "train_factors have 2 columns and test_factors 1"),
    ],
)
def test_bad_test_data(metric, codes, factors, message):
    with pytest.raises(ValueError, match=message):
        metric(CODES, FACTORS, codes, factors)


@pytest.mark.parametrize(
    ("kinds", "message"), [("ordinal", "choose auto, discrete or continuous"), (["discrete"], "name 1 factors")]
)
def test_bad_kinds(kinds, message):
    with pytest.raises(ValueError, match=message):
        prepare(CODES, FACTORS, CODES, FACTORS, kinds)


def test_factors_are_numbered_by_value_and_kinds_are_found():
    values = np.random.default_rng(0).normal(size=200)
    train = np.stack([np.arange(200) % 3 * 0.5 - 1, values], axis=1)
    test = np.array([[0.0, 1.5], [0.25, -1.0], [9.0, 0.0]])
    problem = prepare(np.zeros((200, 2)), train, np.zeros((3, 2)), test)
    assert problem.kinds == ("discrete", "continuous")
    assert problem.sizes == (3, 1)
    np.testing.assert_array_equal(problem.train_factors[:, 0], np.arange(200) % 3)
    np.testing.assert_array_equal(problem.test_factors, [[2, 1.5], [-1, -1.0], [-1, 0.0]])
    both = prepare(np.zeros((200, 2)), train, np.zeros((3, 2)), test, "continuous")
    assert both.kinds == ("continuous", "continuous")
    np.testing.assert_array_equal(both.train_factors, train)


def test_bins_are_those_of_a_histogram():
    columns = np.random.default_rng(0).normal(size=(300, 2))
    for column, numbers in zip(columns.T, binned(columns).T, strict=True):
        expected = np.digitize(column, np.histogram(column, 20)[1][:-1]) - 1
        np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(binned(np.full((4, 1), 3.0)), np.zeros((4, 1)))


@pytest.mark.parametrize(
    ("scale", "message"),
    [(1e300, "reach .*e\\+300"), (1e39, "which float32 cannot hold"), (1e-300, "cannot hold"), (np.inf, "not finite")],
)
@pytest.mark.parametrize("split", [0, 2])
def test_codes_beyond_float32(scale, message, split):
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(30, 3)), rng.integers(0, 2, (30, 2))] * 2
    data[split] = data[split] * scale
    for metric in (dci, sap, factor_vae_score):
        with pytest.raises(ValueError, match=message):
            metric(*data)
    if split == 0:
        with pytest.raises(ValueError, match=message):
            mig(*data[:2])


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_scales_that_float32_holds(scale):
    """Trees, bins and the votes see no difference (the machines of SAP are penalised by it)."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 3, (90, 2))
    codes = factors @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(90, 4))
    plain, scaled = (dci(c, factors, c, factors) for c in (codes, codes * scale))
    np.testing.assert_allclose(scaled.importance, plain.importance, atol=1e-5)
    assert mig(codes * scale, factors) == pytest.approx(mig(codes, factors))
    assert factor_vae_score(*[codes * scale, factors] * 2) == factor_vae_score(*[codes, factors] * 2)
    assert 0 <= sap(*[codes * scale, factors] * 2) <= 1


def test_factors_whose_squares_overflow():
    codes = np.random.default_rng(0).normal(size=(150, 3))
    factors = np.random.default_rng(1).normal(size=(150, 2))
    with pytest.raises(ValueError, match="train_factors reach .* scale them"):
        dci(codes, factors * 1e200, codes, factors)
