"""The VAEs' terms against closed forms, numerical integration and NumPy; the discriminator near the Bayes error."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from soda_jax import rngs
from soda_jax.models.baselines import Discriminator
from soda_jax.objectives import vae
from soda_jax.objectives.vae import Codes

RNG = np.random.default_rng(0)
COUNT, DIM = 6, 3


def codes(count=COUNT, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)
    mean, log_variance, z = rng.standard_normal((3, count, dim))
    return Codes(*(jnp.asarray(x, jnp.float32) for x in (mean, 0.5 * log_variance, z)))


def kl_of(found):
    mean, log_variance = np.float64(found.mean), np.float64(found.log_variance)
    return 0.5 * (mean**2 + np.exp(log_variance) - log_variance - 1).sum(1)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.3, -1.0), (-0.4, 0.8)])
def test_the_kl_is_the_integral(mean, log_variance):
    q = stats.norm(mean, np.exp(log_variance / 2))
    expected, _ = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - stats.norm.logpdf(x)), -12, 12)
    found = vae.gaussian_kl(jnp.array([[mean, 0.0]]), jnp.array([[log_variance, 0.0]]))
    np.testing.assert_allclose(found, [expected], atol=1e-5)


def test_the_total_correlation_is_the_definition_on_the_batch():
    """Densities one by one: q(z) and q(z_l) as sums over the batch's own posteriors."""
    found = codes()
    z, mean, deviation = np.float64(found.z), np.float64(found.mean), np.exp(np.float64(found.log_variance) / 2)
    total = 0.0
    for j in range(COUNT):
        density = np.array(
            [[stats.norm.pdf(z[j, k], mean[i, k], deviation[i, k]) for k in range(DIM)] for i in range(COUNT)]
        )
        total += np.log(density.prod(axis=1).sum()) - np.log(density.sum(axis=0)).sum()
    np.testing.assert_allclose(vae.total_correlation(found), total / COUNT, rtol=1e-4)
    terms = vae.TotalCorrelation(4.0)(found, 0)
    np.testing.assert_allclose(terms.whole, 3.0 * total / COUNT, rtol=1e-4)
    np.testing.assert_allclose(terms.per_example, kl_of(found), rtol=1e-4)


def test_the_covariance_is_held_against_the_identity():
    found = codes(count=12)
    of_means = np.cov(np.float64(found.mean), rowvar=False, bias=True)
    of_codes = of_means + np.diag(np.exp(np.float64(found.log_variance)).mean(0))
    for covariance, flag, factor in ((of_means, False, 10.0), (of_codes, True, 1.0)):
        off = covariance - np.diag(np.diag(covariance))
        for given, lambda_d in ((3.0, 3.0), (None, 2.0 * factor)):
            expected = 2.0 * (off**2).sum() + lambda_d * ((np.diag(covariance) - 1) ** 2).sum()
            terms = vae.Covariance(2.0, given, flag)(found, 0)
            np.testing.assert_allclose(terms.whole, expected, rtol=1e-4)
            np.testing.assert_allclose(terms.per_example, kl_of(found), rtol=1e-4)


def test_the_capacity_rises_and_stays():
    found, annealed = codes(), vae.Annealed(gamma=10.0, capacity=4.0, steps=100)
    mean = kl_of(found).mean()
    for step, capacity in ((0, 0.0), (25, 1.0), (100, 4.0), (1000, 4.0)):
        terms = annealed(found, step)
        np.testing.assert_allclose(terms.whole, 10.0 * abs(mean - capacity), rtol=1e-4)
        np.testing.assert_array_equal(terms.per_example, 0.0)
    np.testing.assert_allclose(vae.Beta(4.0)(found, 0).per_example, 4.0 * kl_of(found), rtol=1e-4)


def test_permuted_codes_keep_each_dimension_and_lose_what_ties_them():
    z = jnp.repeat(jnp.arange(64.0)[:, None], 3, axis=1)
    draw = rngs.Draws(jax.random.key(0), 5, jnp.arange(64))
    found = np.asarray(vae.permuted(z, draw))
    np.testing.assert_array_equal(np.sort(found, axis=0), z)
    assert np.abs(np.corrcoef(found, rowvar=False)[np.triu_indices(3, 1)]).max() < 0.4
    again = np.asarray(vae.permuted(z, dataclasses.replace(draw, step=6)))
    assert (again != found).any()


def test_the_discriminator_comes_near_the_bayes_error():
    """Of N(-1, 1) and N(1, 1) in one of two dimensions: the ratio is 2 x, the best accuracy Phi(1) = .841."""
    network, count = Discriminator(width=16, depth=2), 2048
    sides = RNG.standard_normal((2, count, 2)).astype(np.float32)
    sides[0, :, 0] += 1.0
    sides[1, :, 0] -= 1.0
    params = network.init(jax.random.key(0), sides[0])["params"]
    optimizer = optax.adam(1e-2)

    def ratios(params, sides):
        return [vae.log_density_ratio(network, params, side) for side in sides]

    @jax.jit
    def train(params):
        def step(_, carry):
            params, state = carry
            grads = jax.grad(lambda p: vae.discriminator_loss(*ratios(p, sides)))(params)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 150, step, (params, optimizer.init(params)))[0]

    params = train(params)
    fresh = RNG.standard_normal((2, count, 2)).astype(np.float32)
    fresh[:, :, 0] += np.array([[1.0], [-1.0]], np.float32)
    one, other = (np.asarray(ratio) for ratio in ratios(params, fresh))
    assert 0.5 * ((one > 0).mean() + (other < 0).mean()) == pytest.approx(stats.norm.cdf(1.0), abs=0.02)
    bayes = 2 * integrate.quad(lambda x: 0.5 * stats.norm.pdf(x, 1) * np.logaddexp(0, -2 * x), -9, 9)[0]
    assert float(vae.discriminator_loss(one, other)) == pytest.approx(bayes, abs=0.03)
    # The estimate of E log q / p on its own side: KL(N(1, 1) || N(-1, 1)) = 2.
    assert one.mean() == pytest.approx(2.0, abs=0.3)
