import numpy as np
import pytest

from soda_jax.metrics.disentanglement import factor_vae, factor_vae_score

VOTES = {"train_votes": 400, "test_votes": 300, "batch": 32}


def factors(count=1200, seed=0):
    return np.random.default_rng(seed).integers(0, (3, 4, 5), size=(count, 3)).astype(float)


def score(codes, values, **options):
    return factor_vae_score(codes[:800], values[:800], codes[800:], values[800:], **VOTES | options)


def test_identity_is_perfect():
    values = factors()
    assert score(values, values) == 1.0
    # Units, copies and codes without meaning or change leave it so.
    noise = np.random.default_rng(1).normal(size=(1200, 2))
    assert score(np.concatenate([values * [1, -50, 0.01], values, noise, np.ones((1200, 1))], axis=1), values) == 1.0


def test_continuous_factors_are_held_within_a_bin():
    values = np.random.default_rng(0).normal(size=(1200, 3))
    assert score(values, values) == 1.0


def test_rotation_scores_lower():
    values = np.random.default_rng(0).integers(0, 4, size=(1200, 3))  # equal spreads: no axis is near a factor's
    rotation = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3
    assert score(values @ rotation, values, batch=8) < 0.95


def test_noise_scores_by_chance():
    assert score(np.random.default_rng(1).normal(size=(1200, 6)), factors()) == pytest.approx(1 / 3, abs=0.12)


def test_one_code_can_name_one_factor():
    values = factors()
    assert score(values[:, :1], values) == pytest.approx(1 / 3, abs=0.1)


def test_collapsed_codes_score_zero():
    assert score(np.ones((1200, 4)), factors()) == 0.0


def test_the_seed_decides():
    values = factors()
    codes = np.random.default_rng(1).normal(size=(1200, 6))
    assert score(codes, values, seed=1) == score(codes, values, seed=1) != score(codes, values, seed=2)


def test_values_that_no_two_examples_share():
    values = np.stack([np.arange(60) % 2, np.arange(60)], axis=1)
    with pytest.raises(ValueError, match="factor 1: no two of 60 examples share a value"):
        factor_vae_score(values, values, values, values, kinds="discrete", **VOTES)


def by_hand(codes, values, threshold, votes=150, batch=16):
    """The score as disentanglement_lib writes it, vote by vote, on a table of examples."""
    rng = np.random.default_rng(7)
    splits = (codes[:800], values[:800]), (codes[800:], values[800:])
    variances = np.var(splits[0][0], axis=0, ddof=1)
    active = np.sqrt(variances) >= threshold
    if not active.any():
        return 0.0
    tables = np.zeros((2, values.shape[1], active.sum()), int)
    for table, (split_codes, split_values) in zip(tables, splits, strict=True):
        for _ in range(votes):
            factor = rng.integers(values.shape[1])
            same = np.flatnonzero(split_values[:, factor] == split_values[rng.integers(len(split_values)), factor])
            local = np.var(split_codes[rng.choice(same, batch)], axis=0, ddof=1)
            table[factor, np.argmin(local[active] / variances[active])] += 1
    named = tables[0].argmax(axis=0)
    return tables[1][named, np.arange(len(named))].sum() / votes


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 1.0), (0.05, 0.7), (0.5, 0.5), (50.0, 0.0)])
def test_pruning_is_that_of_disentanglement_lib(threshold, expected):
    """Codes of three factors with standard deviations of 10, .2 and .02, and one of noise."""
    values = factors()
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    noise = np.random.default_rng(1).normal(size=(1200, 1))
    codes = np.concatenate([scaled * [10, 0.2, 0.02], noise], axis=1) + 5
    found = score(codes, values, threshold=threshold, train_votes=1500, test_votes=1500)
    reference = by_hand(codes, values, threshold, votes=1500)
    assert found == pytest.approx(reference, abs=0.05) == pytest.approx(expected, abs=0.12)


def test_the_threshold_is_of_the_unbiased_deviation_and_included():
    codes = np.array([[1.0, 0], [3, 0], [1, 0], [3, 0]])  # deviations of 1, or unbiased 2 / sqrt(3), and of 0
    exact = float(np.std(codes[:, 0], ddof=1))
    for threshold, kept in ((0.0, [True, False]), (1.1, [True, False]), (exact, [True, False]), (1.16, [False, False])):
        np.testing.assert_array_equal(factor_vae.kept_columns(codes, threshold), kept)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_thresholds_out_of_range(threshold):
    with pytest.raises(ValueError, match="threshold="):
        score(factors(), factors(), threshold=threshold)
