"""Cameras around an object, as those that took the held-out images stood, and what the model sees from there."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from soda_jax.api import LoadedModel
from soda_jax.explorer.actions import PART, Report, Sampling, quiet
from soda_jax.explorer.images import Chosen, HeldOut
from soda_jax.inference.cameras import Cameras
from soda_jax.inference.turntable import orbit

_DEGREES = 360


@dataclasses.dataclass(frozen=True, eq=False)
class Around:
    """Cameras on a circle around the objects.

    Attributes:
      poses: [M, 4, 4] of known cameras.
      intrinsics: [M, 4] of theirs.
      image_size: (height, width) that the intrinsics belong to.
    """

    poses: np.ndarray
    intrinsics: np.ndarray
    image_size: tuple[int, int]

    @property
    def altitude(self) -> float:
        """The known cameras' median altitude above the horizon, in degrees."""
        return float(np.rad2deg(np.median(np.arcsin(np.clip(self.poses[:, 2, 2], -1, 1)))))

    def cameras(self, azimuths: Sequence[float], altitude: float) -> Cameras:
        """Cameras at azimuths and an altitude in degrees, with poses [1, V, 4, 4].

        Azimuths count from the -y side, counter-clockwise seen from above, and are rounded to whole degrees.
        """
        around = orbit(self.poses, self.intrinsics, _DEGREES, np.deg2rad(altitude))
        chosen = np.rint(azimuths).astype(int) % _DEGREES
        return Cameras(around.pose[chosen][None], around.intrinsics, self.image_size)


def around(held_out: HeldOut) -> Around | None:
    """Cameras like those of the held-out images; None where these have none."""
    cameras = held_out.cameras
    if cameras is None or len(held_out) == 0:
        return None
    poses = np.asarray(cameras.pose).reshape(-1, 4, 4)
    intrinsics = np.broadcast_to(cameras.intrinsics, (*np.shape(cameras.pose)[:-2], 4)).reshape(-1, 4)
    size = held_out.views.shape[2:4] if cameras.image_size is None else cameras.image_size
    return Around(poses, intrinsics, tuple(size))


def novel_views(
    model: LoadedModel,
    chosen: Chosen,
    place: Around,
    azimuths: Sequence[float],
    altitude: float,
    sources: int,
    sampling: Sampling,
    report: Report = quiet,
) -> np.ndarray:
    """The object from requested cameras, uint8 [V, H, W, 3]; all views have the same noise.

    Args:
      azimuths, altitude: in degrees.
      sources: how many of the chosen views the model sees, from the first on.

    Raises:
      ValueError: the model takes no cameras, needs those of the sources where they are unknown, or there are fewer
        views.
    """
    views = len(chosen.views)
    if not 1 <= sources <= views:
        raise ValueError(f"sources={sources}: {chosen.name} has {views} views; give 1 to {views}")
    known, mask = chosen.cameras, (np.arange(views) < sources)[None]
    if known is not None:
        known = dataclasses.replace(known, pose=known.pose[None], intrinsics=_with_axis(known.intrinsics))
    drawn = []
    for first in range(0, len(azimuths), PART):
        part = azimuths[first : first + PART]
        drawn.append(
            model.novel_view(
                chosen.views[None],
                known,
                place.cameras(part, altitude),
                sampling.guidance,
                sampling.steps,
                view_mask=mask,
                seed=sampling.seed,
                method=sampling.method,
            )[0]
        )
        report(first + len(part), len(azimuths))
    return np.concatenate(drawn)


def _with_axis(intrinsics: np.ndarray) -> np.ndarray:
    """Intrinsics [n, 4] of one object as [1, n, 4]; those of all cameras, [4], stay."""
    return intrinsics[None] if np.ndim(intrinsics) > 1 else intrinsics
