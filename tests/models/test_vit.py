import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.models.vit import ViT


def build(net, side, batch=2):
    return jax.eval_shape(lambda key: net.init_with_output(key, jnp.zeros((batch, side, side, 3))), jax.random.key(0))


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_base_16_size_in_closed_form():
    _, variables = build(ViT("base", 16, latent_dim=32), side=224)
    params = dict(variables["params"])
    params.pop("projection")
    width = 768
    attention, mlp, norms = 4 * (width + 1) * width, 2 * 4 * width * width + 5 * width, 4 * width
    expected = (16 * 16 * 3 + 1) * width + 12 * (attention + mlp + norms) + 2 * width
    # The 85.8M of the usual B/16 less its class token and learned positions (198 x 768): positions are fixed here.
    assert count(params) == expected == 85_798_656 - 198 * width


def test_small_images():
    (z, out), _ = build(ViT("micro", 4, latent_dim=10), side=16)
    assert z.shape == out["z"].shape == (2, 10)
    assert out["stem"].shape == out["block2"].shape == out["features"].shape == (2, 16, 64)
    assert out["pooled"].shape == (2, 64)
    assert set(out) == {"stem", "block1", "block2", "features", "pooled", "z"}
    (tokens, _), variables = build(ViT("micro", 8, latent_dim=None), side=16)
    assert tokens.shape == (2, 4, 64)
    assert "projection" not in variables["params"]


def test_the_place_of_a_patch_matters(random_variables):
    net = ViT("micro", 4, latent_dim=6)
    x = np.random.default_rng(1).standard_normal((1, 8, 8, 3)).astype(np.float32)
    variables = random_variables(net, x)
    encode = jax.jit(lambda x: net.apply(variables, x)[0])
    swapped = np.concatenate([x[:, 4:], x[:, :4]], axis=1)
    assert np.abs(encode(x) - encode(swapped)).max() > 1e-3
