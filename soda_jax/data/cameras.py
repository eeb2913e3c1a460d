"""Cameras: camera-to-world poses and pixel rays, in NumPy.

World: z up. Camera: x right, y up, looking along -z (OpenGL, Blender, NeRF's transforms.json).
OpenCV and COLMAP have the camera's y point down and look along +z: `from_opencv` converts. Both
describe the same image, so the intrinsics stay the same.

Intrinsics are (fx, fy, cx, cy) in pixels, focal lengths and principal point; the centre of pixel
(row i, column j) lies at (j + .5, i + .5), so that the principal point of a centred camera is
(width / 2, height / 2).
"""

import numpy as np
from scipy.spatial.transform import Rotation

# Exporters print rotations with few digits.
_ORTHOGONAL = 1e-3


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera-to-world poses of upright cameras at `position` [..., 3] that look at `target`.

    Returns:
        float64 [..., 4, 4].

    Raises:
        ValueError: a camera looks straight up or down, where "upright" means nothing.
    """
    position, target = np.broadcast_arrays(np.asarray(position, np.float64), np.asarray(target, np.float64))
    backward = position - target
    backward = backward / np.linalg.norm(backward, axis=-1, keepdims=True)
    right = np.cross([0.0, 0.0, 1.0], backward)
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    if np.any(length < 1e-6):
        raise ValueError("look_at: a camera looks straight up or down; tilt it a little.")
    right = right / length
    pose = np.zeros(position.shape[:-1] + (4, 4))
    pose[..., :3, 0] = right
    pose[..., :3, 1] = np.cross(backward, right)
    pose[..., :3, 2] = backward
    pose[..., :3, 3] = position
    pose[..., 3, 3] = 1.0
    return pose


def orbit(azimuth, altitude, radius, target=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Poses on a sphere around `target`, looking at it; angles in radians, broadcast together.

    Azimuth 0 stands on the -y side; a positive one moves the camera counter-clockwise seen from
    above (towards +x).
    """
    azimuth, altitude, radius = np.broadcast_arrays(azimuth, altitude, radius)
    offset = np.stack(
        [
            np.sin(azimuth) * np.cos(altitude),
            -np.cos(azimuth) * np.cos(altitude),
            np.sin(altitude),
        ],
        axis=-1,
    )
    return look_at(np.asarray(target) + radius[..., None] * offset, np.asarray(target))


def hemisphere(
    draws: np.ndarray,
    altitudes: tuple[float, float],
    radii: tuple[float, float],
    target=(0.0, 0.0, 0.0),
) -> np.ndarray:
    """Poses spread over a band of the upper hemisphere around `target`, looking at it.

    Uniform over the band's area and over the radius: azimuth in 0..2 pi, altitude in `altitudes`
    radians, radius in `radii`.

    Args:
        draws: uniform numbers in 0..1, [..., 3], for azimuth, altitude and radius.

    Returns:
        float64 [..., 4, 4].
    """
    draws = np.asarray(draws, np.float64)
    low, high = np.sin(altitudes)
    return orbit(
        2 * np.pi * draws[..., 0],
        np.arcsin(low + (high - low) * draws[..., 1]),
        radii[0] + (radii[1] - radii[0]) * draws[..., 2],
        target,
    )


def turn(poses: np.ndarray, yaw, pitch, roll) -> np.ndarray:
    """Cameras that stand where those of `poses` [..., 4, 4] do, turned about their own axes.

    Args:
        yaw: radians [...], to the left.
        pitch: radians [...], upwards.
        roll: radians [...], about the line of sight, counter-clockwise.
    """
    rotation = Rotation.from_euler("YXZ", np.stack([yaw, pitch, roll], axis=-1).reshape(-1, 3))
    turned = np.array(poses, np.float64)
    turned[..., :3, :3] = turned[..., :3, :3] @ rotation.as_matrix().reshape(*turned.shape[:-2], 3, 3)
    return turned


def from_opencv(pose: np.ndarray) -> np.ndarray:
    """Camera-to-world poses [..., 4, 4] of OpenCV's convention in ours, and the other way round.

    COLMAP and OpenCV's solvers give world-to-camera matrices: `from_opencv(invert(extrinsics))`.
    """
    return np.asarray(pose) * np.array([1.0, -1.0, -1.0, 1.0])


def invert(pose: np.ndarray) -> np.ndarray:
    """World-to-camera of camera-to-world [..., 4, 4] and the reverse; float64.

    Raises:
        ValueError: a matrix is not a rigid motion.
    """
    pose = check_rigid(pose)
    inverse = np.zeros_like(pose)
    inverse[..., :3, :3] = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", inverse[..., :3, :3], pose[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def check_rigid(pose: np.ndarray) -> np.ndarray:
    """The poses [..., 4, 4] as float64, if they are rotations and translations.

    Raises:
        ValueError: wrong shape or values, saying what is wrong with which matrix.
    """
    pose = np.asarray(pose, np.float64)
    if pose.shape[-2:] != (4, 4):
        raise ValueError(f"a pose must be 4 x 4, not of shape {pose.shape}.")
    flat = pose.reshape(-1, 4, 4)
    rotations = flat[:, :3, :3]
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.abs(np.swapaxes(rotations, 1, 2) @ rotations - np.eye(3)).max((1, 2))
    tests = (
        (~np.isfinite(flat).all((1, 2)), "has values that are not finite"),
        (np.any(flat[:, 3] != [0, 0, 0, 1], axis=1), "has a last row other than 0 0 0 1"),
        (~(errors < _ORTHOGONAL), "scales or shears: its first three columns are not orthonormal"),
        (np.linalg.det(np.nan_to_num(rotations)) < 0, "mirrors: its determinant is negative"),
    )
    for failed, what in tests:
        if np.any(failed):
            number = int(np.flatnonzero(failed)[0])
            raise ValueError(f"pose {number} {what}: {flat[number].tolist()}.")
    return pose


def centred_intrinsics(resolution: int, field_of_view: float) -> np.ndarray:
    """float32 (fx, fy, cx, cy) of a square image that spans `field_of_view` radians."""
    focal = resolution / (2 * np.tan(field_of_view / 2))
    return np.array([focal, focal, resolution / 2, resolution / 2], np.float32)


def pixel_rays(
    pose: np.ndarray, intrinsics: np.ndarray, height: int, width: int, samples: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """World-space rays of one camera, `samples`**2 a pixel on a regular sub-pixel grid.

    Returns:
        Origin float32 [3] and unit directions float32 [height * samples, width * samples, 3].
    """
    fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
    x = ((np.arange(width * samples) + 0.5) / samples - cx) / fx
    y = -((np.arange(height * samples) + 0.5) / samples - cy) / fy
    length = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2 + 1)
    local = np.stack([x[None, :] / length, y[:, None] / length, -1 / length], axis=-1)
    directions = local.astype(np.float32) @ np.asarray(pose, np.float32)[:3, :3].T
    return np.asarray(pose[:3, 3], np.float32), directions


def project(points: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Pixel coordinates (x, y) [..., 2] of world points [..., 3] that lie before the camera."""
    rotation, position = pose[:3, :3], pose[:3, 3]
    local = (np.asarray(points) - position) @ rotation
    fx, fy, cx, cy = intrinsics
    depth = -local[..., 2]
    return np.stack([cx + fx * local[..., 0] / depth, cy - fy * local[..., 1] / depth], axis=-1)
