"""Encoding and sampling with cameras: what is hidden, what guides, and that batches and devices do not matter."""

import jax
import numpy as np
import pytest

from soda_jax import build, inputs
from soda_jax.diffusion.sampler import Masks, drop_all, make_sampler
from soda_jax.inference.engine import Inference
from soda_jax.inference.sampling import Condition
from soda_jax.models.pose import Camera
from soda_jax.parallel import sharding
from tests import tiny, tiny_checkpoint

BATCH = tiny.posed_batch(6, views=2)


def make(devices=1, **overrides):
    config = tiny.posed_config(
        model__encoder__norm="group", model__pose__vector="absolute", model__pose__relative=True, **overrides
    )
    return Inference(config, sharding.make_mesh(jax.devices()[:devices])), tiny_checkpoint.random_variables(config)


@pytest.fixture(scope="module")
def posed():
    """(inference, variables, latents, target cameras) of a model with poses of every kind."""
    inference, variables = make()
    source_conditions, target_conditions = inference.conditions(BATCH)
    z = inference.encode(variables, BATCH["source"], BATCH["source_mask"], **source_conditions)
    return inference, variables, z, target_conditions["target_camera"]


@pytest.fixture(scope="module")
def images(posed):
    inference, variables, z, camera = posed
    return inference.sample(variables, z, target_camera=camera)["images"]


def differs(left, right):
    """Which images differ, [N]."""
    return np.abs(left - right).max(axis=(1, 2, 3)) > 1e-3


def test_the_batch_size_and_devices_do_not_change_an_image(posed, images):
    # Random weights magnify rounding along the walk; other noise would differ by a hundred times as much.
    inference, variables, z, camera = posed
    one = Camera(*(None if value is None else value[4:5] for value in camera))
    alone = inference.sample(variables, z[4:5], target_camera=one, first_index=4)["images"]
    np.testing.assert_allclose(alone, images[4:5], atol=1e-2)
    eight, _ = make(devices=8)
    np.testing.assert_allclose(eight.sample(variables, z, target_camera=camera)["images"], images, atol=1e-2)


def test_one_program_for_every_camera_mask_and_none(posed, images):
    inference, variables, z, camera = posed
    (sampler,) = inference._samplers.values()
    programs = sampler._cache_size()
    shown = np.array([1, 0, 1, 0, 1, 0])
    mixed = inference.sample(variables, z, target_camera=camera, pose_mask=shown)["images"]
    blind = inference.sample(variables, z)["images"]
    np.testing.assert_allclose(mixed[::2], images[::2], atol=1e-5)
    # A hidden target leaves the first source's viewpoint, which is not known where there is no camera at all.
    unknown = camera._replace(reference_mask=np.zeros(6, bool))
    hidden = inference.sample(variables, z, target_camera=unknown, pose_mask=np.zeros(6))["images"]
    np.testing.assert_allclose(hidden, blind, atol=1e-5)
    assert differs(mixed, images)[1::2].all() and differs(images, blind).all()
    objects = inference.sample_unconditional(variables, 6, target_camera=camera)["images"]
    anything = inference.sample_unconditional(variables, 6)["images"]
    other = camera._replace(pose=np.roll(camera.pose, 1, axis=0))
    elsewhere = inference.sample_unconditional(variables, 6, target_camera=other)["images"]
    assert differs(objects, images).all() and differs(objects, anything).all() and differs(objects, elsewhere).all()
    for options in ({"guidance_scale": 3.0}, {"seed": 4}, {"first_index": 9}):
        inference.sample(variables, z, target_camera=camera, **options)
    guided, *others = inference._samplers.values()
    assert guided is sampler and guided._cache_size() == programs
    assert [other._cache_size() for other in others] == [1]  # the unguided one, for what is guided by nothing


