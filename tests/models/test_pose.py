"""Cameras as encoded grids and vectors: what they depend on, what they do not, and what is hidden."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from soda_jax.data import cameras
from soda_jax.models import pose as pose_lib
from soda_jax.models import rays
from soda_jax.models.pose import Camera, PoseEncoding, first_present
from soda_jax.models.positional import coordinate_encoding, top_frequency

COUNT, SIZE, IMAGE = 4, (3, 3), (12, 12)
COARSE = PoseEncoding(encoding_dim=24, scale=0.5)
RNG = np.random.default_rng(0)


def random_poses(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-3, 3, count), rng.uniform(0.1, 1.2, count)
    return cameras.orbit(*angles, rng.uniform(2, 3, count)).astype(np.float32)


CAMERA = Camera(
    pose=jnp.asarray(random_poses()),
    intrinsics=jnp.asarray(RNG.uniform((10, 11, 5, 6), (12, 13, 7, 7), (COUNT, 4)).astype(np.float32)),
    window=jnp.asarray(RNG.uniform(-1, 1, (COUNT, 4)).astype(np.float32)),
    reference=jnp.asarray(random_poses(seed=1)),
)


def grid(encoding, camera=CAMERA, mask=None):
    return np.asarray(encoding.encoded_grid(camera, mask, COUNT, SIZE, IMAGE))


def moved(camera, motion):
    """All cameras after one rigid motion [4, 4] of the world."""
    move = jnp.asarray(motion, jnp.float32)
    return camera._replace(pose=move @ camera.pose, reference=move @ camera.reference)


def rigid(rotation, translation=(0.0, 0.0, 0.0)):
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation.as_matrix(), translation
    return motion


TURN = rigid(Rotation.from_euler("zyx", [2.0, 0.7, -1.1]))
SHIFT = rigid(Rotation.from_euler("zyx", [0.4, -0.2, 0.9]), (0.5, -0.3, 0.8))

COMBINATIONS = [
    {"grid": "rays", "rays": form, "coordinates": coordinates, "relative": relative, "vector": vector}
    for form, coordinates, relative, vector in itertools.product(
        rays.FORMS, rays.COORDINATES, (False, True), pose_lib.VECTORS
    )
] + [{"grid": grid, "vector": vector} for grid in ("none", "xy") for vector in pose_lib.VECTORS]


@pytest.mark.parametrize("settings", COMBINATIONS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_combination_of_table_8_is_made(settings):
    encoding = dataclasses.replace(COARSE, **settings)
    # Exactly the fields that it asks for are read.
    fields = (*encoding.fields, *(("reference",) if encoding.needs_reference else ()))
    camera = Camera(**{name: getattr(CAMERA, name) for name in fields})
    if encoding.grid != "none":
        encoded = jax.eval_shape(lambda c: encoding.encoded_grid(c, None, COUNT, SIZE, IMAGE), camera)
        assert encoded.shape == (COUNT, *SIZE, 24)
    if encoding.vector != "none":
        halves = 2 if encoding.vector == "absolute" else 1
        source = jax.eval_shape(lambda c: encoding.source_vector(c, None, COUNT), camera)
        target = jax.eval_shape(lambda c: encoding.target_vector(c, None, COUNT), camera)
        assert (source.shape, target.shape) == ((COUNT, 24), (COUNT, 24 * halves))
    assert 24 >= 2 * encoding.num_coordinates


@pytest.mark.parametrize("coordinates", rays.COORDINATES)
@pytest.mark.parametrize("form", rays.FORMS)
def test_a_rotation_of_all_cameras_leaves_relative_grids(form, coordinates):
    relative = dataclasses.replace(COARSE, rays=form, coordinates=coordinates, relative=True)
    np.testing.assert_allclose(grid(relative, moved(CAMERA, TURN)), grid(relative), atol=1e-4)
    absolute = dataclasses.replace(relative, relative=False)
    assert np.abs(grid(absolute, moved(CAMERA, TURN)) - grid(absolute)).max() > 0.5


@pytest.mark.parametrize("form", ["concat", "normalized", "plane"])
def test_a_rigid_motion_of_all_cameras_leaves_relative_grids(form):
    """Not the sphere's, which stays around the world's origin while the cameras leave it."""
    relative = dataclasses.replace(COARSE, rays=form, relative=True)
    np.testing.assert_allclose(grid(relative, moved(CAMERA, SHIFT)), grid(relative), atol=1e-4)


def test_vectors_under_a_rotation_of_all_cameras():
    relative = dataclasses.replace(COARSE, grid="none", vector="relative")
    absolute = dataclasses.replace(relative, vector="absolute")
    for encode in ("source_vector", "target_vector"):
        for motion in (TURN, SHIFT):
            here, there = (getattr(relative, encode)(c, None, COUNT) for c in (CAMERA, moved(CAMERA, motion)))
            np.testing.assert_allclose(here, there, atol=1e-4)
        here, there = (getattr(absolute, encode)(c, None, COUNT) for c in (CAMERA, moved(CAMERA, TURN)))
        assert np.abs(here - there).max() > 0.5


@pytest.mark.parametrize("coordinates", rays.COORDINATES)
def test_the_reference_camera_itself_under_a_rigid_motion(coordinates):
    """Its upward direction lies on the polar axis of its own frame, where an angle would be rounding noise."""
    encoding = dataclasses.replace(COARSE, grid="none", vector="relative", coordinates=coordinates)
    own = CAMERA._replace(pose=CAMERA.reference)
    here, there = (encoding.source_vector(camera, None, COUNT) for camera in (own, moved(own, SHIFT)))
    np.testing.assert_allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("coordinates", rays.COORDINATES)
def test_viewpoint_in_closed_form(coordinates):
    """A camera 2 before the origin on -y, looking at it: forward is +y, up is +z."""
    pose = cameras.orbit(0.0, 0.0, 2.0).astype(np.float32)[None]
    encoding = PoseEncoding(
        grid="none", vector="absolute", coordinates=coordinates, encoding_dim=30, scale=0.5, sphere_radius=4.0
    )
    # Radius 2 / 4, azimuth -90 degrees, altitude 0; forward 90 degrees, 0; up 0, 90 degrees.
    expected = [0.5, -0.5, 0, 0.5, 0, 0, 1] if coordinates == "polar" else [0, -0.5, 0, 0, 1, 0, 0, 0, 1]
    encoded = coordinate_encoding(jnp.asarray([expected]), 30, top_frequency(0.5, "2pi/s"))
    np.testing.assert_allclose(encoding.source_vector(Camera(jnp.asarray(pose)), None, 1), encoded, atol=1e-5)


def test_relative_viewpoint_in_closed_form():
    """The reference on -y looks along +y; the target on +x, both at distance 2, looks along -x: to its left."""
    reference, target = (cameras.orbit(angle, 0.0, 2.0).astype(np.float32)[None] for angle in (0.0, np.pi / 2))
    encoding = PoseEncoding(grid="none", vector="relative", coordinates="cartesian", encoding_dim=30, scale=0.5)
    camera = Camera(jnp.asarray(target), reference=jnp.asarray(reference))
    # Forward, left, up of the reference: the target stands 2 ahead and 2 to the right.
    expected = coordinate_encoding(jnp.asarray([[2.0, -2, 0, 0, 1, 0, 0, 0, 1]]), 30, top_frequency(0.5, "2pi/s"))
    np.testing.assert_allclose(encoding.target_vector(camera, None, 1), expected, atol=1e-5)
    itself = Camera(jnp.asarray(reference), reference=jnp.asarray(reference))
    origin = coordinate_encoding(jnp.asarray([[0.0, 0, 0, 1, 0, 0, 0, 0, 1]]), 30, top_frequency(0.5, "2pi/s"))
    np.testing.assert_allclose(encoding.source_vector(itself, None, 1), origin, atol=1e-5)


def test_positions_are_measured_in_sphere_radii():
    """A scene and its sphere twice as large look the same."""
    for coordinates in rays.COORDINATES:
        small = dataclasses.replace(COARSE, coordinates=coordinates)
        large = dataclasses.replace(small, sphere_radius=2.0)
        pose = CAMERA.pose.at[:, :3, 3].multiply(2.0)
        np.testing.assert_allclose(grid(large, CAMERA._replace(pose=pose)), grid(small), atol=1e-4)


def test_grids_of_two_resolutions_cover_the_same_image():
    """Intrinsics are of the image: a finer map has the coarser one's rays at the cells' common centres."""
    coarse = np.asarray(COARSE.encoded_grid(CAMERA, None, COUNT, (2, 2), IMAGE))
    fine = np.asarray(COARSE.encoded_grid(CAMERA, None, COUNT, (6, 6), IMAGE))
    np.testing.assert_allclose(fine[:, 1::3, 1::3], coarse, atol=1e-5)
    doubled = CAMERA._replace(intrinsics=2 * CAMERA.intrinsics)
    np.testing.assert_allclose(COARSE.encoded_grid(doubled, None, COUNT, (2, 2), (24, 24)), coarse, atol=1e-5)


def test_hidden_poses_are_zeros_whatever_they_hold():
    mask = jnp.asarray([True, False, True, False])
    spoilt = CAMERA._replace(pose=CAMERA.pose.at[1].set(np.nan))
    for settings in ({}, {"grid": "xy"}, {"rays": "concat"}):
        encoding = dataclasses.replace(COARSE, **settings)
        shown, hidden = grid(encoding), grid(encoding, spoilt, mask)
        np.testing.assert_array_equal(hidden[[0, 2]], shown[[0, 2]])
        np.testing.assert_array_equal(hidden[[1, 3]], 0.0)
        np.testing.assert_array_equal(grid(encoding, None), np.zeros_like(shown))
        assert np.abs(shown).mean() > 0.1


def test_the_halves_of_an_absolute_vector_are_hidden_apart():
    encoding = dataclasses.replace(COARSE, grid="none", vector="absolute")
    shown = np.asarray(encoding.target_vector(CAMERA, None, COUNT))
    of_source, of_target = jnp.asarray([1, 0, 1, 0], bool), jnp.asarray([1, 1, 0, 0], bool)
    hidden = encoding.target_vector(CAMERA._replace(reference_mask=of_source), of_target, COUNT)
    np.testing.assert_array_equal(hidden[:, :24], shown[:, :24] * np.asarray(of_source)[:, None])
    np.testing.assert_array_equal(hidden[:, 24:], shown[:, 24:] * np.asarray(of_target)[:, None])
    np.testing.assert_array_equal(encoding.target_vector(None, None, COUNT), np.zeros_like(shown))


@pytest.mark.parametrize("vector", pose_lib.VECTORS)
@pytest.mark.parametrize("kind", ["rays", "xy", "none"])
def test_encoded_once_a_camera_is_the_same(kind, vector):
    encoding = dataclasses.replace(COARSE, grid=kind, vector=vector)
    camera = CAMERA._replace(reference_mask=jnp.asarray([1, 0, 1, 0], bool))
    once = encoding.encoded(camera, IMAGE)
    for mask in (None, jnp.asarray([1.0, 1.0, 0.0, 0.0])):
        if kind != "none":
            grids = [encoding.encoded_grid(c, mask, COUNT, IMAGE, IMAGE) for c in (once, camera)]
            np.testing.assert_array_equal(*grids)
        if vector != "none":
            np.testing.assert_array_equal(*(encoding.target_vector(c, mask, COUNT) for c in (once, camera)))
    assert encoding.encoded(camera, IMAGE, dtype=jnp.bfloat16).grid is None or kind != "none"


def test_patches_of_pixels_have_the_ray_of_their_centre():
    patched = np.asarray(COARSE.encoded(CAMERA, IMAGE, patch_size=3).grid)
    assert patched.shape[1:3] == (IMAGE[0] // 3, IMAGE[1] // 3)
    np.testing.assert_allclose(patched, COARSE.encoded(CAMERA, IMAGE).grid[:, 1::3, 1::3], atol=1e-5)


def test_first_present_source_is_the_reference():
    values, mask = np.arange(12).reshape(4, 3), np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)
    for module in (np, jnp):
        found = first_present(module.asarray(values), module.asarray(mask))
        np.testing.assert_array_equal(found, [0, 4, 8, 9])
    assert isinstance(first_present(values, mask), np.ndarray)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match="camera.intrinsics is None, but this model's pose encoding needs it"):
        grid(COARSE, CAMERA._replace(intrinsics=None))
    with pytest.raises(ValueError, match="camera.reference is None"):
        grid(dataclasses.replace(COARSE, relative=True), CAMERA._replace(reference=None))
