import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from soda_jax.objectives import norms

RNG = np.random.default_rng(0)
SHAPES = {
    "encoder": {"stem": {"kernel": (3, 3, 4, 8), "bias": (8,)}, "head": {"kernel": (8, 5), "bias": (5,)}},
    "denoiser": {"conv_in": {"kernel": (3, 3, 40, 50), "bias": (5,)}, "norm": {"scale": (8,), "bias": (8,)}},
}
GRADS = jax.tree.map(
    lambda shape: jnp.asarray(RNG.standard_normal(shape), jnp.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)


def test_sums_of_squares_stand_in_the_order_of_the_arrays():
    expected = [np.square(np.float64(leaf)).sum() for leaf in jax.tree.leaves(GRADS)]
    np.testing.assert_allclose(norms.square_sums(GRADS), expected, rtol=1e-6)


def test_norms_of_all_of_parts_and_of_modules():
    found = norms.gradient_norms(GRADS)
    assert set(found) == {"grad_norm", "grad_norm/encoder", "grad_norm/denoiser", "grad_norms"}
    np.testing.assert_allclose(found["grad_norm"], optax.tree.norm(GRADS), rtol=1e-6)
    for part in GRADS:
        np.testing.assert_allclose(found[f"grad_norm/{part}"], optax.tree.norm(GRADS[part]), rtol=1e-6)
    for name, norm in zip(norms.module_names(GRADS), found["grad_norms"], strict=True):
        part, module = name.split("/")
        np.testing.assert_allclose(norm, optax.tree.norm(GRADS[part][module]), rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_module_without_a_norm_leaves_the_others_theirs(value):
    bad = jax.tree.map(lambda leaf: leaf, GRADS)
    bad["encoder"]["stem"]["bias"] = bad["encoder"]["stem"]["bias"].at[0].set(value)
    found = dict(zip(norms.module_names(bad), norms.gradient_norms(bad)["grad_norms"], strict=True))
    assert [name for name, norm in found.items() if not np.isfinite(norm)] == ["encoder/stem"]


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clipping_equals_optax(max_norm):
    ours, theirs = norms.clip_by_global_norm(max_norm), optax.clip_by_global_norm(max_norm)
    assert jax.tree.structure(ours.init(GRADS)) == jax.tree.structure(theirs.init(GRADS))
    found, expected = (clip.update(GRADS, clip.init(GRADS))[0] for clip in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_rows_change_no_number():
    jax.tree.map(np.testing.assert_array_equal, jax.jit(norms.in_rows)(GRADS), GRADS)
