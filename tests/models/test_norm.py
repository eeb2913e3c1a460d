import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models import epilogue, masks, norm
from soda_jax.models.norm import GroupNorm

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((3, 4, 5, 12)) * 2 + 1, jnp.float32)
SCALE, SHIFT = (jnp.asarray(RNG.standard_normal((3, 12)), jnp.float32) for _ in range(2))
WEIGHTS = jnp.asarray(RNG.standard_normal(X.shape), jnp.float32)
KEYS = jax.random.bits(jax.random.key(0), (3, 2), jnp.uint32)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (6, 2)])
def test_group_norm_equals_numpy(channels, groups):
    x = np.random.default_rng(0).standard_normal((2, 4, 3, channels)).astype(np.float32) * 3 + 1
    got = GroupNorm(use_affine=False).apply({}, x)
    grouped = x.astype(np.float64).reshape(2, 12, groups, channels // groups)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    np.testing.assert_allclose(got, ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), atol=1e-4)


def composed(x, scale, shift, rate):
    """By flax's layer and operations of JAX, differentiated by rule."""
    h = nn.GroupNorm(4, epsilon=norm.EPSILON, use_bias=False, use_scale=False).apply({}, x)
    h = nn.gelu(scale[:, None, None] * h + shift[:, None, None])
    return masks.dropped(h, KEYS, rate, x.shape[1:]) if rate else h


def ours(x, scale, shift, rate):
    layer = GroupNorm(4, use_affine=False, activation=epilogue.gelu)
    return layer.apply({}, x, scale, shift, masks.Drop(KEYS, rate) if rate else None)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_value_and_gradient_equal_the_layers_one_by_one(rate):
    found, expected = (
        jax.value_and_grad(lambda *args, f=f: (f(*args, rate) * WEIGHTS).sum(), argnums=(0, 1, 2))(X, SCALE, SHIFT)
        for f in (ours, composed)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for got, wanted in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_in_16_bits_the_result_is_rounded_once():
    """Neither the normalised x nor a scale near 1 is rounded by itself."""
    x = X.astype(jnp.bfloat16)
    scale = 1 + 0.002 * SCALE
    exact = norm.normalise(x, scale, SHIFT, None, 4, epilogue.Epilogue(epilogue.identity, jnp.float32))
    found = norm.normalise(x, scale, SHIFT, None, 4, epilogue.Epilogue(epilogue.identity, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_only_the_input_is_kept_for_the_gradient():
    """The layers by themselves keep several arrays of its size; that is a third of a training step's memory."""

    def kept(f):
        residuals = jax.eval_shape(lambda *args: jax.vjp(lambda *a: f(*a, 0.3), *args)[1], X, SCALE, SHIFT)
        return sum(leaf.size == X.size for leaf in jax.tree.leaves(residuals))

    assert kept(ours) == 1 < kept(composed)


def test_a_group_of_constants_becomes_zeros():
    out = GroupNorm(4, use_affine=False).apply({}, jnp.full((1, 3, 3, 8), 7.0))
    np.testing.assert_allclose(out, 0.0, atol=1e-3)


def test_a_layer_with_its_own_scale_takes_no_other():
    with pytest.raises(ValueError, match="a scale and shift of its own"):
        GroupNorm(4).init(jax.random.key(0), X, SCALE, SHIFT)
