"""Cameras as a user of `soda_jax.load` gives them: checked, and following images through their crop and resizing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from soda_jax.data import transforms
from soda_jax.data.cameras import check_rigid
from soda_jax.models.pose import Camera, PoseEncoding


@dataclasses.dataclass(frozen=True, eq=False)
class Cameras:
    """Where images were taken from, or are to be seen from.

    Attributes:
      pose: [..., 4, 4] camera-to-world: x right, y up, looking along -z; world z up. `soda_jax.data.cameras` makes them
        (`look_at`, `orbit`) and converts OpenCV's (`from_opencv`).
      intrinsics: [..., 4], or [4] for all: (fx, fy, cx, cy) in pixels, pixel centres at +.5.
      image_size: (height, width) of the images that the intrinsics belong to. By default the size of the images given,
        and where there are none that of the model's own.
    """

    pose: np.ndarray
    intrinsics: np.ndarray
    image_size: tuple[int, int] | None = None


def source_camera(
    given: Cameras | Mapping[str, Any], pose: PoseEncoding | None, *, images_shape: tuple[int, ...], resolution: int
) -> Camera:
    """Cameras of images [N, H, W, 3] or [N, n, H, W, 3], as the encoder takes them: leading axes [N, n].

    Raises:
      ValueError: the model takes no cameras, or they are not as `Cameras` describes, or not one for each image.
    """
    leading = images_shape[:-3]
    camera = _camera("cameras", given, pose, images_shape[-3:-1], resolution)
    if camera.pose.shape[:-2] != leading:
        wanted = ", ".join(map(str, leading))
        raise ValueError(f"cameras.pose has shape {camera.pose.shape}; give [{wanted}, 4, 4], one for each image")
    views = leading if len(leading) == 2 else (*leading, 1)
    return Camera(pose=camera.pose.reshape(*views, 4, 4), intrinsics=camera.intrinsics.reshape(*views, 4))


def target_camera(
    given: Cameras | Mapping[str, Any],
    pose: PoseEncoding | None,
    *,
    image_size: tuple[int, int],
    resolution: int,
    num_objects: int | None,
    reference: np.ndarray | None,
) -> Camera:
    """Requested cameras as the denoiser takes them, leading axes [N] or [N, m] as given.

    Args:
      image_size: (height, width) of the images that the intrinsics belong to, where the cameras do not say.
      num_objects: N; None takes any.
      reference: [N, 4, 4] poses of the first sources; None where they are unknown.

    Raises:
      ValueError: as for `source_camera`; or the model needs the reference that is unknown.
    """
    camera = _camera("target_cameras", given, pose, image_size, resolution)
    leading = camera.pose.shape[:-2]
    if len(leading) not in (1, 2) or 0 in leading or num_objects not in (None, leading[0]):
        count = "N" if num_objects is None else num_objects
        raise ValueError(
            f"target_cameras.pose has shape {camera.pose.shape}; give [{count}, 4, 4], or [{count}, m, 4, 4] for m "
            "views of each object"
        )
    if not pose.needs_reference:
        return camera
    if reference is None:
        if pose.relative or pose.vector == "relative":
            raise ValueError(
                "target_cameras: this model relates them to the first source's camera, which is unknown; give images "
                "with their cameras, or neither cameras nor target_cameras"
            )
        eye = np.broadcast_to(np.eye(4, dtype=np.float32), camera.pose.shape)
        return camera._replace(reference=eye, reference_mask=np.zeros(leading, bool))
    repeated = reference.reshape(leading[0], *(1,) * (len(leading) - 1), 4, 4)
    return camera._replace(
        reference=np.broadcast_to(repeated, camera.pose.shape), reference_mask=np.ones(leading, bool)
    )


def shown_camera(
    pose: PoseEncoding, count: int, camera: Camera | None, mask: np.ndarray | None
) -> tuple[Camera, np.ndarray]:
    """(cameras with every field that `pose` reads, which of them count [count] as float32).

    No camera becomes a hidden one, so that one compiled program serves requests with and without cameras.
    """
    if camera is None:
        if mask is not None and np.any(mask):
            raise ValueError("pose_mask shows poses, but target_camera is None; give it")
        eye = np.broadcast_to(np.eye(4, dtype=np.float32), (count, 4, 4))
        four = np.ones((count, 4), np.float32)
        camera = Camera(eye, four, four, eye, np.zeros(count, bool))
        mask = np.zeros(count)
    fields = {name: getattr(camera, name) for name in (*pose.fields, *(("reference",) * pose.needs_reference))}
    missing = [name for name, value in fields.items() if value is None]
    if missing:
        why = " (the pose of the first source, which this model relates targets to)" if "reference" in missing else ""
        raise ValueError(f"target_camera has no {', '.join(missing)}{why}; give it, or no target_camera")
    fields = {name: np.asarray(value, np.float32) for name, value in fields.items()}
    if pose.needs_reference:
        shown = camera.reference_mask
        fields["reference_mask"] = np.ones(count, bool) if shown is None else np.asarray(shown, bool)
    return Camera(**fields), np.ones(count, np.float32) if mask is None else np.asarray(mask, np.float32)


def _camera(
    name: str,
    given: Cameras | Mapping[str, Any],
    pose: PoseEncoding | None,
    image_size: tuple[int, int],
    resolution: int,
) -> Camera:
    """Checked cameras of images that are centre-cropped and resized to `resolution`, with the leading axes given."""
    if pose is None or not pose.needs_cameras:
        takes = "no poses" if pose is None else "places in the image, not cameras"
        raise ValueError(f"{name} is given, but this model takes {takes} (config.model.pose); leave it out")
    cameras = _as_cameras(name, given)
    matrices = _numbers(f"{name}.pose", cameras.pose)
    try:
        check_rigid(matrices)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    intrinsics = _numbers(f"{name}.intrinsics", cameras.intrinsics)
    leading = matrices.shape[:-2]
    if intrinsics.shape not in ((4,), (*leading, 4)):
        wanted = ", ".join(map(str, (*leading, 4)))
        raise ValueError(
            f"{name}.intrinsics has shape {intrinsics.shape}; give (fx, fy, cx, cy) as [4], or as [{wanted}] to match "
            "the poses"
        )
    if not np.isfinite(intrinsics).all() or (intrinsics[..., :2] <= 0).any():
        raise ValueError(f"{name}.intrinsics must be finite, with focal lengths fx and fy above 0, in pixels")
    size = image_size if cameras.image_size is None else _checked_size(name, cameras.image_size)
    crop = transforms.centre_crop(*size)
    cropped = [transforms.crop_intrinsics(row, crop, resolution) for row in intrinsics.reshape(-1, 4)]
    cropped = np.reshape(cropped, intrinsics.shape)
    return Camera(matrices.astype(np.float32), np.broadcast_to(cropped, (*leading, 4)))


def _as_cameras(name: str, given: Any) -> Cameras:
    if isinstance(given, Cameras):
        return given
    fields = {field.name for field in dataclasses.fields(Cameras)}
    if not isinstance(given, Mapping) or not {"pose", "intrinsics"} <= set(given) <= fields:
        found = f"the keys {', '.join(map(str, given))}" if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"{name} is {found}; give soda_jax.Cameras, or a dict with pose and intrinsics")
    return Cameras(**given)


def _numbers(name: str, values: Any) -> np.ndarray:
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise ValueError(f"{name} holds {values.dtype}; give numbers")
    return values.astype(np.float64)


def _checked_size(name: str, size: Any) -> tuple[int, int]:
    sides = np.asarray(size)
    if sides.shape != (2,) or not np.issubdtype(sides.dtype, np.integer) or (sides < 1).any():
        raise ValueError(f"{name}.image_size={size}: give (height, width) in pixels")
    return int(sides[0]), int(sides[1])
