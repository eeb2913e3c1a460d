"""Objects seen from known cameras, as records of single views.

A record is one view, not one object: an object of ShapeNet has 120 views, some 3 MB, of which an example uses a few.
An object's views follow one another, and the metadata say how many there are of each, so that reading a view costs one
access. All views of an object are in one split.
"""

import abc
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from soda_jax.data.builders.base import (
    SPLITS,
    ArchiveError,
    ManualBuilder,
    find_folder,
    read_image_bytes,
    require_file,
)
from soda_jax.data.datasets import transforms_json
from soda_jax.data.datasets.base import split_of
from soda_jax.data.datasets.splits_json import SPLIT_FILE, read_splits
from soda_jax.data.decode import EncodedImage


class Thing(NamedTuple):
    """One object of an archive: its name, class (-1: none), number of views, and where it lies."""

    name: str
    label: int
    num_views: int
    path: pathlib.Path


class View(NamedTuple):
    """One view: encoded image, camera-to-world pose [4, 4] (OpenGL), intrinsics (fx, fy, cx, cy) in pixels."""

    image: bytes
    pose: np.ndarray
    intrinsics: np.ndarray


class MultiViewBuilder(ManualBuilder, skip_registration=True):
    """Base: records of `image`, `pose` and `intrinsics`; metadata `objects` by split and `classes`."""

    HOMEPAGE = ""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "pose": tfds.features.Tensor(shape=(4, 4), dtype=np.float32),
            "intrinsics": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(),
        )

    @abc.abstractmethod
    def find_things(self, manual_dir: pathlib.Path) -> tuple[Mapping[str, list[Thing]], Sequence[str]]:
        """The objects of every split, and the names of their classes (empty: there are none)."""

    @abc.abstractmethod
    def read_views(self, thing: Thing) -> Iterator[View]:
        """All views of one object, in order."""

    def read_archive(self, manual_dir: pathlib.Path) -> dict[str, list[Thing]]:
        splits, classes = self.find_things(manual_dir)
        self.info.metadata["classes"] = list(classes)
        self.info.metadata["objects"] = {
            split: {
                "names": [thing.name for thing in things],
                "labels": [thing.label for thing in things],
                "num_views": [thing.num_views for thing in things],
            }
            for split, things in splits.items()
        }
        return dict(splits)

    def make_examples(self, items: Sequence[Thing]) -> Iterator[dict[str, Any]]:
        for thing in items:
            count = 0
            for view in self.read_views(thing):
                yield {
                    "image": view.image,
                    "pose": np.asarray(view.pose, np.float32),
                    "intrinsics": np.asarray(view.intrinsics, np.float32),
                }
                count += 1
            if count != thing.num_views:
                raise ArchiveError(f"{thing.path} has {count} views, expected {thing.num_views}; unpack it again.")


class Nmr(MultiViewBuilder):
    """NMR: ShapeNet's 13 largest classes in 24 views of 64 px (Kato et al. 2018), packed by DVR (Niemeyer et al. 2020).

    The manual folder has `NMR_Dataset` or its content: CLASS/softras_{train,val,test}.lst, which name the objects, and
    CLASS/OBJECT/{image/0000.png .. 0023.png, cameras.npz}.
    """

    HOMEPAGE = "https://github.com/autonomousvision/differentiable_volumetric_rendering"
    ITEMS_PER_SHARD = 1000
    NUM_VIEWS = 24
    CLASSES = {
        "02691156": "airplane",
        "02828884": "bench",
        "02933112": "cabinet",
        "02958343": "car",
        "03001627": "chair",
        "03211117": "display",
        "03636649": "lamp",
        "03691459": "loudspeaker",
        "04090263": "rifle",
        "04256520": "sofa",
        "04379243": "table",
        "04401088": "telephone",
        "04530566": "vessel",
    }

    def find_things(self, manual_dir: pathlib.Path) -> tuple[dict[str, list[Thing]], list[str]]:
        root = find_folder(manual_dir, ("NMR_Dataset", ""), "02691156/softras_train.lst")
        splits: dict[str, list[Thing]] = {}
        for split, file in (("train", "train"), ("validation", "val"), ("test", "test")):
            splits[split] = []
            for label, wordnet_id in enumerate(self.CLASSES):
                names = require_file(root / wordnet_id / f"softras_{file}.lst").read_text().split()
                splits[split] += [
                    Thing(f"{wordnet_id}/{name}", label, self.NUM_VIEWS, root / wordnet_id / name) for name in names
                ]
        return splits, list(self.CLASSES.values())

    def read_views(self, thing: Thing) -> Iterator[View]:
        with np.load(require_file(thing.path / "cameras.npz")) as cameras:
            matrices = dict(cameras)
        for i in range(thing.num_views):
            image = read_image_bytes(thing.path / "image" / f"{i:04d}.png")
            try:
                world, camera = matrices[f"world_mat_{i}"], matrices[f"camera_mat_{i}"]
            except KeyError as error:
                raise ArchiveError(f"{thing.path / 'cameras.npz'} has no {error}; unpack the archive again.") from error
            yield View(image, *dvr_camera(world, camera, *EncodedImage(image).shape[:2]))


