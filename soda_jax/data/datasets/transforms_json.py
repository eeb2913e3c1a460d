"""Cameras and images of one object from `transforms.json`, the format of NeRF, Blender, instant-ngp, nerfstudio.

Read are, for the whole file or for a single frame, which wins:

- `camera_angle_x`, `camera_angle_y`: fields of view in radians, or
- `fl_x`, `fl_y`, `cx`, `cy`: focal lengths and principal point in pixels of an image of `w` x `h`
  (by default the image's own size). A missing fl_y equals fl_x, a missing principal point is the
  middle; images stored smaller or larger than w x h, in the same proportions, are scaled;
- `frames[].transform_matrix`: camera-to-world, x right, y up, looking along -z;
- `frames[].file_path`: relative to the file, with or without the extension;
- `scene_centre`, `scene_scale`: ours, optional: a point p of the world becomes (p - centre) * scale.

Lens distortion is refused: rays are straight lines here. A model of distortion whose coefficients are all zero has
none; fisheye and panoramic models bend rays also then.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Collection

import numpy as np

from soda_jax.data import cameras
from soda_jax.data.datasets.base import SPLITS

TRANSFORMS = "transforms.json"
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
# A split's own file, as NeRF's synthetic scenes have it; they say "val".
SPLIT_TRANSFORMS = {split: f"transforms_{'val' if split == 'validation' else split}.json" for split in SPLITS}
_FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
_LENS = (*_FOCAL, "cx", "cy", "w", "h")
# Of COLMAP's, OpenCV's, nerfstudio's and Metashape's models; some files call COLMAP's only coefficient "k".
_DISTORTION = (
    *("k", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "p3", "p4", "b1", "b2", "s1", "s2", "s3", "s4"),
    *("omega", "sx1", "sy1", "tx", "ty"),
)
_COEFFICIENTS = ("distortion", "distortion_params", "distortion_coefficients")  # lists of them
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
# With coefficients of zero these are pinholes.
_POLYNOMIALS = (
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "BROWN",
    "BROWN_CONRADY",
    "RADIAL_TANGENTIAL",
    "FOV",
)
_MAX_STRETCH = 0.02


@dataclasses.dataclass(frozen=True)
class Lens:
    """Intrinsics as the file gives them; see the module's docstring."""

    fl_x: float | None = None
    fl_y: float | None = None
    cx: float | None = None
    cy: float | None = None
    w: float | None = None
    h: float | None = None
    camera_angle_x: float | None = None
    camera_angle_y: float | None = None

    def intrinsics(self, height: int, width: int) -> np.ndarray:
        """float32 (fx, fy, cx, cy) in pixels of the stored image.

        Raises:
            ValueError: the image has other proportions than the camera.
        """
        x_scale = width / self.w if self.w else 1.0
        y_scale = height / self.h if self.h else x_scale
        if not self.w and self.h:
            x_scale = y_scale
        if abs(x_scale / y_scale - 1) > _MAX_STRETCH:
            raise ValueError(
                f"the image is {width} x {height}, its camera says w={self.w:g}, h={self.h:g}; images may be "
                "enlarged or reduced, but not cropped, rotated or stretched."
            )
        if self.fl_x or self.fl_y:
            fx, fy = (self.fl_x or self.fl_y) * x_scale, (self.fl_y or self.fl_x) * y_scale
        else:
            fx = width / 2 / math.tan(self.camera_angle_x / 2) if self.camera_angle_x else None
            fy = height / 2 / math.tan(self.camera_angle_y / 2) if self.camera_angle_y else None
            fx, fy = fx or fy, fy or fx
        cx = width / 2 if self.cx is None else self.cx * x_scale
        cy = height / 2 if self.cy is None else self.cy * y_scale
        return np.array([fx, fy, cx, cy], np.float32)


