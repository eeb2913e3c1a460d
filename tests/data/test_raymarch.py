import numpy as np
import pytest

from soda_jax.data import cameras
from soda_jax.data.datasets import raymarch

POSE = cameras.orbit(np.deg2rad(20), np.deg2rad(25), 6.0, (0, 0, 0.8))
INTRINSICS = cameras.centred_intrinsics(48, np.deg2rad(40))


def _sphere_distance(origin, directions, centre, radius):
    """The textbook ray-sphere intersection, in float64."""
    offset = np.asarray(origin, np.float64) - centre
    b = np.asarray(directions, np.float64) @ offset
    root = b * b - (offset @ offset - radius * radius)
    return np.where(root > 0, -b - np.sqrt(np.maximum(root, 0)), np.inf), root


def test_sphere_is_hit_where_the_closed_form_says():
    origin, directions = cameras.pixel_rays(POSE, INTRINSICS, 48, 48)
    directions = directions.reshape(-1, 3)
    centre, radius = raymarch.bounding_sphere("sphere", 1.1)
    expected, root = _sphere_distance(origin, directions, centre, radius)
    distance = raymarch.march(origin, directions, "sphere", 1.1)
    clear = np.abs(root) > 0.02  # Rays that graze the rim may go either way.
    np.testing.assert_array_equal(np.isfinite(distance)[clear], np.isfinite(expected)[clear])
    seen = clear & np.isfinite(expected)
    assert seen.sum() > 200
    np.testing.assert_allclose(distance[seen], expected[seen], atol=0.01)


def test_rendered_silhouette_has_the_area_of_the_sphere():
    weights = raymarch.render("sphere", 1.0, POSE, INTRINSICS, 48, room=raymarch.Room(), samples=1)
    origin, directions = cameras.pixel_rays(POSE, INTRINSICS, 48, 48)
    centre, radius = raymarch.bounding_sphere("sphere", 1.0)
    expected, _ = _sphere_distance(origin, directions.reshape(-1, 3), centre, radius)
    covered = np.isfinite(expected).reshape(48, 48)
    assert np.mean((weights[..., 2] > 0) != covered) < 0.002


@pytest.mark.parametrize("shape", raymarch.SHAPES)
def test_hits_lie_on_the_surface_and_above_the_floor(shape):
    origin, directions = cameras.pixel_rays(POSE, INTRINSICS, 48, 48)
    directions = directions.reshape(-1, 3)
    distance = raymarch.march(origin, directions, shape, 1.2)
    points = origin + distance[np.isfinite(distance), None] * directions[np.isfinite(distance)]
    assert len(points) > 100
    assert np.abs(raymarch.sdf(points, shape, 1.2)).max() < 0.02
    assert points[:, 2].min() > -0.02


@pytest.mark.parametrize("shape", raymarch.SHAPES)
def test_sdf_is_a_distance(shape):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-2, 2, (2, 4000, 3))
    a[:, 2] += 1
    b[:, 2] += 1
    gap = np.abs(raymarch.sdf(a, shape, 1.0) - raymarch.sdf(b, shape, 1.0))
    assert np.all(gap <= np.linalg.norm(a - b, axis=1) + 1e-5)
    # Stepping the distance against the gradient from outside lands on the surface.
    value = raymarch.sdf(a, shape, 1.0)
    eps = 1e-4
    gradient = np.stack([raymarch.sdf(a + eps * axis, shape, 1.0) - value for axis in np.eye(3)], 1) / np.float64(eps)
    outside = value > 0.05
    landed = a - value[:, None] * gradient
    assert np.quantile(np.abs(raymarch.sdf(landed[outside], shape, 1.0)), 0.99) < 0.01


@pytest.mark.parametrize("shape", raymarch.SHAPES)
def test_object_stands_on_the_floor_inside_its_bounding_sphere(shape):
    grid = np.stack(np.meshgrid(*[np.linspace(-1.6, 1.6, 49)] * 3, indexing="ij"), -1)
    grid = grid.reshape(-1, 3) + [0, 0, 1]
    inside = grid[raymarch.sdf(grid, shape, 1.0) < 0]
    centre, radius = raymarch.bounding_sphere(shape, 1.0)
    assert np.linalg.norm(inside - centre, axis=1).max() <= radius + 1e-6
    assert -1e-6 <= inside[:, 2].min() < 0.1


def test_floor_meets_the_walls_where_projection_says():
    room = raymarch.Room(half_size=3.4)
    weights = raymarch.render("sphere", 0.8, POSE, INTRINSICS, 48, room=room)
    # The back wall (y = 3.4) meets the floor right of the object.
    for x in (1.0, 1.6):
        column, row = cameras.project(np.array([x, 3.4, 0.0]), POSE, INTRINSICS)
        column, row = int(column), int(row)
        assert weights[row - 3, column, 1] > 0.2 and weights[row - 3, column, 0] == 0
        assert weights[row + 3, column, 0] > 0.2 and weights[row + 3, column, 1] == 0


def test_shadow_falls_away_from_the_light():
    weights = raymarch.render("cylinder", 1.2, POSE, INTRINSICS, 48, room=raymarch.Room())
    lit, shaded = (np.array([side * 0.85, side * 0.95, 0.0]) for side in (-1, 1))
    column, row = cameras.project(lit, POSE, INTRINSICS).astype(int)
    assert weights[row, column, 0] > 0.8
    origin = np.asarray(shaded, np.float32)[None]
    assert raymarch._light_reaching(origin, "cylinder", 1.2)[0] < 0.05


def test_no_overexposure():
    weights = raymarch.render("sphere", 1.2, POSE, INTRINSICS, 48, room=raymarch.Room())
    assert weights.min() >= 0
    assert weights[..., :3].sum(-1).max() <= 1.001


def test_unknown_shape():
    with pytest.raises(ValueError, match="'cone' is unknown"):
        raymarch.sdf(np.zeros((1, 3)), "cone", 1.0)