class RenderedObjects(MultiViewBuilder):
    """What `soda_jax.tools.render_objects` writes: splits.json, and a folder with transforms.json for every object.

    The manual folder is that folder, or has it as `rendered_objects`. The class is the "category", if all have one.
    """

    ITEMS_PER_SHARD = 100

    def find_things(self, manual_dir: pathlib.Path) -> tuple[dict[str, list[Thing]], list[str]]:
        root = find_folder(manual_dir, (self.name, ""), "splits.json")
        splits: dict[str, list[Thing]] = {split: [] for split in SPLITS}
        categories: dict[str, str | None] = {}
        try:
            listed = read_splits(root / SPLIT_FILE)
        except ValueError as error:
            raise ArchiveError(str(error)) from error
        for written, names in listed.items():
            split = split_of(written)
            if split is None:
                raise ArchiveError(f"{root / 'splits.json'} has {written!r}; name its parts {', '.join(SPLITS)}.")
            for name in names:
                document = transforms_json.read_json(root / name / transforms_json.TRANSFORMS)
                categories[name] = document.get("category")
                splits[split].append(Thing(name, -1, len(document["frames"]), root / name))
        if None in categories.values():
            return splits, []
        classes = sorted(set(categories.values()))
        return {
            split: [thing._replace(label=classes.index(categories[thing.name])) for thing in things]
            for split, things in splits.items()
        }, classes

    def read_views(self, thing: Thing) -> Iterator[View]:
        file = thing.path / transforms_json.TRANSFORMS
        frames = transforms_json.read_frames(file, transforms_json.read_json(file))
        for path, pose, lens in zip(frames.paths, frames.poses, frames.lenses, strict=True):
            image = read_image_bytes(pathlib.Path(path))
            yield View(image, pose, lens.intrinsics(*EncodedImage(image, path).shape[:2]))


class Shapenet(RenderedObjects):
    """ShapeNetCore (Chang et al. 2015), rendered by `soda_jax.tools.render_objects`, see RenderedObjects."""

    HOMEPAGE = "https://shapenet.org"


class Gso(RenderedObjects):
    """Google Scanned Objects (Downs et al. 2022), rendered by `soda_jax.tools.render_objects`, see RenderedObjects."""

    HOMEPAGE = "https://app.gazebosim.org/GoogleResearch/fuel/collections/Scanned%20Objects%20by%20Google%20Research"


# DVR's world has y up, ours z: (x, y, z) -> (x, -z, y). Its cameras look along z with y down, as OpenCV's.
_Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)
_OPENGL = np.diag([1.0, -1, -1, 1])


def dvr_camera(world_mat: np.ndarray, camera_mat: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Camera-to-world pose [4, 4] and intrinsics (fx, fy, cx, cy) of DVR's two matrices.

    `world_mat` [3 or 4, 4] takes the world to the camera; `camera_mat` projects onto an image that spans [-1, 1]^2,
    whatever its size. So says DVR's FAQ.md. It calls (-1, -1) the bottom left, but im2mesh/common.py samples that place
    from the first row, pixelNeRF (src/data/DVRDataset.py) and SRT (srt/data/nmr.py) read the cameras with y down too,
    and the matrices agree: the world's up, (0, 1, 0), has a negative y in the camera's frame. Like pixelNeRF we let
    the image's edges be -1 and 1, where DVR's sampling has the centres of the outermost pixels.
    """
    to_camera = np.eye(4)
    to_camera[: len(world_mat)] = world_mat
    pose = _Z_UP @ np.linalg.inv(to_camera) @ _OPENGL
    intrinsics = [
        camera_mat[0, 0] * width / 2,
        camera_mat[1, 1] * height / 2,
        (1 + camera_mat[0, 2]) * width / 2,
        (1 + camera_mat[1, 2]) * height / 2,
    ]
    return pose, np.array(intrinsics)
