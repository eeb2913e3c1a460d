"""From a batch's uint8 images and camera matrices to what the networks take; runs on the device."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.models.pose import Camera, PoseEncoding, first_present

VIEWS = ("source", "target")

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalise_source(images: jax.Array) -> jax.Array:
    """uint8 [..., 3] -> float32, by ImageNet's mean and standard deviation (SODA Appendix D.2)."""
    return (images.astype(jnp.float32) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD


def normalise_target(images: jax.Array) -> jax.Array:
    """uint8 [..., 3] in 0..255 -> float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """float [..., 3] in [-1, 1] -> uint8 in 0..255."""
    return np.clip(np.rint((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def pose_keys(pose: PoseEncoding | None, views: tuple[str, ...] = VIEWS) -> tuple[str, ...]:
    """Keys of a batch that a model with this pose encoding reads of `views` besides the images."""
    return () if pose is None else tuple(f"{view}_{field}" for view in views for field in pose.fields)


def check_pose_keys(batch: Mapping[str, jax.Array], pose: PoseEncoding | None, views: tuple[str, ...] = VIEWS) -> None:
    """Raises ValueError, with the remedy, if the batch lacks what the model's pose encoding needs of `views`."""
    missing = [key for key in pose_keys(pose, views) if key not in batch]
    if missing:
        remedy = (
            "use config.data.view_policy='camera' on a set with cameras, or set config.model.pose.grid and "
            "config.model.pose.vector to 'none'"
            if pose.needs_cameras
            else "use a config.data.view_policy other than 'camera', or set config.model.pose.grid='none'"
        )
        raise ValueError(f"the batch has no {', '.join(missing)}, which this model's poses need: {remedy}")


def source_conditions(batch: Mapping[str, jax.Array], pose: PoseEncoding | None) -> dict[str, Any]:
    """What `encode` is told of the sources besides their images: cameras, and the mask of hidden ones if it is given.

    None of it for a model without poses. `_mask` keys of the batch are bool: `source_pose_mask` [B, n].
    """
    if pose is None:
        return {}
    return {"source_camera": source_camera(batch, pose), "source_pose_mask": batch.get("source_pose_mask")}


def target_conditions(batch: Mapping[str, jax.Array], pose: PoseEncoding | None) -> dict[str, Any]:
    """What `denoise` is told of the targets: cameras, and `pose_mask` [B] of hidden ones if the batch has it."""
    if pose is None:
        return {}
    return {"target_camera": target_camera(batch, pose)} | (
        {"pose_mask": batch["pose_mask"]} if "pose_mask" in batch else {}
    )


def source_camera(batch: Mapping[str, jax.Array], pose: PoseEncoding) -> Camera:
    """The cameras of a batch's sources, leading axes [B, n]; needs `source_mask` and the keys of `pose_keys`.

    The reference of every source is the first present one, hidden from none: an example's own mask decides.
    """
    views = batch["source_mask"].shape[1]
    reference = _reference(batch, pose)
    return _camera(batch, pose, "source")._replace(
        reference=None if reference is None else reference[:, None].repeat(views, axis=1)
    )


def target_camera(batch: Mapping[str, jax.Array], pose: PoseEncoding) -> Camera:
    """The cameras of a batch's targets, leading axis [B]; needs `source_mask` and the keys of `pose_keys`.

    Where the batch hides the pose of the first present source (`source_pose_mask`, bool [B, n]), it is hidden too.
    """
    reference_mask = None
    if pose.needs_reference and "source_pose_mask" in batch:
        reference_mask = first_present(batch["source_pose_mask"], batch["source_mask"])
    return _camera(batch, pose, "target")._replace(reference=_reference(batch, pose), reference_mask=reference_mask)


def _camera(batch: Mapping[str, jax.Array], pose: PoseEncoding, view: str) -> Camera:
    check_pose_keys(batch, pose, ("source", view) if pose.needs_reference else (view,))
    return Camera(**{field: batch[f"{view}_{field}"] for field in pose.fields})


def _reference(batch: Mapping[str, jax.Array], pose: PoseEncoding) -> jax.Array | None:
    return first_present(batch["source_pose"], batch["source_mask"]) if pose.needs_reference else None
