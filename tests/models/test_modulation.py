import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.modulation import (
    AdaptiveGroupNorm,
    LatentCrossAttention,
    LatentEmbedding,
    block_latents,
    mask_latent,
    mix_sections,
    section_of_dim,
    section_sizes,
    split_sections,
)

RNG = np.random.default_rng(0)
H = RNG.standard_normal((2, 3, 3, 8)).astype(np.float32)
T_EMB = RNG.standard_normal((2, 6)).astype(np.float32)
Z = RNG.standard_normal((2, 5)).astype(np.float32)


def test_section_sizes():
    assert section_sizes(2048, 16).tolist() == [128] * 16
    assert section_sizes(11, 4).tolist() == [3, 3, 3, 2]
    assert section_of_dim(5, 3).tolist() == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="latent_dim=3 is smaller than the 4 sections"):
        section_sizes(3, 4)


def test_split_mask_and_mix():
    z = np.arange(1, 11, dtype=np.float32).reshape(2, 5)
    parts = split_sections(jnp.asarray(z), 3)
    assert [part.tolist() for part in parts] == [[[1, 2], [6, 7]], [[3, 4], [8, 9]], [[5], [10]]]
    masked = mask_latent(jnp.asarray(z), jnp.array([[1, 0, 1], [False, True, False]]))
    assert masked.tolist() == [[1, 2, 0, 0, 5], [0, 0, 8, 9, 0]]
    mixed = mix_sections(jnp.asarray(z), jnp.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]))
    assert mixed.tolist() == [[6, 7, 3, 4, 10], [1, 2, 3, 4, 5], [1, 2, 8, 9, 5]]


def test_tokens_are_dropped_where_every_section_is():
    tokens = jnp.ones((3, 4, 2))
    masked = mask_latent(tokens, jnp.array([[1, 1], [0, 1], [0, 0]]))
    assert masked[:, 0, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("kind", "by_section", "seen"),
    [
        ("layer", False, [3, 4]),
        ("full", True, [1, 2, 3, 4, 5]),
        ("sum", True, [3, 4]),
        ("sum", False, [1, 2, 3, 4, 5]),
        ("concat", True, [3, 4]),
        ("concat", False, [1, 2, 3, 4, 5]),
        ("cross_attention", True, None),
        ("broadcast", True, None),
    ],
)
def test_what_a_block_sees(kind, by_section, seen):
    got = block_latents(kind, jnp.arange(1.0, 6.0)[None], 3, by_section)[1]
    assert (None if got is None else got[0].tolist()) == seen


def test_each_part_of_the_latent_has_a_linear_map_of_its_own(random_variables):
    layer = LatentEmbedding(width=4, num_parts=3)
    variables = random_variables(layer, Z)
    kernels = [variables["params"][f"part_{index}"]["kernel"] for index in range(3)]
    assert [kernel.shape for kernel in kernels] == [(2, 4), (2, 4), (1, 4)]
    expected = np.concatenate([Z[:, :2] @ kernels[0], Z[:, 2:4] @ kernels[1], Z[:, 4:] @ kernels[2]], axis=-1)
    embedded = layer.apply(variables, Z)
    np.testing.assert_allclose(embedded, expected, atol=1e-6)
    np.testing.assert_array_equal(split_sections(embedded, 3)[1], embedded[:, 4:8])
    dropped = layer.apply(variables, mask_latent(Z, np.array([[1, 0, 1], [0, 0, 0]])))
    assert not dropped[0, 4:8].any() and not dropped[1].any()
    np.testing.assert_array_equal(dropped[0, :4], embedded[0, :4])


def test_the_tokens_of_a_grid_share_a_map(random_variables):
    layer, grid = LatentEmbedding(width=4, num_parts=16), RNG.standard_normal((2, 3, 5)).astype(np.float32)
    variables = random_variables(layer, grid)
    np.testing.assert_allclose(layer.apply(variables, grid), grid @ variables["params"]["tokens"]["kernel"], atol=1e-6)


def normalised(h):
    """GroupNorm of 8 channels in 8 groups: each channel of each image has mean 0, variance 1."""
    h = h.astype(np.float64)
    return (h - h.mean((1, 2), keepdims=True)) / np.sqrt(h.var((1, 2), keepdims=True) + 1e-5)


def modulate(h, projection, use_scale=True):
    projection = projection[:, None, None]
    if not use_scale:
        return h + projection
    scale, bias = np.split(projection, 2, axis=-1)
    return (1 + scale) * h + bias


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("kind", ["layer", "full", "sum", "concat"])
def test_adaptive_group_norm_equals_numpy(random_variables, kind, use_scale):
    layer = AdaptiveGroupNorm(kind, use_scale)
    variables = random_variables(layer, H, T_EMB, Z)
    p = jax.tree.map(np.float64, variables["params"])
    h = normalised(H)
    if kind == "concat":
        joint = np.concatenate([T_EMB, Z], axis=-1) @ p["joint"]["kernel"] + p["joint"]["bias"]
        expected = modulate(h, joint, use_scale)
    else:
        time, latent = T_EMB @ p["time"]["kernel"] + p["time"]["bias"], Z @ p["latent"]["kernel"]
        if kind == "sum":
            expected = modulate(h, time + latent, use_scale)
        else:
            # z_s (t_s GN(h) + t_b) + z_b
            expected = modulate(modulate(h, time, use_scale), latent, use_scale)
    np.testing.assert_allclose(layer.apply(variables, H, T_EMB, Z), expected, atol=1e-4)


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("kind", ["layer", "full", "sum", "concat"])
def test_a_zero_latent_is_the_identity_modulation(random_variables, kind, use_scale):
    layer = AdaptiveGroupNorm(kind, use_scale)
    variables = random_variables(layer, H, T_EMB, Z)
    if kind == "concat":
        joint = variables["params"]["joint"]
        time = {"kernel": joint["kernel"][: T_EMB.shape[1]], "bias": joint["bias"]}
    else:
        time = variables["params"]["time"]
    by_time_alone = layer.apply({"params": {"time": time}}, H, T_EMB, None)
    np.testing.assert_allclose(layer.apply(variables, H, T_EMB, np.zeros_like(Z)), by_time_alone, atol=1e-6)
    assert np.abs(layer.apply(variables, H, T_EMB, Z) - by_time_alone).max() > 0.1


def test_zero_tokens_add_nothing(random_variables):
    layer, tokens = LatentCrossAttention(head_dim=4), RNG.standard_normal((2, 3, 5)).astype(np.float32)
    variables = random_variables(layer, H, tokens)
    np.testing.assert_array_equal(layer.apply(variables, H, np.zeros_like(tokens)), H)
    assert np.abs(layer.apply(variables, H, tokens) - H).max() > 0.1
    # The tokens are a set.
    np.testing.assert_allclose(layer.apply(variables, H, tokens[:, ::-1]), layer.apply(variables, H, tokens), atol=1e-5)
