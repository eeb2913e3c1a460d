"""The noise schedules against the paper's reading and closed forms."""

import numpy as np
import pytest

from soda_jax.diffusion import SCHEDULES, alphas_cumprod

CHECKS = {
    0: 1.0,
    1: 0.979704,
    10: 0.935721,
    100: 0.793529,
    500: 0.496,
    900: 0.198471,
    999: 0.0122961,
    1000: 1.22961e-5,
}


@pytest.mark.parametrize("t", CHECKS)
def test_inverted_schedule_has_the_reference_values(t):
    np.testing.assert_allclose(alphas_cumprod("inverted", 1000)[t], CHECKS[t], rtol=1e-5)


def test_inverted_schedule_is_the_inverse_function_of_the_cosine():
    """Putting abar back into the cosine's formula gives the time."""
    abar = alphas_cumprod("inverted", 1000)[:-1]
    time = np.cos((abar + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(time, np.arange(1000) / 1000, atol=1e-12)


@pytest.mark.parametrize("num_timesteps", [2, 50, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_falls_from_clean_to_noise(name, num_timesteps):
    abar = alphas_cumprod(name, num_timesteps)
    assert abar.shape == (num_timesteps + 1,) and abar.dtype == np.float64
    assert abar[0] == 1.0
    betas = 1 - abar[1:] / abar[:-1]
    assert (betas > 0).all() and (betas <= 0.999 + 1e-12).all()
    assert 0 < abar[-1] < 0.01


def test_last_beta_of_the_inverted_schedule_is_clipped():
    abar = alphas_cumprod("inverted", 1000)
    np.testing.assert_allclose(1 - abar[-1] / abar[-2], 0.999, rtol=1e-12)


@pytest.mark.parametrize(("name", "share"), [("inverted", 0.95), ("cosine", 0.59)])
def test_share_of_medium_noise(name, share):
    """The point of the inverted schedule: most timesteps have a medium noise level."""
    abar = alphas_cumprod(name, 1000)[1:]
    medium = np.mean((abar >= 0.1) & (abar <= 0.9))
    assert abs(medium - share) < 0.01


def test_linear_schedule_has_the_betas_of_ho_et_al():
    abar = alphas_cumprod("linear", 1000)
    np.testing.assert_allclose(1 - abar[1:] / abar[:-1], np.linspace(1e-4, 0.02, 1000), rtol=1e-9)


def test_sigmoid_schedule_has_the_values_of_its_paper():
    """Chen (2023): symmetric about the middle, logistic(-3..3) rescaled to [0, 1]."""
    abar = alphas_cumprod("sigmoid", 1000)
    np.testing.assert_allclose(abar[500], 0.5, rtol=1e-9)
    np.testing.assert_allclose(abar[1:-1] + abar[-2:0:-1], 1, rtol=1e-9)
    low, high = 1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))
    quarter = (high - 1 / (1 + np.exp(1.5))) / (high - low)
    np.testing.assert_allclose(abar[250], quarter, rtol=1e-9)


def test_reflected_schedule_mirrors_the_cosine():
    reflected, cosine = alphas_cumprod("reflected", 1000), alphas_cumprod("cosine", 1000)
    line = 1 - np.arange(1001) / 1000
    np.testing.assert_allclose((reflected + cosine) / 2, line, atol=1e-5)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'cosin'.*inverted.*cosine.*linear"):
        alphas_cumprod("cosin", 1000)


def test_chain_without_steps_is_refused():
    with pytest.raises(ValueError, match="num_timesteps is 0"):
        alphas_cumprod("inverted", 0)
