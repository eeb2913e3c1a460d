import numpy as np
import pytest

from soda_jax.metrics.disentanglement import factor_vae_score

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
