"""Procedural rooms with one object, after 3DShapes, rendered here: no download, exact cameras.

`Scenes`: 10 floor, wall and object hues, 8 scales, 4 shapes, 15 orientations: 480,000 images.
`FreeScenes`: the same objects in a wider room, each seen by cameras on the upper hemisphere.
`HandheldScenes`: the same, but cameras are held by hand: aside, tilted, near or far, in any light.

Only the geometry (480 images for `Scenes`) is rendered, once, and cached as composition weights
(see raymarch.py); colours are composed when an example is asked for.
"""

import colorsys
import hashlib
import json
import os
from concurrent import futures

import numpy as np

from soda_jax.data import cameras
from soda_jax.data.datasets import raymarch
from soda_jax.data.datasets.base import Example, Labels, fixed_split
from soda_jax.data.datasets.cache import CachedArray, cache_dir

FACTOR_NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
FACTOR_SIZES = (10, 10, 10, 8, 4, 15)
NUM_HUES, NUM_SCALES, NUM_SHAPES, NUM_ORIENTATIONS = 10, 8, 4, 15

# Hues in degrees, spaced so that neighbours look about equally different (greens need more).
_HUES = (0, 28, 54, 95, 152, 184, 212, 248, 284, 325)
PALETTE = np.array([colorsys.hsv_to_rgb(hue / 360, 0.85, 1.0) for hue in _HUES], np.float32)
SIZES = np.linspace(0.8, 1.25, NUM_SCALES)
AZIMUTHS = np.deg2rad(np.linspace(-30, 30, NUM_ORIENTATIONS))

_TARGET = (0.0, 0.0, 0.85)
_ALTITUDE = np.deg2rad(24)
_RADIUS = 5.9
_FIELD_OF_VIEW = np.deg2rad(40)
_ROOM = raymarch.Room(half_size=3.4)
_FREE_ROOM = raymarch.Room(half_size=6.5)
_FREE_ALTITUDES = np.deg2rad((8, 80))
_FREE_RADII = (5.2, 6.4)
_HELD_ALTITUDES = np.deg2rad((8, 40))
_HELD_RADII = (3.4, 5.0)
_HELD_TURN, _HELD_ROLL = np.deg2rad(11), np.deg2rad(15)
_HELD_EXPOSURES = (0.5, 1.0)
_SPLIT_SEED, _CAMERA_SEED, _HELD_SEED = 480_000, 32_000, 64_000
# Part of the caches' names; raise it whenever raymarch.py renders something different.
_RENDERER_VERSION = 2
_MIN_RESOLUTION, _MAX_RESOLUTION = 32, 128


def compose(bank: np.ndarray, geometry: np.ndarray, albedos: np.ndarray, exposure: float = 1.0) -> np.ndarray:
    """Colours composition weights.

    Args:
        bank: uint8 [G, h, w, 4], the floor's, walls' and object's weights and the highlight.
        geometry: integers [K], which of the bank's G entries to colour.
        albedos: float32 [K, 3, 3], RGB in 0..1 of floor, walls and object.
        exposure: brightness of the images, 0..1.

    Returns:
        uint8 [K, h, w, 3].
    """
    _, height, width, _ = bank.shape
    count = len(geometry)
    images = np.empty((count, height, width, 3), np.uint8)
    mixing = np.ones((count, 4, 3), np.float32)
    mixing[:, :3] = albedos
    mixing *= exposure
    weights = np.empty((height * width, 4), np.float32)
    colours = np.empty((height * width, 3), np.float32)
    # An image at a time stays in the processor's cache, which is faster than one big product.
    for image, entry, mix in zip(images, geometry, mixing, strict=True):
        weights[...] = bank[entry].reshape(-1, 4)
        np.matmul(weights, mix, out=colours)
        np.add(colours, 0.5, out=colours)
        np.minimum(colours, 255, out=colours)
        image[...] = colours.reshape(height, width, 3)
    return images


