import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.layers import Attention, Dropout, DropPath, GroupNorm

KEY = jax.random.key(3)


def drop(layer, x, ids):
    return np.asarray(layer.apply({}, jnp.asarray(x), jnp.asarray(ids), rngs={"dropout": KEY}))


@pytest.mark.parametrize("layer", [Dropout(0.4), Dropout(0.4, per_example=True), DropPath(0.4)])
def test_masks_follow_the_example_not_its_place_in_the_batch(layer):
    x = np.random.default_rng(0).standard_normal((16, 3, 5)).astype(np.float32)
    ids = np.arange(16)
    whole = drop(layer, x, ids)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(drop(layer, x[order], ids[order]), whole[order])
    np.testing.assert_array_equal(drop(layer, x[10:13], ids[10:13]), whole[10:13])
    assert (drop(layer, x, ids + 16) != whole).any()


def test_dropout_rate_and_scale():
    dropped = drop(Dropout(0.3), np.ones((8, 5000), np.float32), np.arange(8))
    # 40,000 draws: four standard deviations are 0.0092.
    assert abs((dropped == 0).mean() - 0.3) < 0.0092
    np.testing.assert_allclose(dropped[dropped != 0], 1 / 0.7, rtol=1e-6)
    assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize("size", [1, 7, 8])
def test_masks_of_odd_sizes(size):
    dropped = drop(Dropout(0.5), np.ones((4000, size), np.float32), np.arange(4000))
    rates = (dropped == 0).mean(axis=0)
    assert np.abs(rates - 0.5).max() < 5 * np.sqrt(0.25 / 4000)


def test_neighbours_are_dropped_independently():
    """Two elements share one random word."""
    zero = drop(Dropout(0.5), np.ones((1, 40_000), np.float32), np.arange(1))[0] == 0
    for shift in (1, 2, 3):
        assert abs(np.corrcoef(zero[shift:], zero[:-shift])[0, 1]) < 5 / np.sqrt(40_000)


def test_drop_path_drops_whole_examples():
    dropped = drop(DropPath(0.25), np.ones((4000, 2, 3), np.float32), np.arange(4000))
    flat = dropped.reshape(4000, -1)
    assert (flat == flat[:, :1]).all()
    assert abs((flat[:, 0] == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_allclose(flat[flat != 0], 1 / 0.75, rtol=1e-6)


@pytest.mark.parametrize("layer", [Dropout(0.5), DropPath(0.5)])
def test_evaluation_is_the_identity_and_needs_no_key(layer):
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(layer.apply({}, x, None), x)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_numpy(random_variables, masked):
    rng = np.random.default_rng(0)
    x, context = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 6), (2, 4, 7)))
    layer = Attention(head_dim=3)
    variables = random_variables(layer, x, context)
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], bool) if masked else None
    got = layer.apply(variables, x, context, None if mask is None else jnp.asarray(mask))

    p = jax.tree.map(np.float64, variables["params"])
    query, key, value = (
        np.einsum("bnc,chd->bhnd", inputs, p[name]["kernel"]) + p[name]["bias"][:, None]
        for name, inputs in (("query", x), ("key", context), ("value", context))
    )
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(3)
    if masked:
        scores = np.where(mask[:, None, None], scores, -np.inf)
    expected = np.einsum("bhnd,hdc->bnc", softmax(scores) @ value, p["out"]["kernel"]) + p["out"]["bias"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_zero_context_without_bias_adds_zero(random_variables):
    x, context = jnp.ones((1, 3, 4)), jnp.zeros((1, 2, 5))
    for bias in (False, True):
        layer = Attention(head_dim=2, context_bias=bias)
        added = np.asarray(layer.apply(random_variables(layer, x, context), x, context))
        assert (added == 0).all() != bias


def test_attention_names_a_head_that_does_not_divide():
    with pytest.raises(ValueError, match="6 channels does not divide into heads of 4"):
        Attention(head_dim=4).init(KEY, jnp.ones((1, 2, 6)))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (6, 2)])
def test_group_norm_equals_numpy(channels, groups):
    x = np.random.default_rng(0).standard_normal((2, 4, 3, channels)).astype(np.float32) * 3 + 1
    got = GroupNorm(use_affine=False).apply({}, x)
    grouped = x.astype(np.float64).reshape(2, 12, groups, channels // groups)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    np.testing.assert_allclose(got, ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), atol=1e-4)
