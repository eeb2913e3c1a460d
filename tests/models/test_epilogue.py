import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models import epilogue, masks

RNG = np.random.default_rng(0)


def test_the_logistic_form_of_gelu_is_its_usual_approximation():
    x = jnp.linspace(-12.0, 12.0, 4001)
    np.testing.assert_allclose(epilogue.gelu(x), nn.gelu(x), atol=2e-6)


@pytest.mark.parametrize("axes", [(1, 2), (0, 1, 2)])
def test_both_ways_to_sum_are_numpys(axes):
    values, x = (RNG.standard_normal((3, 4, 5, 12)).astype(np.float32) for _ in range(2))
    expected = [part.astype(np.float64).sum(axes) for part in (values, values * x)]
    for way in (epilogue._one_by_one, epilogue._as_one, epilogue.sums):
        for got, wanted in zip(way(values, x, lambda terms: terms.sum(axes)), expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_whole_examples_are_dropped_or_scaled():
    x = jnp.asarray(RNG.standard_normal((64, 3, 3, 2)), jnp.float32)
    keys = jnp.asarray(RNG.integers(2**32, size=(64, 2), dtype=np.uint32))
    y = epilogue.Epilogue(nn.relu, jnp.float32)(x, masks.Drop(keys, 0.25, whole_examples=True))
    dropped = (np.asarray(y) == 0.0).all((1, 2, 3))
    assert 5 < dropped.sum() < 30
    np.testing.assert_allclose(y[~dropped], np.maximum(x[~dropped], 0) / 0.75, rtol=1e-6)
