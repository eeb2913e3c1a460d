"""CLIP's tower against a reference in NumPy, its resizing against Pillow, published names against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from soda_jax import inputs
from soda_jax.models import clip
from soda_jax.models.clip_weights import tower_parameters
from tests.models import clip_reference
from tests.tiny import assert_equal

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 12, 12, 3), np.uint8)


@pytest.fixture(autouse=True)
def tiny_variant(monkeypatch):
    monkeypatch.setitem(clip.VARIANTS, "tiny", clip_reference.TINY)


def tower(activation="quick_gelu", variant="tiny"):
    mean, std = tuple(inputs.IMAGENET_MEAN.tolist()), tuple(inputs.IMAGENET_STD.tolist())
    return clip.ClipTower(variant, activation, source_mean=mean, source_std=std)


def mapped(weights):
    return tower_parameters({name: value.shape for name, value in weights.items()}, weights.__getitem__)


def normalised(images):
    return (images / 255.0 - np.array(clip.MEAN)) / np.array(clip.STD)


@pytest.mark.parametrize("activation", clip.ACTIVATIONS)
def test_vectors_equal_the_reference(activation):
    weights = clip_reference.weights()
    _, params = mapped(weights)
    z, out = tower(activation).apply({"params": params}, inputs.normalise_source(jnp.asarray(IMAGES)))
    expected = clip_reference.vector(weights, normalised(IMAGES), activation)
    np.testing.assert_allclose(z, expected, atol=1e-4)
    assert np.abs(expected).mean() > 0.3
    assert set(out) == {"stem", "block1", "block2", "features", "pooled", "z"}
    assert out["features"].shape == (3, 10, 128)


def test_parameters_are_those_of_the_tower():
    _, params = mapped(clip_reference.weights())
    made = jax.eval_shape(tower().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made)


def test_both_publishers_names_give_the_same():
    weights = clip_reference.weights()
    variant, openai = mapped(weights | {"logit_scale": np.ones(()), "text_projection": np.ones((2, 2))})
    other, hugging_face = mapped(clip_reference.hugging_face(weights) | {"vision_model.position_ids": np.ones(2)})
    assert variant == other == "tiny"
    assert_equal(openai, hugging_face)


@pytest.mark.parametrize(
    ("variant", "millions", "vector_dim"), [("vit_b32", 87.8, 512), ("vit_b16", 86.2, 512), ("vit_l14", 304.0, 768)]
)
def test_published_sizes(variant, millions, vector_dim):
    """Parameters of the image towers as OpenCLIP's model cards count them."""
    init = tower(variant=variant).init_with_output
    (z, _), variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))
    assert z.shape == (2, vector_dim)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert round(count / 1e6, 1) == pytest.approx(millions, abs=0.06)


def test_variant_is_told_by_shapes():
    """Of an L/14 with nothing in it: only the shapes are looked at before anything is read."""
    for variant in ("vit_b32", "vit_l14"):
        patch, width, depth, dim, size = clip.VARIANTS[variant]
        small = clip_reference.weights(clip_reference.TINY._replace(depth=depth))
        sizes = {4: patch, 128: width, 3 * 128: 3 * width, 4 * 128: 4 * width, 24: dim, 10: (size // patch) ** 2 + 1}
        shapes = {name: tuple(sizes.get(n, n) for n in value.shape) for name, value in small.items()}
        read = []

        def broadcast(name, shapes=shapes, read=read):
            read.append(name)
            return np.broadcast_to(np.float32(0), shapes[name])

        found, _ = tower_parameters(shapes | {"text_projection": (1, 1)}, broadcast)
        assert found == variant
        assert "text_projection" not in read


def test_wrong_weights_are_named():
    weights = clip_reference.weights()
    with pytest.raises(ValueError, match=r"no CLIP vision transformer.*fc.weight"):
        mapped({"fc.weight": np.ones((2, 2))})
    without = {name: value for name, value in weights.items() if name != "visual.ln_post.bias"}
    with pytest.raises(ValueError, match=r"1 are not as expected: visual.ln_post.bias is missing"):
        mapped(without)
    with pytest.raises(ValueError, match=r"visual.positional_embedding has the shape \(17, 128\), not \(10, 128\)"):
        mapped(weights | {"visual.positional_embedding": np.ones((17, 128))})
    with pytest.raises(ValueError, match="1 blocks .* none of vit_b32"):
        mapped({name: value for name, value in weights.items() if ".1." not in name})
    with pytest.raises(ValueError, match="a projection that is missing"):
        mapped({name: value for name, value in weights.items() if name != "visual.proj"})


@pytest.mark.parametrize("size", [(12, 12), (32, 32), (9, 9), (20, 31), (31, 20)])
def test_images_are_resized_as_pillow_does(size):
    rows, columns = np.mgrid[: size[0], : size[1]] / 6.0
    smooth = np.stack([np.sin(rows + columns), np.cos(rows), np.sin(columns)], -1)
    image = np.uint8(127.5 + 127.0 * smooth)
    scale = 12 / min(size)
    resized = Image.fromarray(image).resize((int(size[1] * scale), int(size[0] * scale)), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 12) / 2), round((resized.height - 12) / 2)
    expected = normalised(np.asarray(resized.crop((left, top, left + 12, top + 12)), np.float64))
    found = clip.preprocess(jnp.asarray(image[None] / 255.0), 12)[0]
    # Pillow rounds to bytes after the rows and again after the columns, so a few are off by one of 255.
    levels = np.abs(found - expected) * 255.0 * np.array(clip.STD)
    assert levels.max() < 1.01
    assert levels.mean() < 0.2


def test_preprocessing_leaves_bytes_alone():
    found = clip.preprocess(
        inputs.normalise_source(jnp.asarray(IMAGES)) * inputs.IMAGENET_STD + inputs.IMAGENET_MEAN, 12
    )
    np.testing.assert_allclose(found, normalised(IMAGES), atol=1e-6)
