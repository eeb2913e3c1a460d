"""The Gaussian chain against Bayes' rule in float64, and its respacing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.diffusion import SCHEDULES, Diffusion

TRAINING = Diffusion.create("inverted", 1000)


def images(count, seed=0):
    x_0, eps = np.random.default_rng(seed).normal(size=(2, count, 4, 4, 3)).astype(np.float32)
    return np.clip(x_0, -1, 1), eps


def bayes_posterior(abar, t, x_0, x_t):
    """q(x_{t-1} | x_t, x_0) as the product of two Gaussians in x_{t-1}, in float64.

    N(x_t; sqrt(alpha) x, beta) is, in x, N(x; x_t / sqrt(alpha), beta / alpha); the product with
    the prior N(x; sqrt(abar_{t-1}) x_0, 1 - abar_{t-1}) adds the precisions.
    """
    alpha = abar[t] / abar[t - 1]
    likelihood_precision = alpha / (1 - alpha)
    prior_precision = 1 / (1 - abar[t - 1])
    variance = 1 / (likelihood_precision + prior_precision)
    evidence = likelihood_precision * x_t / np.sqrt(alpha)
    prior = prior_precision * np.sqrt(abar[t - 1]) * x_0
    return variance * (evidence + prior), variance


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1000, 250, 7])
def test_posterior_is_bayes_rule(schedule, num_steps):
    chain = Diffusion.create(schedule, 1000).respace(num_steps)
    t = np.unique(np.linspace(2, num_steps, 40).astype(np.int32))
    x_0, x_t = images(len(t))
    mean, variance = chain.posterior(x_0, x_t, t)
    for row, step in enumerate(t):
        expected_mean, expected_variance = bayes_posterior(
            chain.abar, step, x_0[row].astype(np.float64), x_t[row].astype(np.float64)
        )
        np.testing.assert_allclose(mean[row], expected_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variance[row].item(), expected_variance, rtol=1e-5)


def test_posterior_of_the_first_step_is_the_image():
    """abar_0 = 1: nothing is left to sample. The table must not begin at a noisy entry."""
    x_0, x_t = images(3)
    mean, variance = TRAINING.posterior(x_0, x_t, jnp.ones(3, jnp.int32))
    np.testing.assert_array_equal(mean, x_0)
    np.testing.assert_array_equal(variance, np.zeros((3, 1, 1, 1)))


def test_noise_has_the_marginal_variance():
    t = np.full(2000, 300, np.int32)
    eps = jax.random.normal(jax.random.key(0), (2000, 10))
    x_t = TRAINING.q_sample(jnp.full((2000, 10), 0.5), t, eps)
    assert abs(np.mean(x_t) - 0.5 * np.sqrt(TRAINING.abar[300])) < 0.02
    assert abs(np.var(x_t) - (1 - TRAINING.abar[300])) < 0.02


def test_step_zero_is_clean():
    x_0, eps = images(2)
    np.testing.assert_array_equal(TRAINING.q_sample(x_0, jnp.zeros(2, jnp.int32), eps), x_0)


def test_x0_and_eps_are_recovered_from_x_t():
    t = np.array([1, 2, 10, 100, 500, 900, 999, 1000], np.int32)
    x_0, eps = images(len(t))
    x_t = TRAINING.q_sample(x_0, t, eps)
    # x_t's float32 rounding is magnified by 1 / sqrt(abar), 285 at t = T.
    np.testing.assert_allclose(TRAINING.predict_x0(x_t, t, eps), x_0, atol=2e-4)
    np.testing.assert_allclose(TRAINING.predict_eps(x_t, t, x_0), eps, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 50, 75, 250, 999, 1000])
def test_respacing_keeps_the_marginals(num_steps):
    chain = TRAINING.respace(num_steps)
    assert chain.num_steps == num_steps
    steps = chain.timesteps
    assert steps[0] == 0 and steps[-1] == 1000 and steps.dtype == np.int32
    assert num_steps == 1 or steps[1] == 1
    np.testing.assert_allclose(np.cumprod(1 - chain.betas), TRAINING.abar[steps], rtol=1e-9)


@pytest.mark.parametrize("num_steps", [2, 3, 75, 250])
def test_respacing_strides_evenly(num_steps):
    strides = np.diff(TRAINING.respace(num_steps).timesteps[1:])
    assert strides.min() >= 1 and strides.max() - strides.min() <= 1


def test_respacing_to_all_steps_is_the_identity():
    chain = TRAINING.respace(1000)
    np.testing.assert_array_equal(chain.timesteps, TRAINING.timesteps)
    np.testing.assert_array_equal(chain.abar, TRAINING.abar)


def test_respacing_a_respaced_chain_keeps_training_steps():
    chain = TRAINING.respace(100).respace(10)
    np.testing.assert_array_equal(chain.abar, TRAINING.abar[chain.timesteps])
    assert chain.timesteps[1] == 1 and chain.timesteps[-1] == 1000


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_impossible_respacing_is_refused(num_steps):
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}.*between 1 and 1000"):
        TRAINING.respace(num_steps)


def test_steps_are_those_of_improved_ddpm():
    """75 of 1000 has ties (a stride of 13.5), which round to even from 0 there."""
    expected = [1 + round(i * 999 / 74) for i in range(75)]
    np.testing.assert_array_equal(TRAINING.respace(75).timesteps[1:], expected)


def test_the_velocity_is_the_derivative_of_the_path():
    """Salimans & Ho (2022): with sqrt(abar) = cos(phi), x_t = cos(phi) x_0 + sin(phi) eps and v = dx_t / dphi."""
    chain = Diffusion.create("cosine", 1000, prediction="v")
    t = np.array([1, 10, 500, 999], np.int32)
    x_0, eps = images(len(t))
    phi = np.arccos(np.sqrt(chain.abar[t]))[:, None, None, None]

    def path(angle):
        return np.cos(angle) * x_0 + np.sin(angle) * eps

    np.testing.assert_allclose(chain.target(x_0, t, eps), (path(phi + 1e-6) - path(phi - 1e-6)) / 2e-6, atol=1e-5)


def test_x0_is_recovered_from_the_velocity():
    chain = Diffusion.create("inverted", 1000, prediction="v")
    t = np.array([1, 10, 500, 999, 1000], np.int32)
    x_0, eps = images(len(t))
    x_t = chain.q_sample(x_0, t, eps)
    np.testing.assert_allclose(chain.predict_x0(x_t, t, chain.target(x_0, t, eps)), x_0, atol=1e-6)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="choose eps or v"):
        Diffusion.create("cosine", 1000, prediction="x0")
