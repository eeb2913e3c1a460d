import numpy as np
import pytest

from soda_jax.data import cameras


def test_orbit_cameras_are_rigid_upright_and_look_at_the_target():
    rng = np.random.default_rng(0)
    target = np.array([0.3, -0.2, 0.8])
    poses = cameras.orbit(rng.uniform(-np.pi, np.pi, 50), rng.uniform(-1.2, 1.4, 50), rng.uniform(2, 6, 50), target)
    rotations, positions = poses[:, :3, :3], poses[:, :3, 3]
    np.testing.assert_allclose(rotations @ rotations.swapaxes(1, 2), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)
    # -z, seen from the camera, leads to the target; x is level; y points up.
    distance = np.linalg.norm(target - positions, axis=1, keepdims=True)
    np.testing.assert_allclose(positions - distance * rotations[:, :, 2], np.tile(target, (50, 1)))
    np.testing.assert_allclose(rotations[:, 2, 0], 0, atol=1e-12)
    assert np.all(rotations[:, 2, 1] > 0)


def test_orbit_angles_mean_what_they_say():
    np.testing.assert_allclose(cameras.orbit(0.0, 0.0, 2.0)[:3, 3], [0, -2, 0], atol=1e-12)
    np.testing.assert_allclose(cameras.orbit(np.pi / 2, 0.0, 2.0)[:3, 3], [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(cameras.orbit(0.0, np.pi / 6, 2.0)[:3, 3], [0, -np.sqrt(3), 1], atol=1e-12)


def test_rays_and_projection_are_inverse():
    pose = cameras.orbit(0.4, 0.5, 4.0, (0, 0, 1))
    intrinsics = np.array([30.0, 26.0, 11.0, 9.0])
    origin, directions = cameras.pixel_rays(pose, intrinsics, 20, 24)
    pixels = cameras.project(origin + 3.7 * directions, pose, intrinsics)
    rows, columns = np.mgrid[:20, :24]
    np.testing.assert_allclose(pixels, np.stack([columns + 0.5, rows + 0.5], -1), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)


def test_field_of_view_spans_the_image():
    np.testing.assert_allclose(cameras.centred_intrinsics(64, np.deg2rad(90)), [32, 32, 32, 32], rtol=1e-6)


def test_vertical_camera_is_refused():
    with pytest.raises(ValueError, match="straight up or down"):
        cameras.look_at([0, 0, 5.0], [0, 0, 0])
