import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models import layers, masks
from soda_jax.models.attention import Attention
from soda_jax.models.layers import Conv, Dropout, DropPath, truncated_normal_init

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


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_elements_and_examples_are_dropped_independently(rate):
    """Also those whose places differ by a power of two, as neighbours in a column do: weak hashes show there."""
    dropped = drop(Dropout(rate), np.ones((16, 1 << 16), np.float32), np.arange(16)) == 0
    centred = (dropped - rate) / np.sqrt(rate * (1 - rate))
    for shift in (1, 2, 3, 7, *(2**power for power in range(2, 16)), *(3 * 2**power for power in range(4, 14))):
        products = centred[:, shift:] * centred[:, :-shift]
        assert abs(products.mean()) < 5 / np.sqrt(products.size), shift
    correlations = np.corrcoef(centred)[np.triu_indices(16, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(1 << 16)
    assert np.abs(dropped.mean(axis=1) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / (1 << 16))


class Stack(nn.Module):
    """The masks of layers in different places of a model."""

    @nn.compact
    def __call__(self, x, train_ids):
        found = [Dropout(0.5, name=f"dropout{index}")(x, train_ids) for index in range(3)]
        return jnp.stack(
            [*found, DropPath(0.5, name="path")(jnp.broadcast_to(x[..., None], (*x.shape, 1)), train_ids)[..., 0]]
        )


def test_layers_of_a_model_are_dropped_independently():
    kept = drop(Stack(), np.ones((1 << 15, 1), np.float32), np.arange(1 << 15))[..., 0] > 0
    assert np.abs(np.corrcoef(kept)[np.triu_indices(4, 1)]).max() < 5 / np.sqrt(1 << 15)


def test_the_generator_runs_once_for_all_layers():
    """A place costs a few integer operations; a generator's rounds for each would be kernels of their own on a TPU."""
    x, ids = jnp.ones((8, 1)), jnp.arange(8)

    def rounds(layer):
        program = jax.jit(lambda key: layer.apply({}, x, ids, rngs={"dropout": key})).lower(KEY).compile().as_text()
        return program.count("shift-left(")  # of the generator's rotations

    assert 0 < rounds(Stack()) <= rounds(Dropout(0.5))


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


def test_convolution_equals_flax_and_has_its_parameters(random_variables):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 4, 3)), jnp.float32)
    layer, flax = Conv(6, 3, gain=0.5), nn.Conv(6, (3, 3), kernel_init=truncated_normal_init)
    jax.tree.map(np.testing.assert_array_equal, layer.init(KEY, x), flax.init(KEY, x))
    variables = random_variables(flax, x)
    np.testing.assert_allclose(layer.apply(variables, x), 0.5 * flax.apply(variables, x), atol=1e-6)


def test_a_wide_convolution_rounds_its_inputs_alone(random_variables):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 5, 64)), jnp.bfloat16)
    layer = Conv(3, 3, dtype=jnp.bfloat16, wide=True)
    exact = nn.Conv(3, (3, 3), precision="highest")
    variables = random_variables(exact, x)
    rounded = {"params": {"kernel": variables["params"]["kernel"].astype(jnp.bfloat16).astype(jnp.float32)}}
    rounded["params"]["bias"] = variables["params"]["bias"]

    def squared(apply, variables, x):
        return jnp.square(apply(variables, x)).sum()

    found, expected = layer.apply(variables, x), exact.apply(rounded, x.astype(jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(np.asarray(found.astype(jnp.bfloat16), np.float32) - found).max() > 1e-3  # 16 bits would not do
    gradients = jax.grad(squared, argnums=(1, 2))(layer.apply, variables, x)
    references = jax.grad(squared, argnums=(1, 2))(exact.apply, rounded, x.astype(jnp.float32))
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(references), strict=True):
        np.testing.assert_allclose(one.astype(np.float32), other, rtol=0.02, atol=0.02 * np.abs(other).max())


def test_attention_has_the_parameters_of_dense_layers():
    """Checkpoints hold them: their names, shapes and first values are those of flax's DenseGeneral."""
    x = jnp.ones((1, 2, 6))
    params = Attention(head_dim=2).init(KEY, x)["params"]

    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x):
            for name in ("query", "key", "value"):
                y = nn.DenseGeneral((3, 2), kernel_init=truncated_normal_init, name=name)(x)
            return nn.DenseGeneral(6, axis=(-2, -1), kernel_init=truncated_normal_init, name="out")(y)

    jax.tree.map(np.testing.assert_array_equal, params, Dense().init(KEY, x)["params"])


def test_attention_names_a_head_that_does_not_divide():
    with pytest.raises(ValueError, match="6 channels does not divide into heads of 4"):
        Attention(head_dim=4).init(KEY, jnp.ones((1, 2, 6)))


def test_examples_whose_places_overlap_are_dropped_independently():
    """Equal first key words, which random keys almost never have: the second ones alone tell the examples apart."""
    keys = np.stack([np.full(24, 7), np.random.default_rng(0).integers(0, 2**32, 24)], axis=1).astype(np.uint32)
    for keep_rate in (0.5, 0.9):
        kept = np.asarray(masks.kept(jnp.asarray(keys), keep_rate, (1 << 15,)))
        assert np.abs(np.corrcoef(kept)[np.triu_indices(24, 1)]).max() < 5 / np.sqrt(1 << 15)


@pytest.mark.parametrize(("keep_rate", "share"), [(1.0, 1.0), (1e-12, 0.0)])
def test_masks_at_the_ends(keep_rate, share):
    keys = jax.random.bits(KEY, (2, 2), jnp.uint32)
    assert np.asarray(masks.kept(keys, keep_rate, (1000,))).mean() == share


@pytest.mark.parametrize(("kernel", "side"), [((3, 3), 5), ((1, 1), 4), ((2, 4), 6)])
def test_a_wide_convolution_by_products_is_the_convolution(kernel, side):
    """What GPUs compute, whose convolutions give what they read."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, side, side + 1, 6)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((*kernel, 6, 3)), jnp.bfloat16)
    expected = layers._convolution(x.astype(jnp.float32), kernel.astype(jnp.float32))
    found = layers._convolution_by_products(x, kernel)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