def test_what_guidance_is_on(posed):
    """With nothing to drop, both predictions agree and the scale does not matter."""
    inference, variables, z, camera = posed
    hidden, dropped = {"pose_mask": np.zeros(6)}, np.zeros((6, inference.num_sections), np.float32)

    def scale_matters(guidance_on, section_mask=None, **options):
        settings = {"target_camera": camera, "guidance_on": guidance_on, **options}
        low, high = (
            inference.sample(variables, z, section_mask, guidance_scale=scale, **settings)["images"]
            for scale in (0.0, 4.0)
        )
        return differs(low, high).all()

    found = {
        on: (scale_matters(on), scale_matters(on, dropped), scale_matters(on, **hidden))
        for on in ("latent", "pose", "both")
    }
    assert found == {"latent": (True, False, True), "pose": (True, True, False), "both": (True, True, True)}
    with pytest.raises(ValueError, match="guidance_on='all': choose one of latent, pose, both"):
        inference.sample(variables, z, target_camera=camera, guidance_on="all")


@pytest.mark.parametrize("guidance_on", ["latent", "both"])
def test_a_walk_is_the_same_with_all_of_it_computed_at_each_step(posed, guidance_on):
    inference, variables, z, camera = posed
    model, masks = inference.model, Masks(np.ones((6, inference.num_sections)), np.array([1.0, 0, 1, 1, 0, 1]))

    def denoise(variables, x_t, t, condition, masks):
        given = {"target_camera": condition.camera, "pose_mask": masks.pose}
        return model.apply(variables, x_t, t, condition.z, masks.sections, **given, method="denoise")[0]

    def drop(masks):
        dropped = drop_all(masks)
        return dropped if guidance_on == "both" else masks._replace(sections=dropped.sections)

    # A few long steps: random weights magnify rounding along the walk.
    settings = {"method": "ddim", "num_steps": 3}
    walk = make_sampler(
        denoise, build.diffusion(inference.config), image_shape=(8, 8, 3), unconditional=drop, **settings
    )
    expected = walk(variables, jax.random.key(0), np.arange(6), Condition(z, camera), masks, 1.5)["images"]
    found = inference.sample(
        variables,
        z,
        target_camera=camera,
        pose_mask=masks.pose,
        guidance_scale=1.5,
        guidance_on=guidance_on,
        eta=0.0,
        **settings,
    )
    np.testing.assert_allclose(found["images"], expected, atol=1e-3)
    assert np.abs(expected).mean() > 0.1


def test_sources_are_encoded_with_their_cameras(posed):
    inference, variables, z, _ = posed
    source, mask = BATCH["source"], BATCH["source_mask"]
    camera = inputs.source_camera(BATCH, inference.model.pose)
    (by_batch,) = inference.encode_batches(variables, [BATCH], "latent")
    np.testing.assert_allclose(by_batch, z, atol=1e-5)
    unknown = inference.encode(variables, source, mask)
    hidden = inference.encode(
        variables, source, mask, source_camera=camera, source_pose_mask=np.arange(6)[:, None] >= [3, 3]
    )
    np.testing.assert_allclose(hidden[:3], unknown[:3], atol=1e-5)
    np.testing.assert_allclose(hidden[3:], z[3:], atol=1e-5)
    assert (np.abs(unknown - z).max(1) > 1e-3).all()
    rolled = camera._replace(pose=np.roll(camera.pose, 1, axis=0))
    assert (np.abs(inference.encode(variables, source, mask, source_camera=rolled) - z).max(1) > 1e-3).all()