class Scenes:
    """The set with 15 orientations: single images with six factors.

    `image` uint8 [resolution, resolution, 3], `factors` int32 [6]. 80/10/10 percent of the 480,000
    combinations are train/validation/test.

    Args:
        root: folder of the cache; None for the user's cache folder.
        split: "train", "validation" or "test".
        resolution: side of the images, 32..128.
    """

    labels = {"factors": Labels(FACTOR_SIZES, FACTOR_NAMES)}

    def __init__(self, root: str | os.PathLike | None, split: str, *, resolution: int = 64):
        _check_resolution(resolution)
        self._combinations = fixed_split(int(np.prod(FACTOR_SIZES)), split, _SPLIT_SEED)
        self.intrinsics = cameras.centred_intrinsics(resolution, _FIELD_OF_VIEW)
        self._poses = orientation_poses()
        jobs = [(shape, size, pose) for size in SIZES for shape in raymarch.SHAPES for pose in self._poses]
        self._weights = _cached_weights("scenes", root, jobs, resolution, _ROOM)

    def __len__(self) -> int:
        return len(self._combinations)

    def __getitem__(self, index: int) -> Example:
        return self.get_many(np.array([index]))[0]

    def get_many(self, indices: np.ndarray) -> list[Example]:
        """The examples at `indices`, composed together."""
        factors = self.factors(indices)
        geometry = np.ravel_multi_index(tuple(factors[:, 3:].T), FACTOR_SIZES[3:])
        images = self.compose(geometry, factors[:, :3])
        return [{"image": image, "factors": row} for image, row in zip(images, factors, strict=True)]

    def compose(self, geometry: np.ndarray, hues: np.ndarray) -> np.ndarray:
        """Images uint8 [K, h, w, 3] of geometries [K] in 0..479 with hues [K, 3].

        Hues are those of floor, walls and object, in 0..9. Geometry counts orientation fastest,
        then shape, then scale.
        """
        return compose(self._weights.array, geometry, PALETTE[hues])

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """Ground-truth factors int32 [K, 6] of the split's examples `indices` [K]."""
        combinations = self._combinations[np.asarray(indices)]
        return np.stack(np.unravel_index(combinations, FACTOR_SIZES), axis=-1).astype(np.int32)

    def index_of(self, factors: np.ndarray) -> np.ndarray:
        """Positions [K] in this split of the examples with factors [K, 6]; -1 for other splits'."""
        combinations = np.ravel_multi_index(tuple(np.asarray(factors).T), FACTOR_SIZES)
        places = np.full(int(np.prod(FACTOR_SIZES)), -1)
        places[self._combinations] = np.arange(len(self._combinations))
        return places[combinations]

    def camera(self, index: int) -> dict[str, np.ndarray]:
        """`pose` float32 [4, 4], camera-to-world, and `intrinsics` float32 [4] of an example."""
        orientation = self.factors(np.array([index]))[0, 5]
        return {
            "pose": self._poses[orientation].astype(np.float32),
            "intrinsics": self.intrinsics.copy(),
        }


class FreeScenes:
    """The multi-view set: 32,000 objects, each seen by cameras on the upper hemisphere.

    An example has `views` (see `SceneViews`) and `factors` int32 [5]: floor, wall and object hue,
    scale, shape. The splits (80/10/10) separate the objects. Cameras are random but fixed, other
    ones for every (scale, shape); those of a smaller `num_views` are the first of a larger.

    Args:
        root: folder of the cache; None for the user's cache folder.
        split: "train", "validation" or "test".
        resolution: side of the images, 32..128.
        num_views: cameras per object.
    """

    labels = {"factors": Labels(FACTOR_SIZES[:5], FACTOR_NAMES[:5])}
    _cache_name = "scenes_free"

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        *,
        resolution: int = 64,
        num_views: int = 48,
    ):
        _check_resolution(resolution)
        if num_views < 2:
            raise ValueError(f"num_views={num_views} must be at least 2: a source and a target.")
        self._objects = fixed_split(int(np.prod(FACTOR_SIZES[:5])), split, _SPLIT_SEED)
        self.intrinsics = cameras.centred_intrinsics(resolution, _FIELD_OF_VIEW)
        self.poses, self._exposures = self._cameras(num_views)
        geometries = [(shape, size) for size in SIZES for shape in raymarch.SHAPES]
        jobs = [
            (shape, size, pose) for (shape, size), poses in zip(geometries, self.poses, strict=True) for pose in poses
        ]
        self._weights = _cached_weights(self._cache_name, root, jobs, resolution, _FREE_ROOM)

    def _cameras(self, num_views: int) -> tuple[np.ndarray, np.ndarray]:
        """Poses [32, num_views, 4, 4] for every (scale, shape), shape fastest, and exposures [32, num_views]."""
        return free_poses(num_views), np.ones((NUM_SCALES * NUM_SHAPES, num_views), np.float32)

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, index: int) -> Example:
        factors = np.array(np.unravel_index(self._objects[index], FACTOR_SIZES[:5]), np.int32)
        geometry = int(factors[3] * NUM_SHAPES + factors[4])
        poses, exposures = self.poses[geometry], self._exposures[geometry]
        first = geometry * len(poses)
        weights = self._weights.array[first : first + len(poses)]
        views = SceneViews(weights, PALETTE[factors[:3]], poses, self.intrinsics, exposures)
        return {"views": views, "factors": factors}


