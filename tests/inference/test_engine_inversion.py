"""Images to noise and back by `Inference`, with networks: padding, devices, cameras, and what cannot be inverted."""

import jax
import numpy as np
import pytest

from soda_jax import inputs
from soda_jax.inference.engine import Inference
from soda_jax.parallel import sharding
from tests import tiny, tiny_checkpoint

BATCH = tiny.posed_batch(3, views=1)
IMAGES = BATCH["target"]
STEPS = 25
# Random weights that stand for noise leave it in an image a hundredfold, as no trained ones do.
VELOCITY = {"diffusion__schedule": "linear", "diffusion__prediction": "v"}
BACK = {"method": "ddim", "eta": 0.0, "clip_x0": False, "guidance_scale": 1.0, "num_steps": STEPS}


def make(config, devices=1):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    return Inference(config, mesh), tiny_checkpoint.random_variables(config)


def psnr(found, images):
    """Decibels of the worst image; values in [-1, 1]."""
    return -10 * np.log10(np.mean((found - images) ** 2, axis=(1, 2, 3)).max() / 4)


@pytest.fixture(scope="module")
def plain():
    """(inference, variables, latents, x_T)."""
    inference, variables = make(tiny.get_config(**VELOCITY))
    z = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    return inference, variables, z, inference.invert(variables, IMAGES, z, num_steps=STEPS)


def test_untrained_networks_give_the_images_back(plain):
    inference, variables, z, x_t = plain
    assert x_t.shape == (3, 8, 8, 3) and x_t.dtype == np.float32
    found = inference.sample(variables, z, start=x_t, **BACK)["images"]
    images = np.asarray(inputs.normalise_target(IMAGES))
    assert psnr(found, images) > 60
    drawn = inference.sample(variables, z, **BACK)["images"]
    assert psnr(drawn, images) < 15


def test_floats_are_what_bytes_stand_for(plain):
    inference, variables, z, x_t = plain
    images = np.asarray(inputs.normalise_target(IMAGES), np.float64)
    np.testing.assert_array_equal(inference.invert(variables, images, z, num_steps=STEPS), x_t)
    assert len(inference._inverters) == 1


def test_batches_and_devices_do_not_matter(plain):
    inference, variables, z, x_t = plain
    alone = inference.invert(variables, IMAGES[1:2], z[1:2], num_steps=STEPS)
    np.testing.assert_allclose(alone, x_t[1:2], atol=1e-3)
    four, _ = make(inference.config, devices=4)
    np.testing.assert_allclose(four.invert(variables, IMAGES, z, num_steps=STEPS), x_t, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:2], r"images have shape \(2, 8, 8, 3\); the model and 3 latents take \(3, 8, 8, 3\)"),
        (IMAGES[:, :4], r"images have shape \(3, 4, 8, 3\)"),
        (IMAGES.astype(np.float32), r"float32 are not all in \[-1, 1\]"),
        (np.full(IMAGES.shape, np.nan), r"float64 are not all in \[-1, 1\]"),
        (IMAGES.astype(np.int32), "int32"),
    ],
)
def test_images_that_are_refused(plain, images, message):
    inference, variables, z, _ = plain
    with pytest.raises(ValueError, match=message):
        inference.invert(variables, images, z, num_steps=STEPS)


def test_models_with_cameras_invert_what_is_seen_from_them():
    inference, variables = make(tiny.posed_config(data__num_sources=1, **VELOCITY))
    camera = inputs.target_camera(BATCH, inference.model.pose)
    z = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    seen = {"target_camera": camera, "pose_mask": np.array([1, 0, 1])}
    x_t = inference.invert(variables, IMAGES, z, num_steps=STEPS, **seen)
    found = inference.sample(variables, z, start=x_t, **seen, **BACK)["images"]
    assert psnr(found, np.asarray(inputs.normalise_target(IMAGES))) > 60


def test_what_has_no_noise_is_refused(plain):
    z = np.zeros((3, 16), np.float32)
    with pytest.raises(ValueError, match="target_camera is given|pose_mask is given"):
        plain[0].invert({}, IMAGES, z, pose_mask=np.ones(3))
    decoder = Inference(tiny.get_config(model__family="encdec"))
    for call in (
        lambda: decoder.invert({}, IMAGES, z),
        lambda: decoder.sample({}, z, start=np.zeros((3, 8, 8, 3), np.float32)),
    ):
        with pytest.raises(ValueError, match="(invert|start) needs a model with sampling from noise"):
            call()
    settings = {"model__aggregation__name": "stochastic", "data__num_sources": 2}
    several = Inference(tiny.posed_config(**settings))
    with pytest.raises(ValueError, match="aggregation.name='stochastic'.*no x_T of its own"):
        several.invert({}, IMAGES, np.zeros((3, 2, 16), np.float32))
