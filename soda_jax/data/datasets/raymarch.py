"""A small ray-marcher: one object on the floor of a room, as colour-free weights.

Everything that is seen is linear in three albedos, of the floor, the walls and the object, plus a
white highlight. So a camera's image is kept as four weights a pixel, and any colouring is
`weights[..., :3] @ albedos + weights[..., 3:]`.

Floor and walls are intersected in closed form; only the object's signed distance field (SDF) is
marched, on the rays that meet its bounding sphere. World units, z up; the floor is z = 0 and the
object stands on it at the origin.
"""

import dataclasses

import numpy as np

from soda_jax.data import cameras

SHAPES = ("cube", "cylinder", "sphere", "capsule")
# Half extents of the shapes at size 1: (radius or half side, half height).
_EXTENTS = {
    "cube": (0.72, 0.72),
    "cylinder": (0.68, 0.72),
    "sphere": (0.82, 0.82),
    "capsule": (0.5, 1.05),
}
_CUBE_ROUNDING = 0.06

_HIT = 2e-3
_MAX_STEPS = 48
_LIGHT = np.array([-0.42, -0.62, 0.9], np.float32) / np.float32(np.linalg.norm([0.42, 0.62, 0.9]))
_AMBIENT = 0.42
_DIFFUSE = 0.58
_SPECULAR, _SHININESS = 0.28, 24
_SHADOW_SHARPNESS = 7.0
_SHADOW_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Room:
    """A square room with walls of endless height, seen from inside: rays leave it by a far side.

    Attributes:
        half_size: distance of the walls from the origin. A camera may stand outside: the walls
            between it and the room are not drawn.
    """

    half_size: float = 3.4


def bounding_sphere(shape: str, size: float) -> tuple[np.ndarray, float]:
    """Centre float32 [3] and radius of a sphere around the object."""
    radius, half_height = _EXTENTS[shape]
    reach = {
        "cube": np.sqrt(2 * radius**2 + half_height**2),
        "cylinder": np.hypot(radius, half_height),
        "sphere": radius,
        "capsule": half_height,
    }[shape]
    return np.array([0, 0, half_height * size], np.float32), float(reach * size)


def sdf(points: np.ndarray, shape: str, size: float) -> np.ndarray:
    """Signed distance [...] from points [..., 3] to the object, negative inside."""
    if shape not in _EXTENTS:
        raise ValueError(f"shape={shape!r} is unknown; choose one of {SHAPES}.")
    radius, half_height = (np.float32(extent * size) for extent in _EXTENTS[shape])
    x, y, z = points[..., 0], points[..., 1], points[..., 2] - half_height
    if shape == "sphere":
        return np.sqrt(x * x + y * y + z * z) - radius
    if shape == "capsule":
        above = np.maximum(np.abs(z) - (half_height - radius), 0)
        return np.sqrt(x * x + y * y + above * above) - radius
    if shape == "cylinder":
        side = np.sqrt(x * x + y * y) - radius
        cap = np.abs(z) - half_height
        outside = np.sqrt(np.maximum(side, 0) ** 2 + np.maximum(cap, 0) ** 2)
        return outside + np.minimum(np.maximum(side, cap), 0)
    rounding = np.float32(_CUBE_ROUNDING * size)
    dx, dy = np.abs(x) - (radius - rounding), np.abs(y) - (radius - rounding)
    dz = np.abs(z) - (half_height - rounding)
    outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2 + np.maximum(dz, 0) ** 2)
    return outside + np.minimum(np.maximum(np.maximum(dx, dy), dz), 0) - rounding


def march(origin: np.ndarray, directions: np.ndarray, shape: str, size: float) -> np.ndarray:
    """Distance [R] along unit rays [R, 3] to the object, inf where it is missed."""
    centre, radius = bounding_sphere(shape, size)
    offset = origin - centre
    along = directions @ offset
    discriminant = along * along - (offset @ offset - radius * radius)
    distance = np.full(len(directions), np.inf, np.float32)
    active = np.flatnonzero((discriminant > 0) & (along < 0))
    half_chord = np.sqrt(discriminant[active])
    near, far = -along[active] - half_chord, -along[active] + half_chord
    rays = directions[active]
    for _ in range(_MAX_STEPS):
        step = sdf(origin + near[:, None] * rays, shape, size)
        near = near + step
        hit = step < _HIT
        distance[active[hit]] = near[hit]
        keep = ~hit & (near < far)
        active, near, far, rays = active[keep], near[keep], far[keep], rays[keep]
        if not len(active):
            break
    # A ray still under way after so many steps creeps along an edge and then leaves it: a miss.
    return distance


def render(
    shape: str,
    size: float,
    pose: np.ndarray,
    intrinsics: np.ndarray,
    resolution: int,
    *,
    room: Room,
    samples: int = 3,
) -> np.ndarray:
    """Composition weights of one camera's image.

    Args:
        shape: one of SHAPES.
        size: scale of the object.
        pose: camera-to-world [4, 4].
        intrinsics: (fx, fy, cx, cy) in pixels.
        resolution: side of the image.
        samples: super-sampling per axis; each pixel is the mean of samples**2 rays.

    Returns:
        float32 [resolution, resolution, 4] in 0..1: weights of the floor's, walls' and object's
        albedo, and the white highlight.
    """
    origin, directions = cameras.pixel_rays(pose, intrinsics, resolution, resolution, samples)
    directions = directions.reshape(-1, 3)
    weights = np.zeros((len(directions), 4), np.float32)
    hit_distance = march(origin, directions, shape, size)
    seen = np.isfinite(hit_distance)
    weights[~seen, :2] = _room_weights(origin, directions[~seen], shape, size, room)
    points = origin + hit_distance[seen, None] * directions[seen]
    weights[seen, 2:] = _object_weights(points, directions[seen], shape, size)
    grid = weights.reshape(resolution, samples, resolution, samples, 4)
    # Summing strided slices is several times faster than a reduction over axes of length 2 or 3.
    total = sum(grid[:, i, :, j] for i in range(samples) for j in range(samples))
    return total / np.float32(samples**2)


