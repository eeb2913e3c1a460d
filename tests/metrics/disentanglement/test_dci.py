import numpy as np
import pytest
from scipy.stats import entropy

from soda_jax.metrics.disentanglement import completeness, dci, dci_by_section, disentanglement

SIZES = (2, 3, 4)


def factors(count, seed=0):
    return np.random.default_rng(seed).integers(0, SIZES, size=(count, len(SIZES)))


def split(codes, values, train=600):
    return codes[:train], values[:train], codes[train:], values[train:]


ROTATION = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3


def standard(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_identity_is_perfect(method):
    values = factors(900)
    scores = dci(*split(values, values), method=method)
    assert scores.disentanglement == pytest.approx(1.0, abs=1e-6)
    assert scores.completeness == pytest.approx(1.0, abs=1e-6)
    assert scores.informativeness == scores.train_scores.mean() == 1.0
    np.testing.assert_allclose(scores.importance, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_rotation_is_informative_but_not_disentangled(method):
    values = factors(900)
    scores = dci(*split(standard(values) @ ROTATION, values), method=method)
    assert scores.disentanglement < 0.5
    assert scores.completeness < 0.5
    assert scores.informativeness > 0.95


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_duplicated_codes_are_disentangled_but_not_complete(method):
    values = factors(900)
    scores = dci(*split(np.concatenate([values, -2.0 * values], axis=1), values), method=method)
    assert scores.disentanglement == pytest.approx(1.0, abs=1e-6)
    # Every factor in two of six codes, in equal parts.
    assert scores.completeness == pytest.approx(1 - np.log(2) / np.log(6), abs=0.03)


def test_noise_tells_nothing():
    values = factors(900)
    scores = dci(*split(np.random.default_rng(1).normal(size=(900, 4)), values))
    assert scores.disentanglement < 0.05
    assert scores.completeness < 0.05
    assert scores.informativeness == pytest.approx(np.mean(1 / np.array(SIZES)), abs=0.08)


def mixed_case():
    """More codes than factors, each a noisy mixture with its own preference: D, C and I all lie inside (0, 1)."""
    rng = np.random.default_rng(6)
    values = np.concatenate([factors(1200, 6), rng.normal(size=(1200, 1))], axis=1)
    weights = np.exp(2 * rng.normal(size=(4, 8)))
    mixed = standard(values) @ (weights / weights.sum(axis=0) * rng.choice([-1, 1], size=weights.shape))
    return split(mixed + 0.2 * rng.normal(size=mixed.shape), values, 800)


def test_fast_is_within_a_hundredth_of_exact():
    """Three times as many values as bins, some parted by a gap; discrete factors and a continuous one."""
    fast, exact = (dci(*mixed_case(), method=method) for method in ("fast", "exact"))
    for name in ("disentanglement", "completeness", "informativeness"):
        value = getattr(exact, name)
        assert 0.1 < value < 0.97, f"{name} is {value}: the case tells nothing"
        assert getattr(fast, name) == pytest.approx(value, abs=0.01), name
    assert fast.train_scores.mean() == pytest.approx(exact.train_scores.mean(), abs=0.01)


def test_informativeness_of_a_continuous_factor_is_r2():
    metrics = pytest.importorskip("sklearn.metrics")
    ensemble = pytest.importorskip("sklearn.ensemble")
    train_codes, train, test_codes, test = mixed_case()
    scores = dci(train_codes, train, test_codes, test, method="exact")
    model = ensemble.GradientBoostingRegressor(random_state=0).fit(np.float32(train_codes), train[:, 3])
    expected = metrics.r2_score(test[:, 3], model.predict(np.float32(test_codes)))
    assert scores.test_scores[3] == pytest.approx(expected, abs=1e-9)


def test_scores_of_a_known_importance_matrix():
    importance = np.random.default_rng(0).dirichlet(np.ones(5), size=3).T  # [5, 3]
    rows, columns = entropy(importance.T, base=3), entropy(importance, base=5)
    assert disentanglement(importance) == pytest.approx(np.average(1 - rows, weights=importance.sum(axis=1)))
    assert completeness(importance) == pytest.approx(np.average(1 - columns, weights=importance.sum(axis=0)))


def test_unused_codes_and_no_importance():
    unused = np.concatenate([np.eye(3), np.zeros((2, 3))])
    assert disentanglement(unused) == completeness(unused) == 1.0
    assert disentanglement(np.zeros((4, 3))) == completeness(np.zeros((4, 3))) == 0.0


def test_collapsed_codes_score_zero():
    values = factors(90)
    scores = dci(*split(np.ones((90, 4)), values, 60))
    assert scores.disentanglement == scores.completeness == 0.0
    assert scores.informativeness < 0.7


def test_sections_are_measured_by_themselves_whatever_the_processes():
    values = factors(450)
    codes = np.concatenate([values[:, :2], np.random.default_rng(0).normal(size=(450, 3)), values[:, 2:]], axis=1)
    data = split(codes, values, 300)
    sections = [(0, 2), (2, 6)]
    results = dci_by_section(*data, sections, jobs=2)
    for (start, stop), result in zip(sections, results, strict=True):
        alone = dci(data[0][:, start:stop], data[1], data[2][:, start:stop], data[3], jobs=1)
        np.testing.assert_array_equal(result.importance, alone.importance)
        np.testing.assert_array_equal(result.test_errors, alone.test_errors)
    np.testing.assert_allclose(results[0].test_scores[:2], 1.0)
    assert results[0].test_scores[2] < 0.6
    assert results[1].test_scores[2] == 1.0


def test_test_values_that_training_lacks_count_as_wrong():
    values = factors(900)
    codes_train, train, codes_test, test = split(values, values)
    test = test.copy()
    test[:30, 0] = 7
    assert dci(codes_train, train, codes_test, test).test_scores[0] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("codes", "values", "options", "message"),
    [
        (np.zeros((6, 3)), np.arange(6), {}, "1 factor"),
        (np.zeros((6, 1)), np.arange(12).reshape(6, 2), {}, "1 code"),
        (np.zeros((6, 3)), np.arange(12).reshape(6, 2), {"jobs": 0}, "jobs=0"),
        (np.zeros((6, 3)), np.arange(12).reshape(6, 2), {"method": "slow"}, "choose fast or exact"),
    ],
)
def test_arguments_out_of_range(codes, values, options, message):
    with pytest.raises(ValueError, match=message):
        dci(codes, values, codes, values, **options)


@pytest.mark.parametrize("section", [(0, 9), (-1, 2), (2, 2)])
def test_sections_outside_the_codes(section):
    values = factors(6)
    with pytest.raises(ValueError, match="they have dimensions 0:3"):
        dci_by_section(values, values, values, values, [section])
