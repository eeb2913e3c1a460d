import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from soda_jax.models import epilogue, masks
from soda_jax.models.batch_norm import BatchNorm, normalise
from soda_jax.parallel import exchange, sharding

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((8, 4, 5, 6)) * 2 + 1, jnp.float32)
WEIGHTS = jnp.asarray(RNG.standard_normal(X.shape), jnp.float32)
KEYS = jnp.asarray(RNG.integers(2**32, size=(8, 2), dtype=np.uint32))


def composed(variables, x, rate):
    """By flax's layer and operations of JAX, differentiated by rule."""
    layer = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    y, updated = layer.apply(variables, x, mutable=["batch_stats"])
    y = nn.relu(y)
    return (masks.dropped(y, KEYS, rate, (1, 1, 1)) if rate else y), updated["batch_stats"]


def ours(variables, x, rate):
    layer = BatchNorm(use_running_average=False, activation=nn.relu)
    drop = masks.Drop(KEYS, rate, whole_examples=True) if rate else None
    y, updated = layer.apply(variables, x, drop, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def value_and_gradients(layer, variables, x, rate):
    def loss(params, x):
        y, stats = layer({**variables, "params": params}, x, rate)
        return (y * WEIGHTS).sum(), (y, stats)

    (_, found), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
    return found, grads


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_value_averages_and_gradient_equal_flax(random_variables, rate):
    variables = random_variables(nn.BatchNorm(use_running_average=False), X)
    found, expected = (value_and_gradients(layer, variables, X, rate) for layer in (ours, composed))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_variables_and_evaluation_are_those_of_flax(random_variables):
    theirs = nn.BatchNorm(use_running_average=True, epsilon=1e-5)
    variables = random_variables(theirs, X)
    layer = BatchNorm(use_running_average=True)
    made = layer.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)
    for tree in (variables, made):
        np.testing.assert_allclose(layer.apply(tree, X), theirs.apply(tree, X), atol=1e-5)


def test_initialising_leaves_the_averages_alone():
    made = BatchNorm(use_running_average=False).init(jax.random.key(0), X)["batch_stats"]
    np.testing.assert_array_equal(made["mean"], np.zeros(6))
    np.testing.assert_array_equal(made["var"], np.ones(6))


def test_devices_that_share_a_batch_find_what_one_finds(random_variables):
    """Values, averages and gradients, where each of four holds two examples; gradients as the mean of the devices'."""
    mesh, whole, split = sharding.make_mesh(jax.devices()[:4]), PartitionSpec(), PartitionSpec(sharding.DATA_AXIS)
    mesh_axes = mesh.axis_names
    variables = random_variables(nn.BatchNorm(use_running_average=False), X)

    def loss(params, x, weights, axis_name):
        layer = BatchNorm(use_running_average=False, activation=nn.relu, axis_name=axis_name)
        y, updated = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return (y * weights).mean(), (y, updated)

    def gradients(x, weights, axis_name):
        run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, (y, updated)), (params, x_bar) = run(variables["params"], x, weights, axis_name)
        return y, updated, params, x_bar

    def on_device(x, weights):
        y, updated, params, x_bar = gradients(x, weights, mesh_axes)
        return y, updated, jax.lax.pmean(params, mesh_axes), x_bar / mesh.size

    run = exchange.on_each_device(on_device, mesh, (split, split), (split, whole, whole, split))
    found, expected = jax.jit(run)(X, WEIGHTS), gradients(X, WEIGHTS, None)
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_in_16_bits_the_result_is_rounded_once():
    x, scale, bias = X.astype(jnp.bfloat16), jnp.full(6, 1.002), jnp.full(6, 0.1)
    exact, found = (
        normalise(x, scale, bias, None, None, epilogue.Epilogue(epilogue.identity, dtype))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert found[0].dtype == jnp.bfloat16
    assert found[1].dtype == found[2].dtype == jnp.float32
    np.testing.assert_array_equal(found[0], exact[0].astype(jnp.bfloat16))


def test_only_the_input_is_kept_for_the_gradient(random_variables):
    variables = random_variables(nn.BatchNorm(use_running_average=False), X)

    def kept(layer):
        residuals = jax.eval_shape(lambda x: jax.vjp(lambda x: layer(variables, x, 0.3)[0], x)[1], X)
        return sum(leaf.size == X.size for leaf in jax.tree.leaves(residuals))

    assert kept(ours) == 1 < kept(composed)
