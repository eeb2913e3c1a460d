import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.resampling import max_pool


def flax_pool(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 2), (1, 1, 2, 1)])
@pytest.mark.parametrize("equal", [False, True])
def test_maxima_and_their_gradient_are_flaxs(shape, equal):
    """Of equal values too, of which the first in a window has the gradient."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, shape) if equal else rng.standard_normal(shape), jnp.float32)
    (found, pull), (expected, pull_expected) = (jax.vjp(pool, x) for pool in (max_pool, flax_pool))
    np.testing.assert_array_equal(found, expected)
    weights = jnp.asarray(rng.standard_normal(found.shape), jnp.float32)
    np.testing.assert_allclose(jax.jit(pull)(weights)[0], pull_expected(weights)[0], atol=1e-6)


def test_values_that_are_not_numbers_are_not_hidden():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(max_pool(x)), jnp.isnan(flax_pool(x)))


def test_16_bits_stay_16_bits():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 6, 2)), jnp.bfloat16)
    found, pull = jax.vjp(max_pool, x)
    assert found.dtype == pull(found)[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, flax_pool(x))
