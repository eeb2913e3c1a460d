import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from soda_jax.models import layout as layouts
from soda_jax.models import unet
from soda_jax.models.unet import ResidualBlock, UNet

IMAGENET = (128, 64, (1, 1, 2, 3, 4), 2, (8, 16, 32))
SMALL = UNet(
    resolution=8,
    channels=8,
    multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    head_dim=8,
    time_dim=16,
    num_tokens=3,
    dropout=0.0,
)
# The paper's rule by hand for SMALL: its four skips come from conv_in, down_8_0, down_4_resample and down_4_0. Skip k
# has section 4 - k, the middle 0, and a resampling block goes with the last block of the level that it leaves.
SMALL_SECTIONS = {
    0: {"middle_0", "middle_1"},
    1: {"down_4_0", "up_4_0"},
    2: {"up_4_1", "up_8_resample"},
    3: {"down_8_0", "down_4_resample", "up_8_0"},
    4: {"up_8_1"},
}
# One level, three sections: for what does not depend on the layout.
TINY = SMALL.clone(resolution=4, multipliers=(1,))
WIDTH = 15  # of the latent: divisible by the sections of both
RNG = np.random.default_rng(0)
X_T = RNG.standard_normal((2, 8, 8, 3)).astype(np.float32)
STEPS = np.array([3, 700])
Z = RNG.standard_normal((2, WIDTH)).astype(np.float32)
ALL = np.ones((2, 5), np.float32)
TINY_INPUTS, TINY_ALL, TINY_NONE = (X_T[:, :4, :4], STEPS), ALL[:, :3], np.zeros((2, 3), np.float32)


def test_imagenet_layout():
    layout = layouts.unet_layout(*IMAGENET)
    assert layouts.num_skips(IMAGENET[2], 2) == 15
    assert layouts.num_sections(IMAGENET[2], 2) == 16
    assert {spec.section for spec in layout} == set(range(16))
    # Skip k belongs to section 15 - k, at both of its ends.
    for path, resample in (("down", None), ("up", None)):
        ends = {s.skip: s.section for s in layout if s.path == path and s.resample == resample and s.skip is not None}
        assert all(section == 15 - skip for skip, section in ends.items())
    assert {s.skip for s in layout if s.path == "up" and s.skip is not None} == set(range(15))
    assert {s.skip for s in layout if s.path == "down"} == set(range(1, 15))
    assert {s.name for s in layout if s.section == 0} == {"middle_0", "middle_1"}
    assert {s.name for s in layout if s.section == 15} == {"up_128_2"}
    assert collections.Counter(s.resolution for s in layout if s.attention) == {32: 5, 16: 5, 8: 6}
    # The latent's sections go from the coarse, inner layers to the fine, outer ones.
    sides = [min(s.resolution for s in layout if s.section == k) for k in range(16)]
    assert sides == sorted(sides)


@pytest.mark.parametrize(("rule", "side"), [("leave", 0), ("enter", 1)])
def test_resampling_blocks_go_with_the_level_they_leave_or_enter(rule, side):
    layout = layouts.unet_layout(*IMAGENET, resample_section=rule)
    section = {spec.name: spec.section for spec in layout}
    neighbours = {
        "down_64_resample": ("down_128_1", "up_64_2"),  # enter: the skip that it produces itself
        "down_8_resample": ("down_16_1", "up_8_2"),
        "up_16_resample": ("up_8_2", "up_16_0"),
        "up_128_resample": ("up_64_2", "up_128_0"),
    }
    for block, ends in neighbours.items():
        assert section[block] == section[ends[side]], block


def test_layout_of_the_small_unet():
    sections = collections.defaultdict(set)
    for spec in SMALL.layout():
        sections[spec.section].add(spec.name)
    assert sections == SMALL_SECTIONS


