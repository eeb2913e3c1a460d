"""Cameras: camera-to-world poses and pixel rays, in NumPy.

World: z up. Camera: x right, y up, looking along -z (OpenGL, Blender). Intrinsics are
(fx, fy, cx, cy) in pixels, focal lengths and principal point; the centre of pixel (row i, column j)
lies at (j + .5, i + .5), so that the principal point of a centred camera is (width / 2, height / 2).
"""

import numpy as np


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
