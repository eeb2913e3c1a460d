import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.norm import GroupNorm
from soda_jax.models.resnet import PreActivationBlock, ResNet


def shapes(net, side=64):
    return jax.eval_shape(lambda key: net.init(key, jnp.zeros((1, side, side, 3))), jax.random.key(0))


def outputs(net, side, batch=2):
    return jax.eval_shape(
        lambda key: net.init_with_output(key, jnp.zeros((batch, side, side, 3)))[0], jax.random.key(0)
    )


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def trunk_size(net):
    params = dict(shapes(net)["params"])
    params.pop("projection", None)
    return count(params)


def bottleneck_resnet_size(stages, base):
    """He et al. 2016, by hand: 7x7 stem, pre-activated 1x1-3x3-1x1 units, a projection where the width changes."""
    total, inputs = 7 * 7 * 3 * base, base
    for stage, units in enumerate(stages):
        width = base * 2**stage
        for unit in range(units):
            norms = 2 * (inputs + width + width)
            convs = inputs * width + 9 * width * width + width * 4 * width
            total += norms + convs + (inputs * 4 * width if unit == 0 else 0)
            inputs = 4 * width
    return total + 2 * inputs


@pytest.mark.parametrize(
    ("depth", "width", "expected"), [(18, 1, 11_174_720), (50, 1, 23_500_352), (50, 2, 93_891_712)]
)
def test_trunk_sizes(depth, width, expected):
    assert trunk_size(ResNet(depth, latent_dim=8, width=width)) == expected
    if depth == 50:
        assert bottleneck_resnet_size((3, 4, 6, 3), 64 * width) == expected


def test_projection_maps_the_pooled_features_to_the_latent():
    params = shapes(ResNet(50, latent_dim=2048, width=2))["params"]
    assert params["projection"]["kernel"].shape == (4096, 2048)
    assert "projection" not in shapes(ResNet(18, latent_dim=None))["params"]


def test_stems_and_named_intermediates():
    _, out = outputs(ResNet(18, latent_dim=16, base_features=8), side=64)
    assert out["stem"].shape == (2, 16, 16, 8)
    z, out = outputs(ResNet(18, latent_dim=16, base_features=8, small_stem=True), side=32)
    assert set(out) == {"stem", "stage1", "stage2", "stage3", "stage4", "features", "pooled", "z"}
    assert out["stem"].shape == (2, 32, 32, 8)
    assert [out[f"stage{i}"].shape for i in (1, 2, 3, 4)] == [
        (2, 32, 32, 8),
        (2, 16, 16, 16),
        (2, 8, 8, 32),
        (2, 4, 4, 64),
    ]
    assert out["features"].shape == (2, 4, 4, 64)
    assert out["pooled"].shape == (2, 64)
    assert z.shape == out["z"].shape == (2, 16)


def test_without_bottleneck_the_grid_becomes_tokens():
    z, _ = outputs(ResNet(18, latent_dim=None, base_features=8, small_stem=True), side=32)
    assert z.shape == (2, 16, 64)


def test_group_norm_has_no_statistics_and_the_same_weights():
    batch, group = (ResNet(18, 8, base_features=8, norm=norm) for norm in ("batch", "group"))
    assert "batch_stats" not in shapes(group)
    assert count(shapes(group)["params"]) == count(shapes(batch)["params"])


def test_bfloat16_computes_in_half_and_keeps_weights_and_pooling_in_float32():
    net = ResNet(18, 8, base_features=8, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(net))} == {jnp.dtype("float32")}
    z, out = outputs(net, side=32)
    assert out["features"].dtype == jnp.bfloat16
    assert out["pooled"].dtype == z.dtype == jnp.float32


def test_batch_statistics_are_used_in_training_only(random_variables, quick_jit):
    net = ResNet(18, latent_dim=4, base_features=4, small_stem=True, drop_path=0.0)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32) + 0.5
    variables = random_variables(net, x)
    shifted = {**variables, "batch_stats": jax.tree.map(lambda s: s + 0.7, variables["batch_stats"])}
    train = quick_jit(lambda v, x: net.apply(v, x, jnp.arange(4), mutable=["batch_stats"]))
    (trained, out), updated = train(variables, x)
    (same, _), _ = train(shifted, x)
    np.testing.assert_array_equal(trained, same)
    # Flax: running = 0.9 running + 0.1 of the batch, over batch and pixels.
    old, new = (s["batch_stats"]["stage1_unit1"]["norm1"] for s in (variables, updated))
    stem = np.asarray(out["stem"])
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * stem.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)

    evaluate = quick_jit(lambda v, x: net.apply(v, x)[0])
    z = evaluate(variables, x)
    assert np.abs(z - evaluate(shifted, x)).max() > 1e-3
    # An example's code does not depend on its neighbours.
    neighbours = x.copy()
    neighbours[1:] = 3 * x[1:] + 1
    np.testing.assert_allclose(evaluate(variables, neighbours)[0], z[0], atol=1e-5)
    assert np.abs(train(variables, neighbours)[0][0][0] - trained[0]).max() > 1e-3


def test_drop_path_rises_linearly_to_its_rate():
    net = ResNet(18, latent_dim=4, base_features=4, drop_path=0.14)
    rates = {}

    def record(next_call, args, kwargs, context):
        if type(context.module).__name__ == "DropPath":
            rates[context.module.path[0]] = context.module.rate
        return next_call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(net)
    units = [f"stage{stage}_unit{unit}" for stage in (1, 2, 3, 4) for unit in (1, 2)]
    np.testing.assert_allclose([rates[unit] for unit in units], 0.14 * np.arange(8) / 7)
    assert set(rates) == set(units)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_dropped_unit_is_its_shortcut_and_another_is_scaled(random_variables, bottleneck):
    """The rule itself: shortcut + branch / (1 - rate) or the shortcut alone, by whole examples."""
    unit = PreActivationBlock(
        features=2,
        stride=1,
        bottleneck=bottleneck,
        drop_path=0.5,
        conv=functools.partial(nn.Conv, use_bias=False, padding="SAME"),
        norm=functools.partial(GroupNorm, 2),
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((32, 4, 4, 8 if bottleneck else 2)), jnp.float32)
    variables = random_variables(unit, x, None)
    branch = np.asarray(unit.apply(variables, x, None)) - x
    added = np.asarray(unit.apply(variables, x, jnp.arange(32), rngs={"dropout": jax.random.key(1)})) - x
    dropped = np.abs(added).max(axis=(1, 2, 3)) < 1e-6
    assert 4 < dropped.sum() < 28
    np.testing.assert_allclose(added[~dropped], 2 * branch[~dropped], atol=1e-5)