class HandheldScenes(FreeScenes):
    """The rooms as snapshots: what a pixel shows says little, so that labels are not linear in pixels.

    As `FreeScenes`, but a camera stands lower, nearer or farther, aims beside the object (by up to 11 degrees each way)
    and is tilted (up to 15 degrees); its exposure of .5 to 1 scales the brightness. With the distance free, one image
    hardly tells an object's scale.
    """

    _cache_name = "scenes_handheld"

    def _cameras(self, num_views: int) -> tuple[np.ndarray, np.ndarray]:
        return handheld_cameras(num_views)


class SceneViews:
    """The views of one object: `views[j]` -> dict(image, pose, intrinsics), composed on demand."""

    def __init__(self, weights, albedos, poses, intrinsics, exposures):
        self._weights = weights
        self._albedos = albedos
        self._poses = poses
        self._intrinsics = intrinsics
        self._exposures = exposures

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return {
            "image": compose(self._weights, [number], self._albedos[None], self._exposures[number])[0],
            "pose": self._poses[number].astype(np.float32),
            "intrinsics": self._intrinsics.copy(),
        }


def orientation_poses() -> np.ndarray:
    """Camera-to-world poses [15, 4, 4] of the orientations, azimuth -30..30 degrees."""
    return cameras.orbit(AZIMUTHS, _ALTITUDE, _RADIUS, _TARGET)


def free_poses(num_views: int) -> np.ndarray:
    """Camera-to-world poses [32, num_views, 4, 4] for every (scale, shape), shape fastest.

    Uniform over the hemisphere's area between altitudes 8 and 80 degrees, and over the radius.
    """
    return cameras.hemisphere(_draws(_CAMERA_SEED, num_views, 3), _FREE_ALTITUDES, _FREE_RADII, _TARGET)


def handheld_cameras(num_views: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses [32, num_views, 4, 4] and exposures float32 [32, num_views] of `HandheldScenes`."""
    draws = _draws(_HELD_SEED, num_views, 7)
    poses = cameras.hemisphere(draws[..., :3], _HELD_ALTITUDES, _HELD_RADII, _TARGET)
    aside = 2 * draws[..., 3:6] - 1
    turned = cameras.turn(poses, *np.moveaxis(aside * (_HELD_TURN, _HELD_TURN, _HELD_ROLL), -1, 0))
    low, high = _HELD_EXPOSURES
    return turned, (low + (high - low) * draws[..., 6]).astype(np.float32)


def _draws(seed: int, num_views: int, numbers: int) -> np.ndarray:
    """Uniform numbers in 0..1 [32, num_views, numbers], other ones for every (scale, shape)."""
    generators = [np.random.Generator(np.random.Philox(key=seed + key)) for key in range(NUM_SCALES * NUM_SHAPES)]
    return np.stack([generator.random((num_views, numbers)) for generator in generators])


def _check_resolution(resolution: int) -> None:
    if not isinstance(resolution, int) or not _MIN_RESOLUTION <= resolution <= _MAX_RESOLUTION:
        raise ValueError(f"resolution={resolution!r} must be an integer in {_MIN_RESOLUTION}..{_MAX_RESOLUTION}.")


def _cached_weights(name, root, jobs, resolution, room) -> CachedArray:
    """Weights uint8 [jobs, resolution, resolution, 4], rendered unless they lie in the cache."""
    samples = 3 if resolution <= 64 else 2
    recipe = [_RENDERER_VERSION, samples, room.half_size, _FIELD_OF_VIEW]
    poses = np.stack([pose for _, _, pose in jobs]).round(6).tolist()
    recipe += [[shape, round(float(size), 6)] for shape, size, _ in jobs] + poses
    version = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    path = cache_dir(root) / f"{name}-{resolution}px-{version}.npy"
    return CachedArray.load_or_build(path, lambda: _render(jobs, resolution, room, samples))


def _render(jobs, resolution, room, samples) -> np.ndarray:
    intrinsics = cameras.centred_intrinsics(resolution, _FIELD_OF_VIEW)

    def render(job):
        weights = raymarch.render(*job, intrinsics, resolution, room=room, samples=samples)
        return np.rint(weights * 255).astype(np.uint8)

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(render, jobs)))
