import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.aggregation import MeanAggregator, TransformerAggregator

Z = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]], bool)


def test_mean_is_over_the_present_views():
    got = MeanAggregator().apply({}, Z, jnp.asarray(MASK))
    expected = [Z[0].mean(0), (Z[1, 0] + Z[1, 2]) / 2, Z[2, 2]]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.fixture
def aggregate(random_variables):
    module = TransformerAggregator()
    variables = random_variables(module, Z, MASK)
    return jax.jit(lambda z, mask: module.apply(variables, z, mask))


def test_transformer_ignores_order_and_absent_views(aggregate):
    got = np.asarray(aggregate(Z, MASK))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(aggregate(Z[:, order], MASK[:, order]), got, atol=1e-5)
    other = np.where(MASK[..., None], Z, np.float32(1e3))
    np.testing.assert_array_equal(aggregate(other, MASK), got)
    np.testing.assert_allclose(aggregate(Z[2:, 2:3], MASK[2:, 2:3]), got[2:], atol=1e-5)
    # Present views do count, and it is not the mean.
    changed = Z.copy()
    changed[1, 2, :4] += 1.0
    assert np.abs(aggregate(changed, MASK)[1] - got[1]).max() > 1e-3


@pytest.mark.parametrize("views", [1, 7])
@pytest.mark.parametrize("module", [MeanAggregator(), TransformerAggregator()])
def test_any_number_of_views(module, views):
    z, mask = jnp.zeros((2, views, 8)), jnp.ones((2, views), bool)
    assert jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), z, mask)[0]).shape == (2, 8)


def test_a_row_without_views_gives_zeros(aggregate):
    none = np.zeros_like(MASK)
    np.testing.assert_array_equal(aggregate(Z, none), np.zeros((3, 8)))
    np.testing.assert_array_equal(MeanAggregator().apply({}, Z, jnp.asarray(none)), np.zeros((3, 8)))
