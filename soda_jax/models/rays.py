"""Pinhole rays and the coordinates that stand for them (SODA Appendix C "Pose Conditioning", G.3 and Table 8).

Pure functions of camera matrices, so that ray grids are made on the device and never travel from the host.
Camera-to-world poses follow OpenGL and Blender: x right, y up, looking along -z; the world's z points up. Intrinsics
are (fx, fy, cx, cy) in pixels of an image whose pixel (row i, column j) has its centre at (j + .5, i + .5).

A ray o + lambda r becomes one point, at the lambda that its form chooses, or stays a pair:

  form        lambda                                                                            what is encoded
  concat      none                                                                              (o, r), |r| = 1
  normalized  1, with |r| = 1                                                                   o + r
  plane       1 over the cosine of the ray and the viewing axis: the image plane at unit depth  o + lambda r
  sphere      the ray's first intersection with the sphere around the origin                    o + lambda r
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

FORMS = ("sphere", "plane", "normalized", "concat")
COORDINATES = ("polar", "cartesian")

_ON_AXIS = 1e-5  # distance from the z axis, as a share of the radius, that counts as none

# Axes of the frame that relative poses use, in camera coordinates: x forward, y left, z up. In the camera's own axes
# the polar axis would be the viewing axis, and azimuth would be undefined exactly where the camera looks.
_UPRIGHT = np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]], np.float32)


def rotate(rotation: jax.Array, vectors: jax.Array) -> jax.Array:
    """Applies rotations [B, 3, 3] to vectors [B, ..., 3], in full float32 (matrix units round to fewer bits)."""
    flat = rearrange(vectors, "b ... xyz -> b (...) xyz")
    turned = jnp.einsum("bij,bnj->bni", rotation, flat, precision=jax.lax.Precision.HIGHEST)
    return turned.reshape(vectors.shape)


def camera_rays(
    pose: jax.Array, intrinsics: jax.Array, size: tuple[int, int], image_size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Rays through the cells of a feature map that covers the whole image.

    Args:
      pose: [B, 4, 4] camera-to-world, its rotation orthonormal.
      intrinsics: [B, 4] for an image of `image_size`.
      size: (h, w) of the feature map; a cell's ray passes through the cell's centre.
      image_size: (H, W) in pixels.

    Returns:
      Origins [B, 3] and directions [B, h, w, 3] in the world; directions reach from the camera to the plane at unit
      depth before it (camera z = -1), so their length is 1 over the cosine to the viewing axis.
    """
    rows, columns = size
    y = (np.arange(rows, dtype=np.float32) + 0.5) * (image_size[0] / rows)
    x = (np.arange(columns, dtype=np.float32) + 0.5) * (image_size[1] / columns)
    # The pinhole's (x, y, -1) = ((u - cx) / fx, -(v - cy) / fy, -1): images grow downwards, the camera's y points up.
    fx, fy, cx, cy = jnp.split(intrinsics, 4, axis=-1)  # [B, 1] each
    right = repeat((x - cx) / fx, "b w -> b h w", h=rows)
    up = repeat(-(y - cy) / fy, "b h -> b h w", w=columns)
    in_camera = jnp.stack([right, up, -jnp.ones_like(right)], axis=-1)
    return pose[:, :3, 3], rotate(pose[:, :3, :3], in_camera)


def normalise(vectors: jax.Array) -> jax.Array:
    """Vectors [..., 3] at unit length."""
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def sphere_points(origin: jax.Array, direction: jax.Array, radius: float) -> jax.Array:
    """Where rays first meet the sphere of `radius` around the origin, [..., 3].

    A ray that misses, because it passes by or leads away, gives its point closest to the origin instead. That is
    continuous where a ray grazes the sphere. A ray that starts inside meets the sphere on its way out.

    Args:
      origin, direction: [..., 3]; directions have unit length.
    """
    along = (origin * direction).sum(-1, keepdims=True)  # minus the distance to the closest point of the line
    closest = origin - along * direction
    # From the closest point, not |o|^2 - r^2: the difference of large squares would cost the digits of far cameras.
    half_chord = radius**2 - (closest * closest).sum(-1, keepdims=True)
    outside = (origin * origin).sum(-1, keepdims=True) > radius**2
    hits = (half_chord >= 0) & (~outside | (along < 0))
    root = jnp.sqrt(jnp.where(hits, half_chord, 0.0))
    distance = jnp.where(hits, -along + jnp.where(outside, -root, root), jnp.maximum(-along, 0.0))
    return origin + distance * direction