@dataclasses.dataclass(frozen=True)
class Frames:
    """The views of one object.

    Attributes:
        paths: the image files.
        poses: float32 [n, 4, 4], camera-to-world.
        lenses: the intrinsics of each view.
    """

    paths: tuple[str, ...]
    poses: np.ndarray
    lenses: tuple[Lens, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def without(self, paths: Collection[str]) -> "Frames":
        """The views whose images are not among `paths`."""
        kept = [number for number, path in enumerate(self.paths) if path not in paths]
        if len(kept) == len(self):
            return self
        return Frames(tuple(self.paths[i] for i in kept), self.poses[kept], tuple(self.lenses[i] for i in kept))


def read_json(file: pathlib.Path) -> dict:
    """The content of a transforms file.

    Raises:
        ValueError: the file is missing, not JSON, or has no frames.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({error.strerror or error}); export the object's cameras again."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); export the object's cameras again.") from None
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{file} has no list of 'frames'; export the object's cameras again.")
    return document


def read_frames(file: pathlib.Path, document: dict) -> Frames:
    """The views that a transforms file describes.

    Args:
        file: where it lies; image paths are relative to its folder.
        document: what `read_json` returned.

    Raises:
        ValueError: a camera or an image is missing or unusable, naming file, frame and remedy.
    """
    frames = document["frames"]
    try:
        lenses = tuple(_lens(document, frame) for frame in frames)
        poses = _poses(document, frames)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None
    return Frames(_image_files(file, frames), poses, lenses)


def read_credit(document: dict, name: str) -> str:
    """`title by creator (library)`, or as much of it as is written; "" without a creator or library.

    Args:
        document: what `read_json` returned.
        name: of the object, where it has no title.
    """
    title, creator, library = (
        text if isinstance(text := document.get(key), str) else "" for key in ("title", "creator", "library")
    )
    if not creator and not library:
        return ""
    return (title or name) + (f" by {creator}" if creator else "") + (f" ({library})" if library else "")


def _lens(document: dict, frame: dict) -> Lens:
    shared = document
    if any(key in frame for key in _FOCAL):
        shared = {key: value for key, value in document.items() if key not in _FOCAL}
    settings = {**shared, **frame}
    model = str(settings.get("camera_model", "PINHOLE")).upper()
    bent = [f"{key}={settings[key]}" for key in (*_DISTORTION, *_COEFFICIENTS) if _bends(settings.get(key))]
    if model not in (*_PINHOLES, *_POLYNOMIALS) or settings.get("is_fisheye"):
        bent.append(f"camera_model={model!r}")
    if bent:
        raise ValueError(
            f"its lens is distorted ({', '.join(bent)}); undistort the images first, for example with "
            "`colmap image_undistorter`, and give the pinhole camera of the result."
        )
    values = {key: float(settings[key]) for key in _LENS if settings.get(key) is not None}
    for key, value in values.items():
        if not math.isfinite(value) or (value <= 0 and key not in ("cx", "cy")):
            raise ValueError(f"{key}={value} must be a positive number.")
    if not any(key in values for key in _FOCAL):
        raise ValueError("it has no focal length; add 'camera_angle_x' (radians), or 'fl_x' (pixels) with 'w' and 'h'.")
    for key in ("camera_angle_x", "camera_angle_y"):
        if values.get(key, 0.0) >= math.pi:
            raise ValueError(f"{key}={values[key]} must be less than pi; it is an angle in radians.")
    return Lens(**values)


def _bends(coefficient: object) -> bool:
    """Whether a coefficient of distortion, or any of several, is another number than zero."""
    if isinstance(coefficient, dict):
        coefficient = list(coefficient.values())
    if isinstance(coefficient, list):
        return any(map(_bends, coefficient))
    try:
        return bool(float(coefficient or 0.0))
    except (TypeError, ValueError):
        return True


def _poses(document: dict, frames: list[dict]) -> np.ndarray:
    matrices = []
    for number, frame in enumerate(frames):
        try:
            matrix = np.array(frame.get("transform_matrix"), np.float64)
        except (TypeError, ValueError):  # Rows of different lengths, words.
            matrix = np.empty(0)
        if matrix.shape != (4, 4):
            raise ValueError(f"frame {number} has no 'transform_matrix' of 4 x 4 numbers; export the cameras again.")
        matrices.append(matrix)
    try:
        poses = cameras.check_rigid(np.stack(matrices))
    except ValueError as error:
        raise ValueError(
            f"{error} A 'transform_matrix' must be a camera-to-world rotation and translation (x right, y up, "
            "looking along -z); apply the scale to the translations, or export the cameras again."
        ) from None
    centre = np.array(document.get("scene_centre", (0.0, 0.0, 0.0)), np.float64)
    scale = float(document.get("scene_scale", 1.0))
    if centre.shape != (3,) or not np.isfinite(centre).all() or not 0 < scale < math.inf:
        raise ValueError(f"scene_centre={centre.tolist()} must be three numbers, scene_scale={scale} positive.")
    poses = poses.copy()
    poses[:, :3, 3] = (poses[:, :3, 3] - centre) * scale
    return poses.astype(np.float32)


def _image_files(file: pathlib.Path, frames: list[dict]) -> tuple[str, ...]:
    """The frames' image files.

    An extension is supplied where it is missing. A name that is there only with other capitals, as `a.JPG` for `a.jpg`,
    is taken if there is just one.
    """
    listings: dict[str, set[str]] = {}
    found, missing = [], []
    for frame in frames:
        given = str(frame.get("file_path", "")).replace("\\", "/")
        folder, name = os.path.split(os.path.normpath(os.path.join(file.parent, given)))
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        options = [name] if name.lower().endswith(EXTENSIONS) else []
        options += [name + extension for extension in (*EXTENSIONS, *(e.upper() for e in EXTENSIONS))]
        match = next((option for option in options if option in listings[folder]), None)
        if match is None:
            small = {option.lower() for option in options}
            others = [found for found in listings[folder] if found.lower() in small]
            match = others[0] if len(others) == 1 else None
        if match is None or not given:
            missing.append(given)
        else:
            found.append(os.path.join(folder, match))
    if missing:
        raise ValueError(
            f"{file}: {len(missing)} of its {len(frames)} images are missing, first {missing[0]!r} (as "
            f"{', '.join(EXTENSIONS)}); copy them beside it, or remove their frames."
        )
    return tuple(found)