def test_resample():
    x = RNG.standard_normal((1, 4, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(unet.resample(x, "down"), x.reshape(1, 2, 2, 3, 2, 2).mean((2, 4)), atol=1e-6)
    np.testing.assert_array_equal(unet.resample(x, "up"), x.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_array_equal(unet.resample(x, None), x)


@pytest.mark.parametrize("mode", [None, "down", "up"])
def test_residual_sum_is_divided_by_sqrt_2(random_variables, mode):
    block, t_emb = ResidualBlock(8, mode, "layer", True, 0.0), np.zeros((2, 4), np.float32)
    x = RNG.standard_normal((2, 4, 4, 8)).astype(np.float32)
    variables = random_variables(block, x, t_emb, Z, None)
    variables["params"]["conv2"] = jax.tree.map(np.zeros_like, variables["params"]["conv2"])
    expected = np.asarray(unet.resample(x, mode)) / np.sqrt(2)
    np.testing.assert_allclose(block.apply(variables, x, t_emb, Z, None), expected, atol=1e-6)


@pytest.mark.parametrize(("groups", "carried"), [(16, False), (1, True)])
def test_the_last_norm_lets_an_images_mean_through_unless_its_groups_are_of_one_channel(
    random_variables, quick_jit, groups, carried
):
    denoiser = TINY.clone(norm_groups=16, norm_out_groups=groups)  # of 8 and 16 channels: of one channel each
    variables = random_variables(denoiser, *TINY_INPUTS, Z, TINY_ALL)
    # Constant images: past a border, they differ in nothing but their means.
    variables["params"]["conv_in"]["kernel"][[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0.0
    apply = quick_jit(lambda x_t: denoiser.apply(variables, x_t, STEPS, Z, TINY_ALL)[0])
    colours = np.random.default_rng(1).standard_normal((2, 2, 1, 1, 3)).astype(np.float32)
    dark, bright = (np.asarray(apply(np.broadcast_to(colour, (2, 4, 4, 3)))).mean((1, 2)) for colour in colours)
    difference = np.abs(dark - bright).max()
    assert difference > 0.05 if carried else difference < 1e-3


def test_patches_are_channels_of_a_smaller_image(random_variables, quick_jit):
    """With squares of 2 pixels, the network is the plain one of half the side on images of 12 channels."""
    patched, plain = TINY.clone(resolution=8, patch_size=2), TINY
    # Pixel (2 r + i, 2 c + j) of a channel is channel (i, j, .) of place (r, c).
    squares = np.concatenate([X_T[:, i::2, j::2] for i in range(2) for j in range(2)], axis=-1)
    variables = random_variables(patched, X_T, STEPS, Z, TINY_ALL)
    assert [spec.resolution for spec in patched.layout()] == [spec.resolution for spec in plain.layout()]
    found = np.asarray(quick_jit(lambda x: patched.apply(variables, x, STEPS, Z, TINY_ALL)[0])(X_T))
    expected = np.asarray(quick_jit(lambda x: plain.apply(variables, x, STEPS, Z, TINY_ALL)[0])(squares))
    assert found.shape == X_T.shape and expected.std() > 0.01
    for i in range(2):
        for j in range(2):
            first = 3 * (2 * i + j)
            np.testing.assert_allclose(found[:, i::2, j::2], expected[..., first : first + 3], atol=1e-6)


def test_the_initial_model_predicts_zero(random_variables, quick_jit):
    names = (("down_8_0", "conv1"), ("conv_out",))

    @quick_jit
    def initial(key):
        params = traverse_util.flatten_dict(SMALL.init(key, X_T, STEPS, Z, ALL)["params"])
        return [{path[-1]: params[path] for path in params if path[:-1] == name} for name in names]

    conv1, conv_out = initial(jax.random.key(0))
    np.testing.assert_allclose(np.std(conv1["kernel"]), 1 / np.sqrt(9 * 8), rtol=0.15)  # variance 1 / fan-in
    variables = random_variables(TINY, *TINY_INPUTS, Z, TINY_ALL)
    variables["params"]["conv_out"] = conv_out
    eps, out = quick_jit(lambda v: TINY.apply(v, *TINY_INPUTS, Z, TINY_ALL))(variables)
    np.testing.assert_array_equal(eps, np.zeros_like(TINY_INPUTS[0]))
    assert np.abs(out["middle"]).max() > 0.1
    assert set(out) == {spec.name for spec in TINY.layout()} | {"middle"}


def test_bfloat16_keeps_weights_and_eps_in_float32():
    model = SMALL.clone(dtype=jnp.bfloat16)
    (eps, out), variables = jax.eval_shape(
        lambda key: model.init_with_output(key, X_T, STEPS, Z, ALL), jax.random.key(0)
    )
    assert eps.dtype == jnp.float32 and out["middle"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def captured(quick_jit, model, name):
    """A jitted function of (variables, t, z): outputs of the layers called `name`, the model's eps and blocks."""

    def run(variables, t, z):
        (eps, out), state = model.apply(
            variables,
            jnp.broadcast_to(X_T[:1], (t.shape[0], *X_T.shape[1:])),
            t,
            z,
            jnp.ones((t.shape[0], model.num_sections)),
            capture_intermediates=lambda module, method: module.name == name and method == "__call__",
            mutable=["intermediates"],
        )
        layers = traverse_util.flatten_dict(state["intermediates"])
        return {path[0]: value[0] for path, value in layers.items() if name in path}, eps, out

    return quick_jit(run)


def changed(before, after):
    return {name for name in before if np.abs(np.asarray(before[name]) - np.asarray(after[name])).max() > 1e-4}


@pytest.mark.parametrize("embed_sections", [False, True])
def test_a_section_drives_exactly_its_blocks(random_variables, quick_jit, embed_sections):
    model = SMALL.clone(embed_sections=embed_sections)
    variables = random_variables(model, X_T, STEPS, Z, ALL)
    run = captured(quick_jit, model, "latent")
    latents, eps, out = run(variables, STEPS, Z)
    order = [spec.name for spec in SMALL.layout()]
    assert set(latents) == set(order)
    for section, blocks in SMALL_SECTIONS.items():
        perturbed = Z.copy()
        perturbed[:, 3 * section : 3 * section + 3] += 1.0
        new_latents, new_eps, new_out = run(variables, STEPS, perturbed)
        assert changed(latents, new_latents) == blocks
        # Activations change from the section's first block on, and reach the output.
        first = min(order.index(name) for name in blocks)
        assert changed({n: out[n] for n in order[: first + 1]}, new_out) == {order[first]}
        assert np.abs(new_eps - eps).max() > 1e-4


def test_time_embedding_is_not_rank_one_and_has_the_natural_scale(random_variables, quick_jit):
    wide = TINY.clone(time_dim=256)
    variables = random_variables(wide, *TINY_INPUTS, Z, TINY_ALL)

    def embed(model, t):
        """The embedding alone: what follows it is not computed."""

        def run(t):
            inputs = (np.zeros((len(t), 4, 4, 3)), t, np.zeros((len(t), WIDTH)), np.ones((len(t), 3)))
            wanted = {"capture_intermediates": lambda module, _: module.name == "time_mlp2"}
            _, state = model.apply(variables, *inputs, mutable=["intermediates"], **wanted)
            return state["intermediates"]["time_mlp2"]["__call__"][0]

        return np.asarray(quick_jit(run)(t))

    assert np.linalg.matrix_rank(embed(wide, np.arange(1, 1001)), tol=1e-2) > 100
    # t counts from 0 to 1000 whatever the number of training steps.
    coarse = embed(wide.clone(num_timesteps=250), np.array([1, 50, 250]))
    np.testing.assert_allclose(coarse, embed(wide, np.array([4, 200, 1000])), atol=1e-4)


KINDS = {
    "layer": {},
    "full": {},
    "sum": {},
    "sum of the whole z": {"modulation": "sum", "modulate_by_section": False},
    "concat": {},
    "bias only": {"modulation": "layer", "use_scale": False},
    "cross_attention": {},
    "broadcast": {},
    "embedded sections": {"embed_sections": True},
    "embedded whole z": {"modulation": "full", "embed_sections": True},
    "embedded sub-vectors": {"modulation": "cross_attention", "embed_sections": True},
}


def variant(name):
    options = KINDS[name]
    return TINY.clone(**(options or {"modulation": name}))


@pytest.mark.parametrize("name", KINDS)
def test_masking_every_section_equals_a_zero_latent(random_variables, quick_jit, name):
    model = variant(name)
    variables = random_variables(model, *TINY_INPUTS, Z, TINY_ALL)
    denoise = quick_jit(lambda z, mask: model.apply(variables, *TINY_INPUTS, z, mask)[0])
    masked = denoise(Z, TINY_NONE)
    np.testing.assert_array_equal(masked, denoise(np.zeros_like(Z), TINY_ALL))
    assert np.abs(denoise(Z, TINY_ALL) - masked).max() > 1e-3
    # Each example has its own mask.
    np.testing.assert_allclose(denoise(Z, np.stack([TINY_ALL[0], TINY_NONE[0]]))[1], masked[1], atol=1e-5)


def test_one_map_embeds_a_section_for_all_its_blocks():
    """What blocks project is then as wide as the timestep's embedding; the broadcast z is not mapped."""

    def shapes(name):
        params = jax.eval_shape(lambda key: variant(name).init(key, *TINY_INPUTS, Z, TINY_ALL), jax.random.key(0))
        found = traverse_util.flatten_dict(params["params"], sep="/")
        return {path: leaf.shape for path, leaf in found.items() if "latent" in path or "/key/" in path}

    sections = shapes("embedded sections")
    maps = {f"latent_embedding/part_{index}/kernel": (5, 16) for index in range(3)}
    assert maps.items() <= sections.items()
    assert {shape for path, shape in sections.items() if "modulation/latent" in path} == {(16, 2 * 8)}
    assert {path for path in sections if "latent_embedding" in path} == set(maps)  # no biases
    assert {path: shape for path, shape in shapes("embedded whole z").items() if "latent_embedding" in path} == {
        "latent_embedding/part_0/kernel": (15, 16)
    }
    attention = shapes("embedded sub-vectors")
    assert maps.items() <= attention.items()
    assert attention["middle_0_cross/attention/key/kernel"] == (16, 1, 8)
    broadcast = variant("broadcast").clone(embed_sections=True)
    params = jax.eval_shape(lambda key: broadcast.init(key, *TINY_INPUTS, Z, TINY_ALL), jax.random.key(0))["params"]
    assert "latent_embedding" not in params


def test_a_zero_latent_makes_every_block_the_identity_modulation(random_variables, quick_jit):
    """With z = 0, `layer` and `cross_attention` both are the UNet that the timestep alone modulates."""
    layer, cross = variant("layer"), variant("cross_attention")
    cross_variables = random_variables(cross, *TINY_INPUTS, Z, TINY_ALL)
    shared = traverse_util.flatten_dict(cross_variables["params"])
    layer_params = traverse_util.flatten_dict(random_variables(layer, *TINY_INPUTS, Z, TINY_ALL, seed=1)["params"])
    by_time = {path: shared[path] for path in layer_params if path in shared}
    assert all("latent" in path for path in layer_params.keys() - by_time.keys())
    assert all(path[0].endswith("_cross") for path in shared.keys() - by_time.keys())
    layer_variables = {"params": traverse_util.unflatten_dict(layer_params | by_time)}
    zeros = np.zeros_like(Z)
    of_layer = quick_jit(lambda v: layer.apply(v, *TINY_INPUTS, zeros, TINY_ALL)[0])(layer_variables)
    of_cross = quick_jit(lambda v: cross.apply(v, *TINY_INPUTS, zeros, TINY_ALL)[0])(cross_variables)
    np.testing.assert_allclose(of_layer, of_cross, atol=1e-5)


def test_attention_follows_the_blocks_that_say_so():
    names = set(jax.eval_shape(lambda k: SMALL.init(k, X_T, STEPS, Z, ALL), jax.random.key(0))["params"])
    expected = {f"{spec.name}_attention" for spec in SMALL.layout() if spec.attention}
    assert {name for name in names if name.endswith("_attention")} == expected
    assert expected == {f"{name}_attention" for name in ("down_4_0", "middle_0", "up_4_0", "up_4_1")}


def test_dropout_acts_in_training_only(random_variables):
    model = SMALL.clone(dropout=0.5)
    variables = random_variables(model, X_T, STEPS, Z, ALL)
    rates = []

    def record(next_call, args, kwargs, context):
        if type(context.module).__name__ == "Dropout":
            rates.append((context.module.rate, args[-1] is None))
        return next_call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.apply(variables, X_T, STEPS, Z, ALL)[0])
    assert rates == [(0.5, True)] * len(SMALL.layout())