def _room_weights(origin, directions, shape, size, room: Room) -> np.ndarray:
    """Shaded visibility of floor and walls [R, 2] for rays that miss the object."""
    with np.errstate(divide="ignore"):
        inverse = np.float32(1) / directions
    to_x = (np.sign(directions[:, 0]) * room.half_size - origin[0]) * inverse[:, 0]
    to_y = (np.sign(directions[:, 1]) * room.half_size - origin[1]) * inverse[:, 1]
    to_floor = np.where(directions[:, 2] < 0, -origin[2] * inverse[:, 2], np.inf)
    to_wall = np.minimum(to_x, to_y)
    on_floor = to_floor < to_wall
    weights = np.zeros((len(directions), 2), np.float32)

    floor_points = origin + to_floor[on_floor, None] * directions[on_floor]
    light = _light_reaching(floor_points, shape, size)
    # The floor darkens where the object stands and where it meets the walls.
    contact = np.clip(sdf(floor_points, shape, size) / (0.45 * size), 0, 1)
    edge = room.half_size - np.maximum(np.abs(floor_points[:, 0]), np.abs(floor_points[:, 1]))
    occlusion = (0.55 + 0.45 * contact) * _edge_shade(edge)
    weights[on_floor, 0] = _AMBIENT * occlusion + _DIFFUSE * _LIGHT[2] * light

    wall = ~on_floor
    by_x = to_x[wall] < to_y[wall]
    normal_light = np.where(
        by_x,
        -np.sign(directions[wall, 0]) * _LIGHT[0],
        -np.sign(directions[wall, 1]) * _LIGHT[1],
    )
    height = origin[2] + to_wall[wall] * directions[wall, 2]
    corner = origin[:2] + to_wall[wall, None] * directions[wall, :2]
    side = room.half_size - np.where(by_x, np.abs(corner[:, 1]), np.abs(corner[:, 0]))
    shade = _edge_shade(height) * _edge_shade(side)
    # Half-Lambert keeps the walls that face away from the light apart from each other.
    weights[wall, 1] = (_AMBIENT + 0.12) * shade + _DIFFUSE * 0.5 * (0.5 + 0.5 * normal_light) ** 2
    return weights


def _edge_shade(distance: np.ndarray) -> np.ndarray:
    """Ambient light left beside an inner edge of the room, 0.7..1."""
    return 0.7 + 0.3 * np.clip(distance / 0.8, 0, 1)


def _light_reaching(points: np.ndarray, shape: str, size: float) -> np.ndarray:
    """Share of the light [P] that reaches floor points, with a penumbra that grows with distance.

    The penumbra is the smallest SDF-to-distance ratio along the ray to the light.
    """
    centre, radius = bounding_sphere(shape, size)
    margin = radius * 1.6
    offset = points - centre
    along = offset @ _LIGHT
    near_axis = _dot(offset, offset) - along * along < margin * margin
    light = np.ones(len(points), np.float32)
    active = np.flatnonzero(near_axis & (along < radius))
    rays = points[active]
    travelled = np.full(len(active), 0.02, np.float32)
    smallest = np.ones(len(active), np.float32)
    reach = radius - along[active]
    for _ in range(_SHADOW_STEPS):
        distance = sdf(rays + travelled[:, None] * _LIGHT, shape, size)
        smallest = np.minimum(smallest, _SHADOW_SHARPNESS * distance / travelled)
        travelled = travelled + np.maximum(distance, 0.04)
        done = (smallest <= 0) | (travelled > reach)
        light[active[done]] = smallest[done]
        keep = ~done
        active, rays, reach = active[keep], rays[keep], reach[keep]
        travelled, smallest = travelled[keep], smallest[keep]
        if not len(active):
            break
    light[active] = smallest
    light = np.clip(light, 0, 1)
    return light * light * (3 - 2 * light)


def _object_weights(points, directions, shape, size) -> np.ndarray:
    """Lambert shading and white highlight [P, 2] of points on the object."""
    normals = _normals(points, shape, size)
    facing = normals @ _LIGHT
    lambert = np.maximum(facing, 0)
    # Light from the floor below and the sky above: faces keep apart outside the direct light.
    sky = 0.5 + 0.5 * normals[:, 2]
    contact = np.clip(points[:, 2] / (0.35 * size), 0, 1)
    ambient = _AMBIENT * (0.62 + 0.38 * sky) * (0.6 + 0.4 * contact)
    half = _LIGHT - directions
    half = half / np.sqrt(_dot(half, half))[:, None]
    highlight = np.maximum(_dot(normals, half), 0) ** _SHININESS * (facing > 0)
    return np.stack([ambient + _DIFFUSE * lambert, _SPECULAR * highlight], axis=1)


def _normals(points: np.ndarray, shape: str, size: float) -> np.ndarray:
    """Unit outward normals [P, 3]: the SDF's gradient by central differences."""
    step = np.float32(1e-2)
    gradient = np.stack(
        [
            sdf(points + step * axis, shape, size) - sdf(points - step * axis, shape, size)
            for axis in np.eye(3, dtype=np.float32)
        ],
        axis=1,
    )
    return gradient / np.sqrt(_dot(gradient, gradient))[:, None]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products [P] of vectors [P, 3]."""
    return np.einsum("pi,pi->p", a, b)
