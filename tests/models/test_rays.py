"""Ray geometry against closed forms, scipy's rotations and the renderer's own rays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from soda_jax.data import cameras
from soda_jax.models import rays

RNG = np.random.default_rng(0)
COUNT, SIZE, RADIUS = 3, (4, 5), 1.2
POSES = cameras.orbit(RNG.uniform(-3, 3, COUNT), RNG.uniform(0.1, 1.2, COUNT), RNG.uniform(2, 4, COUNT))
POSES = (POSES @ np.block([[Rotation.from_euler("z", 0.3).as_matrix(), np.zeros((3, 1))], [np.eye(4)[3:]]])).astype(
    np.float32
)  # rolled, so that a mistaken axis shows
INTRINSICS = RNG.uniform((20, 25, 9, 11), (22, 27, 11, 13), (COUNT, 4)).astype(np.float32)
IMAGE = (24, 20)


def numpy_rays():
    """Origins [B, 1, 1, 3] and unit directions, ray by ray: scipy turns the vector through each cell's centre."""
    rotations = Rotation.from_matrix(POSES[:, :3, :3])
    directions = np.empty((COUNT, *SIZE, 3))
    for camera, row, column in np.ndindex(COUNT, *SIZE):
        fx, fy, cx, cy = INTRINSICS[camera].astype(np.float64)
        pixel_x, pixel_y = (column + 0.5) * IMAGE[1] / SIZE[1], (row + 0.5) * IMAGE[0] / SIZE[0]
        vector = np.array([(pixel_x - cx) / fx, (cy - pixel_y) / fy, -1.0])
        directions[camera, row, column] = rotations[camera].apply(vector)
    lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
    return POSES[:, None, None, :3, 3].astype(np.float64), directions / lengths, lengths


def numpy_points(form):
    """The points of each form by another derivation: roots of the quadratic, and the distance to the image plane."""
    origin, unit, _ = numpy_rays()
    if form == "normalized":
        return origin + unit
    if form == "plane":
        axis = -POSES[:, None, None, :3, 2]  # the plane (p - o) . axis = 1
        return origin + unit / (unit * axis).sum(-1, keepdims=True)
    points = np.empty(unit.shape)
    for place in np.ndindex(unit.shape[:3]):
        o, r = origin[place[0], 0, 0], unit[place]
        roots = np.roots([1.0, 2 * o @ r, o @ o - RADIUS**2])
        ahead = [root.real for root in roots if abs(root.imag) < 1e-12 and root.real > 0]
        points[place] = o + (min(ahead) if ahead else max(-(o @ r), 0)) * r
    return points


def numpy_polar(points):
    x, y, z = np.moveaxis(points, -1, 0)
    radius = np.linalg.norm(points, axis=-1)
    return np.stack([radius, np.angle(x + 1j * y) / np.pi, 1 - np.arccos(z / radius) / (np.pi / 2)], axis=-1)


@pytest.fixture(scope="module")
def traced():
    return jax.jit(lambda: rays.camera_rays(jnp.asarray(POSES), jnp.asarray(INTRINSICS), SIZE, IMAGE))()


