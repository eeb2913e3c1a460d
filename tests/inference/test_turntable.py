"""Turntables: the orbit fits the cameras, and every view is sampled with its camera and its object's noise."""

import numpy as np
import pytest

from soda_jax.data import cameras
from soda_jax.data.views import ViewSpec
from soda_jax.inference import grids
from soda_jax.inference.turntable import DrawnTurntable, Turntable, orbit
from soda_jax.models.pose import Camera
from tests.objects import Objects

CENTRE = np.array([0.3, -0.2, 0.85])
INTRINSICS = np.array([[90.0, 90.0, 32.0, 32.0], [92.0, 91.0, 31.0, 33.0], [94.0, 99.0, 32.5, 32.5]])


def test_orbit_typical_of_the_cameras():
    altitudes, radii = np.deg2rad([10, 20, 70]), [3.0, 2.0, 5.0]
    pose = cameras.orbit([0.3, 2.0, 4.0], altitudes, radii, CENTRE)
    found = orbit(pose, INTRINSICS, 4)
    np.testing.assert_allclose(found.azimuth, [0, np.pi / 2, np.pi, 3 * np.pi / 2])
    np.testing.assert_allclose(found.pose, cameras.orbit(found.azimuth, np.deg2rad(20), 3.0, CENTRE), atol=1e-5)
    np.testing.assert_allclose(found.intrinsics, [92, 91, 32, 32.5])


def test_altitude_asked_for():
    pose = cameras.orbit([0.3, 2.0], 0.3, 3.0, CENTRE)
    found = orbit(pose, INTRINSICS, 2, altitude=np.deg2rad(45))
    np.testing.assert_allclose(found.pose[:, 2, 3], CENTRE[2] + 3 * np.sin(np.pi / 4), atol=1e-5)


def test_one_camera_turns_around_the_point_of_its_axis_closest_to_the_origin():
    pose = cameras.look_at([3.0, 0.0, 4.0], [0.0, 0.0, 0.0])[None]
    found = orbit(pose, INTRINSICS[:1], 3)
    np.testing.assert_allclose(np.linalg.norm(found.pose[:, :3, 3], axis=1), 5, atol=1e-5)
    np.testing.assert_allclose(found.pose[:, 2, 3], 4, atol=1e-5)


def test_cameras_right_above_are_tilted():
    pose = cameras.orbit([0.0, 1.0], np.deg2rad(89), 3.0)
    assert np.isfinite(orbit(pose, INTRINSICS[:2], 3).pose).all()


class Echo:
    """Stands for `Inference`: a view shows its object's latent, the camera's place and the noise's index."""

    def conditions(self, batch):
        source = Camera(batch["source_pose"], batch["source_intrinsics"])
        return {"source_camera": source}, {"target_camera": Camera(batch["target_pose"], batch["target_intrinsics"])}

    def encode(self, variables, source, source_mask, source_camera):
        assert source_camera.pose.shape[:2] == source_mask.shape
        return source[:, 0, 0, 0, 0] / 255.0

    def sample(self, variables, z, *, seed, indices, target_camera):
        np.testing.assert_allclose(target_camera.intrinsics, np.broadcast_to(OBJECTS.intrinsics, (len(z), 4)))
        images = np.zeros((len(z), 8, 8, 3))
        images[..., 0] = z[:, None, None]
        images[..., 1] = target_camera.pose[:, 0, 3, None, None] / 5
        images[..., 2] = indices[:, None, None] / 10 + seed / 2
        return {"images": images}


OBJECTS = Objects(count=3)
SPEC = ViewSpec(policy="camera", num_sources=2, source_resolution=8, target_resolution=8)


@pytest.fixture(scope="module")
def shown():
    return Turntable(Echo(), OBJECTS, SPEC, count=4, num_views=6).draw({}, seed=1)


def test_every_view_has_its_camera_and_each_object_its_noise(shown):
    assert shown.sources.shape == (3, 2, 8, 8, 3) and shown.views.shape == (6, 3, 8, 8, 3)  # no padding
    pixels = shown.views[:, :, 0, 0].astype(float) / 127.5 - 1
    np.testing.assert_allclose(pixels[..., 0], np.tile(shown.sources[:, 0, 0, 0, 0] / 255.0, (6, 1)), atol=0.01)
    np.testing.assert_allclose(pixels[..., 2], np.tile([0.5, 0.6, 0.7], (6, 1)), atol=0.01)
    across = pixels[:, 0, 1]
    np.testing.assert_allclose(across, across[1] / np.sin(np.pi / 3) * np.sin(shown.azimuth), atol=0.03)


def test_strip_and_frames(shown):
    cell = 96 + grids.PADDING
    strip = shown.strip()
    assert strip.shape == (grids.HEADER + 3 * cell, grids.PADDING + (2 + 6) * cell, 3)
    images = [*shown.sources.swapaxes(0, 1), *shown.views]
    for column, row in ((0, 0), (1, 2), (2, 1), (7, 2)):
        top, left = grids.HEADER + row * cell, grids.PADDING + column * cell
        np.testing.assert_array_equal(strip[top : top + 96 : 12, left : left + 96 : 12], images[column][row])
    frames = shown.frames()
    assert len(frames) == 6 and {frame.shape for frame in frames} == {(2 * 96, 3 * 96, 3)}
    for view, frame in zip(shown.views, frames, strict=True):
        small = frame[::12, ::12].reshape(2, 8, 3, 8, 3).swapaxes(1, 2)
        np.testing.assert_array_equal(small, [shown.sources[:, 0], view])


def test_many_views_and_sizes_keep_their_columns():
    sources, views = np.zeros((1, 1, 8, 8, 3), np.uint8), np.zeros((500, 1, 16, 16, 3), np.uint8)
    shown = DrawnTurntable(sources, views, 2 * np.pi * np.arange(500) / 500)
    assert shown.strip().shape[1] == grids.PADDING + 501 * (96 + grids.PADDING)
    assert shown.frames()[0].shape == (192, 96, 3)
