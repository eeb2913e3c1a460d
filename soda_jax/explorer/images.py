"""Images to explore: held-out ones of the model's data, those of a folder, and what a user uploads."""

import dataclasses
import os
import pathlib

import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.api import LoadedModel
from soda_jax.data.decode import EncodedImage
from soda_jax.data.pipeline import eval_batches
from soda_jax.inference.cameras import Cameras
from soda_jax.inference.image_files import read_images
from soda_jax.inference.requests import source_views

MOST = 256  # held-out images, spread over their split: all are encoded to find the extremes of a direction
MOST_BYTES = 25 << 20  # of an upload
_MOST_PIXELS = 50_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """An image, or an object that several images show.

    Attributes:
      views: uint8 [n, h, w, 3], of the size that the encoder reads.
      cameras: that took them, with leading axis [n]; None: unknown.
      name: what the page calls it; whom it is owed to, where that is known.
    """

    views: np.ndarray
    cameras: Cameras | None
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Images that the model was not trained on.

    Attributes:
      views: uint8 [N, n, h, w, 3], of the size that the encoder reads; N may be 0.
      cameras: that took them, with leading axes [N, n]; None: unknown.
      origin: where they come from, in a few words.
      names: of each, as of `Chosen`; () numbers them.
    """

    views: np.ndarray
    cameras: Cameras | None = None
    origin: str = ""
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, row: int) -> Chosen:
        """One of them; IndexError beyond the last."""
        cameras = self.cameras
        if cameras is not None:
            intrinsics = np.asarray(cameras.intrinsics)
            cameras = dataclasses.replace(
                cameras, pose=cameras.pose[row], intrinsics=intrinsics[row] if intrinsics.ndim > 1 else intrinsics
            )
        return Chosen(self.views[row], cameras, self.names[row] if self.names else f"held-out image {row}")

    def rows(self, count: int, seed: int) -> np.ndarray:
        """The places of `count` of them, or of all where there are fewer, drawn without repetition, in order."""
        drawn = np.random.default_rng(seed).permutation(len(self))[:count]
        return np.sort(drawn)


def find(model: LoadedModel, folder: str = "", limit: int = MOST) -> tuple[HeldOut, str]:
    """Held-out images for a model, and a line that says which they are, or why there are none.

    Of `folder` where one is named; else those that the model carries, else those of the run's dataset.

    Raises:
      ValueError: the folder is missing, or holds no image.
      DecodeError: one of its images cannot be decoded.
    """
    if folder:
        images, _ = read_images(folder, model.config.data.source_resolution, limit)
        return HeldOut(images[:, None], None, f"the folder {folder}"), f"{len(images)} images of {folder}"
    if (carried := of_examples(model)) is not None:
        return carried, f"{len(carried)} held-out images that the model carries"
    try:
        found = of_run(model.config, limit)
    except (ValueError, OSError, ImportError) as error:
        none = np.zeros((0, 1, *(model.config.data.source_resolution,) * 2, 3), np.uint8)
        return HeldOut(none), f"no held-out images: the run's dataset cannot be read here ({error}); give --images"
    return found, f"{len(found)} held-out images of {found.origin}"


def of_examples(model: LoadedModel) -> HeldOut | None:
    """The images that a model carries; None where it carries none."""
    try:
        examples = model.examples
    except ValueError:
        return None
    data, size, cameras = model.config.data, np.shape(examples.images)[-3:-1], examples.cameras
    if cameras is not None and cameras.image_size is None:
        cameras = dataclasses.replace(cameras, image_size=size)  # which the resizing below would hide
    owed = zip(examples.credits, examples.licenses, strict=True)
    names = tuple(f"{credit} ({license_id})" if license_id else credit for credit, license_id in owed)
    return HeldOut(source_views(examples.images, data.source_resolution, data.eval_crop), cameras, data.name, names)


def of_run(config: ConfigDict, limit: int) -> HeldOut:
    """At most `limit` images of the split that the run's evaluation scores, spread over it.

    Raises:
      ValueError, OSError: the dataset is not here.
    """
    split = config_lib.scored_split(config)
    dataset, spec = build.dataset(config, split), build.view_spec(config)
    batch = next(iter(eval_batches(dataset, spec, batch_size=min(limit, len(dataset)), limit=limit)))
    batch = {name: value[batch["mask"]] for name, value in batch.items()}
    cameras = Cameras(batch["source_pose"], batch["source_intrinsics"]) if "source_pose" in batch else None
    return HeldOut(batch["source"], cameras, f"{config.data.name} ({split})")


def of_upload(path: str | os.PathLike, model: LoadedModel) -> Chosen:
    """The image that a user uploaded, cropped and resized as evaluation does it.

    Raises:
      ValueError: the file is too large, or no image that can be decoded; the message has its name alone.
    """
    data, file = model.config.data, pathlib.Path(path)
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{file.name} has {size / 1e6:.0f} MB: give an image below {MOST_BYTES / 1e6:.0f} MB")
    image = EncodedImage(os.fspath(file), file.name)
    height, width, _ = image.shape
    if height * width > _MOST_PIXELS:
        raise ValueError(f"{file.name} has {width} x {height} pixels: make it smaller first")
    decoded = image.decode(image.reduction(min(height, width) * data.eval_crop / data.source_resolution))
    return Chosen(source_views(decoded[None], data.source_resolution, data.eval_crop)[0], None, file.name)