def test_rays_pass_through_the_centres_of_cells(traced):
    expected_origin, expected_unit, lengths = numpy_rays()
    origin, direction = traced
    np.testing.assert_allclose(origin, expected_origin[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(direction, expected_unit * lengths, atol=1e-5)


def test_rays_of_the_full_image_are_the_renderers():
    origin, direction = rays.camera_rays(jnp.asarray(POSES), jnp.asarray(INTRINSICS), IMAGE, IMAGE)
    for camera in range(COUNT):
        expected = cameras.pixel_rays(POSES[camera], INTRINSICS[camera], *IMAGE)
        np.testing.assert_allclose(origin[camera], expected[0], atol=1e-6)
        np.testing.assert_allclose(rays.normalise(direction)[camera], expected[1], atol=2e-6)


@pytest.mark.parametrize("coordinates", rays.COORDINATES)
@pytest.mark.parametrize("form", rays.FORMS)
def test_every_form_in_both_coordinates(traced, form, coordinates):
    points, free = rays.ray_vectors(*traced, form, RADIUS)
    expected_origin, expected_unit, _ = numpy_rays()
    expected = np.broadcast_to(expected_origin, free.shape) if form == "concat" else numpy_points(form)
    for got, wanted in ((points, expected), (free, expected_unit)):
        if coordinates == "polar":
            got, wanted = rays.polar(got), numpy_polar(wanted)
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_the_test_sees_rays_that_hit_and_rays_that_miss():
    radii = np.linalg.norm(numpy_points("sphere"), axis=-1)
    assert 0.2 < np.isclose(radii, RADIUS).mean() < 0.9


def sphere(origin, direction, radius=1.0):
    unit = np.asarray(direction, np.float32) / np.float32(np.linalg.norm(direction))
    return np.asarray(rays.sphere_points(jnp.asarray(origin, jnp.float32), jnp.asarray(unit), radius))


@pytest.mark.parametrize(
    ("origin", "direction", "expected"),
    [
        ([0, -3, 0], [0, 1, 0], [0, -1, 0]),  # through the centre
        ([-0.6, -3, 0], [0, 1, 0], [-0.6, -0.8, 0]),  # off the centre: 3-4-5
        ([0.5, -3, 0.5], [0, 1, 0], [0.5, -np.sqrt(0.5), 0.5]),
        ([1, -3, 0], [0, 1, 0], [1, 0, 0]),  # grazes
        ([2, -3, 0], [0, 1, 0], [2, 0, 0]),  # passes by: the closest point
        ([0.6, -3, 0], [0, -1, 0], [0.6, -3, 0]),  # leads away: the closest point is where it starts
        ([0, 0, 0], [0, 0, 1], [0, 0, 1]),  # from the centre
        ([0, 0.6, 0], [1, 0, 0], [0.8, 0.6, 0]),  # from inside, on its way out
        ([0, 0.5, 0], [0, 1, 0], [0, 1, 0]),
    ],
)
def test_sphere_in_closed_form(origin, direction, expected):
    np.testing.assert_allclose(sphere(origin, direction), expected, atol=1e-6)
    scaled = sphere(np.multiply(origin, 5), direction, radius=5.0)
    np.testing.assert_allclose(scaled, np.multiply(expected, 5), atol=5e-6)


def test_sphere_is_continuous_where_rays_graze_it():
    """Its point moves by the half-chord, which shrinks to nothing as the ray's distance reaches the radius."""
    distances = 1 + np.array([-1e-2, -1e-4, -1e-6, 0, 1e-6, 1e-4])
    points = np.stack([sphere([d, -3, 0], [0, 1, 0]) for d in distances])
    steps = np.linalg.norm(points - [1, 0, 0], axis=-1)
    chords = np.sqrt(np.maximum(1 - distances**2, 0))
    np.testing.assert_allclose(steps, np.hypot(chords, distances - 1), atol=5e-4)


def test_a_point_of_the_object_is_the_same_point_in_two_views():
    """Points on the sphere that both cameras see: their pixels' rays meet the sphere there, from either camera."""
    intrinsics = np.array([40.0, 44.0, 16.0, 15.0], np.float32)
    size = (32, 32)
    poses = cameras.orbit(np.array([0.2, 0.9]), np.array([0.3, 0.6]), np.array([3.0, 2.5])).astype(np.float32)
    points, _ = rays.ray_vectors(
        *rays.camera_rays(jnp.asarray(poses), jnp.asarray(np.stack([intrinsics] * 2)), size, size), "sphere", 1.0
    )
    points = np.asarray(points)
    seen = points[0][np.isclose(np.linalg.norm(points[0], axis=-1), 1.0, atol=1e-5)]
    outward = (seen * (poses[1, :3, 3] - seen)).sum(-1) > 0.2  # the second camera is above their horizon
    pixels = cameras.project(seen[outward], poses[1], intrinsics)
    assert outward.sum() > 50
    for point, (x, y) in zip(seen[outward], pixels, strict=True):
        # The principal point moved so that the one cell of a 1 x 1 map lies on that pixel.
        shifted = np.array([[40.0, 44.0, 16.0 - x + 0.5, 15.0 - y + 0.5]], np.float32)
        traced = rays.camera_rays(jnp.asarray(poses[1:]), jnp.asarray(shifted), (1, 1), (1, 1))
        again, _ = rays.ray_vectors(*traced, "sphere", 1.0)
        np.testing.assert_allclose(again[0, 0, 0], point, atol=1e-4)


def test_frame_of_a_camera_is_upright():
    """Forward, left and up of the reference are x, y and z, and it stands at the origin."""
    reference = jnp.asarray(POSES[:1])
    right, up, backward, position = (POSES[0, :3, i] for i in range(4))
    points = np.stack([position, position - 2 * backward, position - 3 * right, position + 4 * up])[None]
    expected = [[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 4]]
    np.testing.assert_allclose(rays.into_frame(reference, jnp.asarray(points))[0], expected, atol=1e-5)
    turned = rays.rotate(rays.frame_rotation(reference), jnp.asarray(points - position))
    np.testing.assert_allclose(turned[0], expected, atol=1e-5)


def test_azimuth_wraps_behind_the_x_axis():
    angles = np.array([-0.99, -0.5, 0.0, 0.5, 0.99])
    points = np.stack([np.cos(np.pi * angles), np.sin(np.pi * angles), np.zeros(5)], -1).astype(np.float32)
    np.testing.assert_allclose(rays.polar(jnp.asarray(points))[:, 1], angles, atol=1e-6)
    poles = rays.polar(jnp.asarray([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(poles, [[2, 0, 1], [2, 0, -1], [0, 0, 0]], atol=1e-6)


def test_xy_grid_follows_the_crop():
    windows = np.array([[-1, -1, 1, 1], [0, -0.5, 0.5, 0.5], [0.5, -0.5, 0, 0.5]], np.float32)
    whole, crop, mirrored = np.asarray(rays.xy_grid(jnp.asarray(windows), (4, 8)))
    np.testing.assert_allclose(whole[0, :, 0], (np.arange(8) + 0.5) / 4 - 1, atol=1e-6)
    np.testing.assert_allclose(whole[:, 0, 1], (np.arange(4) + 0.5) / 2 - 1, atol=1e-6)
    np.testing.assert_allclose(crop[2, :, 0], (np.arange(8) + 0.5) / 16, atol=1e-6)
    np.testing.assert_allclose(crop[:, 3, 1], (np.arange(4) + 0.5) / 4 - 0.5, atol=1e-6)
    np.testing.assert_allclose(mirrored, crop[:, ::-1], atol=1e-6)
    # A quarter of the image, at twice the detail: its cells' means are the whole image's cells.
    quarter = rays.xy_grid(jnp.asarray([[-1.0, -1.0, 0.0, 0.0]]), (4, 8))[0]
    np.testing.assert_allclose(np.asarray(quarter).reshape(2, 2, 4, 2, 2).mean((1, 3)), whole[:2, :4], atol=1e-6)


def test_unknown_form_is_named():
    with pytest.raises(ValueError, match="'cube': choose one of sphere, plane, normalized, concat"):
        rays.ray_vectors(jnp.zeros((1, 3)), jnp.ones((1, 1, 1, 3)), "cube", 1.0)
