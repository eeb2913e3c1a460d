"""Turntables: held-out objects seen from all around, by cameras that the model is asked for."""

import math
from typing import NamedTuple

import numpy as np
from einops import rearrange, repeat
from PIL import Image

from soda_jax import inputs
from soda_jax.data import cameras
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.grids import display_side, image_grid
from soda_jax.inference.pictures import Picture, PictureContext

SECONDS = 4.0  # for one turn
_HIGHEST_ALTITUDE = np.deg2rad(85.0)  # straight above, no camera is upright


def picture(context: PictureContext) -> Picture | None:
    """The turntable of the first held-out objects; None where the model takes no cameras, or of no views."""
    pose, settings = context.inference.model.pose, context.settings
    if pose is None or not pose.needs_cameras or settings.turntable_views == 0:
        return None
    altitude = settings.turntable_altitude
    turntable = Turntable(
        context.inference,
        context.dataset,
        context.spec,
        count=settings.num_images,
        num_views=settings.turntable_views,
        altitude=None if altitude is None else math.radians(altitude),
    )
    drawn = turntable.draw(context.variables, seed=context.seed)
    return Picture(drawn.strip(), drawn.frames(), SECONDS)


class Orbit(NamedTuple):
    """Cameras around the vertical through the place that a dataset's cameras look at.

    Attributes:
      azimuth: [V] radians.
      pose: float32 [V, 4, 4].
      intrinsics: float32 [4].
    """

    azimuth: np.ndarray
    pose: np.ndarray
    intrinsics: np.ndarray


def orbit(pose: np.ndarray, intrinsics: np.ndarray, num_views: int, altitude: float | None = None) -> Orbit:
    """An orbit typical of the given cameras.

    Its centre is the point closest to all their viewing axes (of several such points, the one closest to the origin);
    distance from it, altitude and intrinsics are the cameras' medians.

    Args:
      pose: [M, 4, 4]; intrinsics: [M, 4] for images of one size.
      num_views: V, evenly spaced in azimuth.
      altitude: radians above the horizon, in place of the median.
    """
    position, axis = pose[:, :3, 3].astype(np.float64), pose[:, :3, 2].astype(np.float64)
    across = np.eye(3) - axis[:, :, None] * axis[:, None, :]  # |across (p - position)|: p's distance from an axis
    moment = (across @ position[:, :, None]).sum(axis=0)[:, 0]
    centre = np.linalg.lstsq(across.sum(axis=0), moment, rcond=1e-4)[0]
    offset = position - centre
    radius = np.linalg.norm(offset, axis=-1)
    if altitude is None:
        altitude = float(np.median(np.arcsin(offset[:, 2] / np.maximum(radius, 1e-9))))
    azimuth = 2 * np.pi * np.arange(num_views) / num_views
    limited = np.clip(altitude, -_HIGHEST_ALTITUDE, _HIGHEST_ALTITUDE)
    around = cameras.orbit(azimuth, limited, np.median(radius), centre)
    return Orbit(azimuth, around.astype(np.float32), np.median(intrinsics, axis=0).astype(np.float32))


class DrawnTurntable(NamedTuple):
    """A drawn turntable.

    Attributes:
      sources: uint8 [N, n, h, w, 3].
      views: uint8 [V, N, H, W, 3].
      azimuth: [V] radians.
    """

    sources: np.ndarray
    views: np.ndarray
    azimuth: np.ndarray

    def strip(self) -> np.ndarray:
        """All views in one picture, an object a row: sources, then views under their azimuths; uint8 [H, W, 3]."""
        number = self.sources.shape[1]
        captions = ["source"] if number == 1 else [f"source {i + 1}" for i in range(number)]
        columns = {caption: self.sources[:, i] for i, caption in enumerate(captions)}
        degrees = np.rad2deg(self.azimuth)
        return image_grid(columns | {f"{d:.4g}°": view for d, view in zip(degrees, self.views, strict=True)})

    def frames(self) -> list[np.ndarray]:
        """A picture for each view: the first source of every object side by side, and below them the views."""
        side = display_side(max(self.sources.shape[2], self.views.shape[2]))
        sources = _side_by_side(self.sources[:, 0], side)
        return [np.concatenate([sources, _side_by_side(view, side)]) for view in self.views]


class Turntable:
    """Draws fixed held-out objects from cameras on one orbit, typical of the cameras that took their views.

    Args:
      inference: encoder and sampler of a model that takes cameras.
      dataset, spec: the split and its views, of policy "camera".
      count: objects.
      num_views: cameras on the orbit.
      altitude: of the orbit, in radians; by default that of the cameras.
    """

    def __init__(
        self,
        inference: Inference,
        dataset: Dataset,
        spec: ViewSpec,
        *,
        count: int,
        num_views: int,
        altitude: float | None = None,
    ):
        self._inference = inference
        self._batch = next(iter(eval_batches(dataset, spec, batch_size=count, limit=count)))
        # The targets' intrinsics alone: sources may have another resolution.
        pose = np.concatenate([self._batch["source_pose"], self._batch["target_pose"][:, None]], axis=1)
        pose = rearrange(pose, "b n i j -> (b n) i j")
        self._orbit = orbit(pose, self._batch["target_intrinsics"], num_views, altitude)

    def draw(self, variables: Variables, seed: int = 0) -> DrawnTurntable:
        """Samples every view of every object."""
        batch, around = self._batch, self._orbit
        count = len(batch["target"])
        source_conditions, _ = self._inference.conditions(batch)
        z = self._inference.encode(variables, batch["source"], batch["source_mask"], **source_conditions)
        number = len(around.pose)
        cameras_of = ("source_mask", "source_pose", "source_intrinsics")
        requested = {key: repeat(batch[key], "n ... -> (v n) ...", v=number) for key in cameras_of}
        requested["target_pose"] = repeat(around.pose, "v i j -> (v n) i j", n=count)
        requested["target_intrinsics"] = np.broadcast_to(around.intrinsics, (number * count, 4))
        _, target_conditions = self._inference.conditions(requested)
        # An object keeps its index and so its noise in all views: what its sources leave open does not flicker.
        indices = repeat(np.arange(count), "n -> (v n)", v=number)
        z = repeat(z, "n ... -> (v n) ...", v=number)
        views = inputs.to_uint8(
            self._inference.sample(variables, z, seed=seed, indices=indices, **target_conditions)["images"]
        )
        real = batch["mask"]
        return DrawnTurntable(
            batch["source"][real], rearrange(views, "(v n) h w c -> v n h w c", v=number)[:, real], around.azimuth
        )


def _side_by_side(images: np.ndarray, side: int) -> np.ndarray:
    tiles = [Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST) for image in images]
    return np.concatenate([np.asarray(tile) for tile in tiles], axis=1)
