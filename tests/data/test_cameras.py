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


def test_a_turn_moves_what_is_seen_the_other_way():
    pose, intrinsics, target = cameras.orbit(0.4, 0.5, 4.0), cameras.centred_intrinsics(64, 0.7), np.zeros(3)

    def seen(*angles):
        return cameras.project(target, cameras.turn(pose, *np.float64(angles)), intrinsics) - 32

    focal = intrinsics[0]
    np.testing.assert_allclose(seen(0.1, 0.0, 0.0), [focal * np.tan(0.1), 0], atol=1e-4)  # left: seen on the right
    np.testing.assert_allclose(seen(0.0, 0.1, 0.0), [0, focal * np.tan(0.1)], atol=1e-4)  # up: seen below
    # Rolled counter-clockwise, the world turns clockwise: its upward direction leans to the right.
    above = cameras.project(np.array([0, 0, 0.1]), cameras.turn(pose, 0.0, 0.0, np.float64(0.3)), intrinsics) - 32
    assert above[0] > 0 and above[1] < 0
    np.testing.assert_array_equal(cameras.turn(pose, 0.2, 0.1, 0.3)[:3, 3], pose[:3, 3])


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


def _random_rotations(rng, count):
    return np.linalg.qr(rng.normal(size=(count, 3, 3)))[0] * np.sign(rng.normal(size=(count, 1, 1)))


def test_opencv_poses_show_the_same_image():
    # OpenCV by its own definition: pixel ~ K (R X + t), seen along +z with y down, [R|t] from world to camera.
    rng = np.random.default_rng(1)
    rotation = _random_rotations(rng, 1)[0]
    rotation *= np.sign(np.linalg.det(rotation))
    translation = np.array([0.1, -0.2, 5.0])
    matrix = np.array([[40.0, 0, 13], [0, 35.0, 17], [0, 0, 1]])
    points = rng.uniform(-1, 1, (20, 3))
    homogeneous = (points @ rotation.T + translation) @ matrix.T
    expected = homogeneous[:, :2] / homogeneous[:, 2:]

    extrinsics = np.eye(4)
    extrinsics[:3, :3], extrinsics[:3, 3] = rotation, translation
    pose = cameras.from_opencv(cameras.invert(extrinsics))
    np.testing.assert_allclose(cameras.project(points, pose, (40, 35, 13, 17)), expected, rtol=1e-9)
    origin, directions = cameras.pixel_rays(pose, (40, 35, 13, 17), 24, 24)
    # The ray through a pixel, by OpenCV's formula: R^T K^-1 (u, v, 1).
    through = np.linalg.inv(matrix) @ [5.5, 9.5, 1.0] @ rotation
    np.testing.assert_allclose(directions[9, 5], through / np.linalg.norm(through), atol=1e-6)
    np.testing.assert_allclose(origin, -rotation.T @ translation, atol=1e-6)
    # Converting twice is doing nothing.
    np.testing.assert_array_equal(cameras.from_opencv(cameras.from_opencv(pose)), pose)


def test_invert_is_the_matrix_inverse():
    poses = cameras.orbit(np.linspace(0, 5, 6), np.linspace(-1, 1, 6), np.linspace(2, 4, 6), (0.2, 0.1, -0.3))
    np.testing.assert_allclose(cameras.invert(poses), np.linalg.inv(poses), atol=1e-12)
    np.testing.assert_allclose(cameras.invert(cameras.invert(poses[0])), poses[0], atol=1e-12)


def test_hemisphere_covers_area_and_radius_evenly():
    draws = np.random.default_rng(2).random((20_000, 3))
    low, high = 0.2, 1.3
    poses = cameras.hemisphere(draws, (low, high), (2.0, 5.0), (0.5, 0, 1))
    offset = poses[:, :3, 3] - [0.5, 0, 1]
    radius = np.linalg.norm(offset, axis=1)
    height = offset[:, 2] / radius  # Uniform, by Archimedes' theorem on the area of a band.
    azimuth = np.arctan2(offset[:, 1], offset[:, 0])
    for values, ends in ((height, np.sin([low, high])), (radius, (2, 5)), (azimuth, (-np.pi, np.pi))):
        assert ends[0] <= values.min() and values.max() <= ends[1]
        counts, _ = np.histogram(values, 10, ends)
        assert abs(counts - 2000).max() < 5 * np.sqrt(2000)
    np.testing.assert_allclose(poses[:, :3, 2], offset / radius[:, None], atol=1e-12)  # All look at the target.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pose: pose[:3], "must be 4 x 4"),
        (lambda pose: pose * 1.01, "last row"),
        (lambda pose: pose @ np.diag([2.0, 2, 2, 1]), "scales or shears"),
        (lambda pose: pose @ np.diag([-1.0, 1, 1, 1]), "mirrors"),
        (lambda pose: pose + np.nan, "not finite"),
    ],
)
def test_matrices_that_are_no_camera_are_refused(change, message):
    pose = cameras.orbit(0.3, 0.4, 3.0)
    np.testing.assert_array_equal(cameras.check_rigid(pose), pose)
    with pytest.raises(ValueError, match=message):
        cameras.check_rigid(change(pose))