def test_missing_cameras_are_named(posed):
    inference, variables, z, camera = posed
    with pytest.raises(ValueError, match=r"target_camera has no reference \(the pose of the first source"):
        inference.sample(variables, z, target_camera=camera._replace(reference=None))
    with pytest.raises(ValueError, match="target_camera has no pose, intrinsics; give it"):
        inference.sample(variables, z, target_camera=Camera(reference=camera.reference))
    with pytest.raises(ValueError, match="pose_mask shows poses, but target_camera is None"):
        inference.sample(variables, z, pose_mask=np.ones(6))
    with pytest.raises(ValueError, match="source_pose_mask is given, but source_camera is None"):
        inference.encode(variables, BATCH["source"], source_pose_mask=BATCH["source_mask"])
    batch = {key: BATCH[key] for key in ("source", "source_mask")}
    with pytest.raises(ValueError, match="the batch has no source_pose, source_intrinsics.*view_policy='camera'"):
        next(inference.encode_batches(variables, [batch]))
    with pytest.raises(ValueError, match=r"z\.camera\.pose has shape \(5, 4, 4\)"):
        inference.sample(variables, z, target_camera=camera._replace(pose=camera.pose[:5]))


def test_a_model_without_poses_refuses_cameras(posed):
    plain = Inference(tiny.get_config())
    assert plain.conditions(BATCH) == ({}, {})
    with pytest.raises(ValueError, match="target_camera is given, but this model takes no poses"):
        plain.sample({}, posed[2], target_camera=posed[3])
    with pytest.raises(ValueError, match="source_camera is given, but this model takes no poses"):
        plain.encode({}, BATCH["source"], source_camera=posed[3])
    with pytest.raises(ValueError, match="guidance_on='pose': this model takes no poses"):
        plain.sampler(guidance_on="pose")


def test_stochastic_conditioning_uses_the_present_sources_and_several():
    """A source's latent changes the image if it is present; which ones come up depends on the image's number."""
    inference, variables = make(model__aggregation__name="stochastic", sampling__num_steps=12)
    mask = np.array([[1, 1], [1, 0]] * 3, bool)
    batch = BATCH | {"source_mask": mask}
    source_conditions, target_conditions = inference.conditions(batch)
    z = inference.encode(variables, batch["source"], mask, **source_conditions)
    assert z.shape == (6, 2, 16) and inference.latent_shape == (2, 16)
    np.testing.assert_array_equal(z[1::2, 1], 0.0)

    def sample(latents, rows=slice(None), **options):
        camera = Camera(*(None if value is None else value[rows] for value in target_conditions["target_camera"]))
        return inference.sample(variables, latents[rows], target_camera=camera, **options)["images"]

    images = sample(z)
    for source in range(2):
        changed = z.copy()
        changed[:, source] *= 1.5  # an absent one stays zeros
        np.testing.assert_array_equal(differs(sample(changed), images), mask[:, source])
    # The choice belongs to the image: alone in its batch it stays the same.
    np.testing.assert_allclose(sample(z, slice(2, 3), first_index=2), images[2:3], atol=1e-4)
    unconditional = inference.sample_unconditional(variables, 6, **target_conditions)["images"]
    np.testing.assert_allclose(sample(z * 0), unconditional, atol=1e-4)


def test_calibration_takes_cameras():
    """BatchNorm statistics of what reads the grid: the encoding's channels have the cameras' moments."""
    config = tiny.posed_config()
    inference = Inference(config, sharding.make_mesh(jax.devices()[:1]))
    variables = tiny_checkpoint.random_variables(config)
    zeroed = variables | {"batch_stats": jax.tree.map(np.zeros_like, variables["batch_stats"])}
    calibrated = jax.device_get(inference.calibrate(zeroed, [BATCH]))
    measured = calibrated["batch_stats"]["encoder"]["stage1_unit1"]["norm1"]["mean"]
    camera = inputs.source_camera(BATCH, inference.model.pose)
    flat = Camera(*(None if v is None else np.reshape(v, (12, *v.shape[2:])) for v in camera))
    grid = np.asarray(inference.model.pose.encoded_grid(flat, None, 12, (8, 8), (8, 8)))
    assert measured.shape == (8 + 24,)
    np.testing.assert_allclose(measured[8:], 0.1 * grid.mean(axis=(0, 1, 2)), atol=1e-5)
