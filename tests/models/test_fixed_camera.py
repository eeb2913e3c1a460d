"""What a fixed camera lets be computed once, against the denoiser that computes everything in each call."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax import inputs
from soda_jax.models.epilogue import gelu
from soda_jax.models.fixed_input import Channels, FixedInput, split_at_group
from soda_jax.models.layers import Conv
from soda_jax.models.norm import GroupNorm
from soda_jax.models.pose import PoseEncoding
from soda_jax.models.unet import UNet
from tests import tiny

SIDE, COUNT, DIM = 8, 4, 24
BATCH = tiny.posed_batch(COUNT, views=1)
X_T = np.random.default_rng(0).standard_normal((COUNT, SIDE, SIDE, 3)).astype(np.float32)
Z = np.random.default_rng(1).standard_normal((COUNT, 12)).astype(np.float32)
STEPS, SECTIONS = np.array([40, 400, 900, 1000]), np.ones((COUNT, 3), np.float32)
MASK = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
RAYS = PoseEncoding(encoding_dim=DIM, scale=0.5)


def network(pose=RAYS, **options):
    settings = {"multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": (), "head_dim": 8, "time_dim": 16}
    return UNet(resolution=SIDE, channels=8, dropout=0.0, pose=pose, **(settings | options))


def camera_of(pose):
    return jax.tree.map(jnp.asarray, inputs.target_camera(BATCH, pose))


def posed(model, random_variables):
    """(variables, cameras, the same encoded)."""
    camera = camera_of(model.pose)
    variables = random_variables(model, X_T, STEPS, Z, SECTIONS, None, camera)
    return variables, camera, jax.jit(lambda camera: model.pose.encoded(camera, (SIDE, SIDE), model.patch_size))(camera)


def denoise(model, variables, camera, mask=None):
    return model.apply(variables, X_T, STEPS, Z, SECTIONS, None, camera, mask)[0]


@pytest.mark.parametrize(
    "total, num_fixed, norm_groups", [(576, 512, 32), (640, 512, 32), (52, 36, 1), (40, 24, 5), (12, 12, 4), (7, 3, 32)]
)
def test_the_border_is_the_first_group_with_fixed_channels_alone(total, num_fixed, norm_groups):
    groups = np.arange(total).reshape(np.gcd(norm_groups, total), -1)
    alone = groups[(groups >= total - num_fixed).all(axis=1)]
    read, rest = split_at_group(total, num_fixed, norm_groups)
    assert read.start == 0 and read.stop == rest.start and rest.stop == read.total == rest.total == total
    assert rest.stop - rest.start == alone.size
    assert rest.groups(norm_groups) == len(alone)


def test_parts_of_a_norm_and_of_a_convolution_make_the_whole(random_variables):
    x = np.random.default_rng(2).standard_normal((2, 5, 6, 12)).astype(np.float32)
    parts = [Channels(0, 4, 12), Channels(4, 12, 12)]
    norm, conv = GroupNorm(6, activation=gelu), Conv(5, 3, 0.5)
    for layer, joined in ((norm, lambda found: np.concatenate(found, axis=-1)), (conv, sum)):
        variables = random_variables(layer, x)
        found = [
            np.asarray(dataclasses.replace(layer, channels=part).apply(variables, x[..., part.start : part.stop]))
            for part in parts
        ]
        np.testing.assert_allclose(joined(found), layer.apply(variables, x), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (6, 4)])
def test_hidden_channels_are_those_of_zeros(random_variables, size):
    x = np.random.default_rng(3).standard_normal((2, *size, 6)).astype(np.float32)
    norm, conv = GroupNorm(3, activation=gelu), Conv(5, 3, channels=Channels(2, 8, 8))
    of_norm, of_conv = random_variables(norm, x), random_variables(conv, x)

    def conv1(y):
        return conv.apply(of_conv, norm.apply(of_norm, y))

    def shortcut(y):
        return y[..., :5]

    found = FixedInput.of(x, conv1, shortcut).shown(jnp.array([False, True]))
    expected = np.stack([np.zeros_like(x[0]), x[1]])
    np.testing.assert_allclose(found.conv1, conv1(expected), atol=1e-5)
    np.testing.assert_array_equal(found.shortcut, shortcut(expected))


@pytest.mark.parametrize(
    "options, blocks",
    [
        ({}, {"down_8_0", "up_8_1"}),
        ({"pose": dataclasses.replace(RAYS, grid="xy", vector="absolute")}, {"down_8_0", "up_8_1"}),
        ({"norm_groups": 5}, {"up_8_1"}),  # one group of 32 channels in the first block, five in the last
        ({"modulation": "broadcast"}, {"down_8_0", "up_8_1"}),
        ({"remat": "blocks"}, {"down_8_0", "up_8_1"}),
        ({"patch_size": 2}, {"down_4_0", "up_4_1"}),
    ],
    ids=["rays", "xy", "one block", "broadcast", "remat", "patches"],
)
def test_a_fixed_camera_gives_the_same_noise(random_variables, quick_jit, options, blocks):
    model = network(**options)
    variables, camera, encoded = posed(model, random_variables)
    fixed = quick_jit(model.fix_camera)(variables["params"], encoded)
    assert set(fixed.fixed) == blocks
    # Whatever one call computes anew, from the same parameters.
    call = quick_jit(functools.partial(denoise, model, variables))
    shown, mixed = call(camera, jnp.ones(COUNT)), call(camera, MASK)
    np.testing.assert_allclose(call(fixed, jnp.ones(COUNT)), shown, atol=1e-4)
    np.testing.assert_allclose(call(fixed, MASK), mixed, atol=1e-4)
    assert (np.abs(shown - mixed).max(axis=(1, 2, 3)) > 1e-2).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "options", [{"norm_groups": 1}, {"pose": dataclasses.replace(RAYS, grid="none", vector="absolute")}]
)
def test_where_nothing_separates_the_camera_stays_as_it_is(random_variables, options):
    model = network(**options)
    variables, _, encoded = posed(model, random_variables)
    assert model.fix_camera(variables["params"], encoded) is encoded


def test_a_call_needs_fewer_operations_by_those_of_the_fixed_channels(random_variables):
    """The convolutions' are counted here; what norm and activation save comes on top."""
    model = network()
    variables, _, encoded = posed(model, random_variables)
    fixed = jax.eval_shape(model.fix_camera, variables["params"], encoded)

    def flops(camera):
        return jax.jit(functools.partial(denoise, model)).lower(variables, camera).cost_analysis()["flops"]

    # All of the grid in the first block, whose 32 groups have one channel each. In the last one eight groups of five,
    # of which the image's 16 channels touch four.
    channels = DIM + (40 - 20)
    taps = (3 * SIDE - 2) ** 2 + SIDE**2  # of the 3x3 convolution, without those on padding, and of the 1x1 shortcut
    assert flops(encoded) - flops(fixed) > 2 * COUNT * taps * channels * 8