def ray_vectors(origin: jax.Array, direction: jax.Array, form: str, radius: float) -> tuple[jax.Array, jax.Array]:
    """What stands for each ray under `form`: (points, free vectors), each [B, h, w, 3].

    Points move with a change of frame, free vectors only turn. The free vectors are the unit directions, which only
    "concat" encodes.
    """
    # Appendix G.3: (o, r), or one point o + lambda r: half the coordinates, so twice the encoding's width for each.
    unit = normalise(direction)
    origin = jnp.broadcast_to(rearrange(origin, "b xyz -> b 1 1 xyz"), direction.shape)
    if form == "concat":
        return origin, unit
    if form == "normalized":
        return origin + unit, unit
    if form == "plane":
        return origin + direction, unit
    if form == "sphere":
        # The paper's proposal, and its best (Table 8).
        return sphere_points(origin, unit, radius), unit
    raise ValueError(f"unknown ray form {form!r}: choose one of {', '.join(FORMS)}")


def frame_rotation(reference: jax.Array) -> jax.Array:
    """Rotation [B, 3, 3] from the world into the upright frame of cameras [B, 4, 4]: x forward, y left, z up."""
    return jnp.einsum("ij,bkj->bik", jnp.asarray(_UPRIGHT), reference[:, :3, :3], precision=jax.lax.Precision.HIGHEST)


def into_frame(reference: jax.Array, points: jax.Array) -> jax.Array:
    """World points [B, ..., 3] in the upright frame of the reference cameras [B, 4, 4], which stand at its origin."""
    position = jnp.expand_dims(reference[:, :3, 3], tuple(range(1, points.ndim - 1)))
    return rotate(frame_rotation(reference), points - position)


def polar(points: jax.Array) -> jax.Array:
    """(radius, azimuth / pi, altitude / (pi / 2)) of points [..., 3]; both angles in [-1, 1].

    Azimuth is 0 at +x and grows towards +y; it jumps from 1 to -1 across the half-plane y = 0, x < 0, and is 0 on the
    z axis. In the frame of a relative pose that half-plane lies straight behind the reference camera.
    """
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    horizontal = jnp.hypot(x, y)  # distance from the z axis
    radius = jnp.hypot(horizontal, z)
    # Within rounding of the z axis, where an upright camera's upward direction lies, the angle would be noise.
    azimuth = jnp.where(horizontal > _ON_AXIS * radius, jnp.arctan2(y, x), 0.0)
    return jnp.stack([radius, azimuth / np.pi, jnp.arctan2(z, horizontal) / (np.pi / 2)], axis=-1)


def xy_grid(window: jax.Array, size: tuple[int, int]) -> jax.Array:
    """2D coordinates [B, h, w, 2] of a feature map's cells in the uncropped image, which spans [-1, 1]^2.

    Args:
      window: [B, 4] the crop's (x_left, y_top, x_right, y_bottom); a mirrored crop has x_left > x_right.
      size: (h, w).
    """
    rows, columns = size
    x_share = (np.arange(columns, dtype=np.float32) + 0.5) / columns
    y_share = (np.arange(rows, dtype=np.float32) + 0.5) / rows
    left, top, right, bottom = jnp.split(window, 4, axis=-1)  # [B, 1] each
    x = repeat(left + (right - left) * x_share, "b w -> b h w", h=rows)
    y = repeat(top + (bottom - top) * y_share, "b h -> b h w", w=columns)
    return jnp.stack([x, y], axis=-1)
