"""MPI3D (Gondal et al. 2019): a robot arm's object under seven factors.

Factor sizes, order and values are those of the dataset's README (github.com/rr-learning/disentanglement_dataset).
"""

import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from soda_jax.data.builders.base import ArchiveError, ManualBuilder, require_file, split_evenly

_SPLIT_SEED = 3
_SHAPE = (64, 64, 3)
_SIZES_AND_PLACES = {
    "object_size": ("small", "large"),
    "camera_height": ("top", "center", "bottom"),
    "background_color": ("purple", "sea green", "salmon"),
    "horizontal_axis": 40,
    "vertical_axis": 40,
}
_SIMPLE = {
    "object_color": ("white", "green", "red", "blue", "brown", "olive"),
    "object_shape": ("cone", "cube", "cylinder", "hexagonal", "pyramid", "sphere"),
    **_SIZES_AND_PLACES,
}
_COMPLEX = {
    "object_color": ("yellow", "green", "olive", "red"),
    "object_shape": ("coffee-cup", "tennis-ball", "croissant", "beer-cup"),
    **_SIZES_AND_PLACES,
}
FILES = {
    "toy": "mpi3d_toy.npz",
    "realistic": "mpi3d_realistic.npz",
    "real": "mpi3d_real.npz",
    "complex": "real3d_complicated_shapes_ordered.npz",
}


def _size(values: tuple[str, ...] | int) -> int:
    return values if isinstance(values, int) else len(values)


def _count(factors: Mapping[str, tuple[str, ...] | int]) -> int:
    return int(np.prod([_size(values) for values in factors.values()]))


class Mpi3dConfig(tfds.core.BuilderConfig):
    """One of the four sets.

    Attributes:
        factors: for each factor, slowest first, the names of its values, or their number.
        file: the official .npz.
    """

    def __init__(self, name: str, factors: Mapping[str, tuple[str, ...] | int]):
        super().__init__(name=name, description=f"MPI3D, {name}: {_count(factors):,} images of 64 px.")
        self.factors = factors
        self.file = FILES[name]


class Mpi3d(ManualBuilder):
    """`image` 64 x 64 and `factors`; no official splits, so 80/10/10 of a fixed permutation.

    The manual folder has the official .npz as it is: `images` uint8 [N, 64, 64, 3], the last factor fastest. It is
    read as a stream; the whole array would need 12.7 GB of memory.
    """

    BUILDER_CONFIGS = [
        Mpi3dConfig(name, _COMPLEX if name == "complex" else _SIMPLE)
        for name in ("toy", "realistic", "real", "complex")
    ]
    ITEMS_PER_SHARD = 20_000

    def _info(self) -> tfds.core.DatasetInfo:
        factors = {
            name: tfds.features.ClassLabel(
                **({"num_classes": values} if isinstance(values, int) else {"names": values})
            )
            for name, values in self.builder_config.factors.items()
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(64, 64, 3)), "factors": factors}),
            homepage="https://github.com/rr-learning/disentanglement_dataset",
        )

    def read_archive(self, manual_dir: pathlib.Path) -> dict[str, np.ndarray]:
        self._images = _ImageStream(require_file(manual_dir / self.builder_config.file))
        expected = _count(self.builder_config.factors)
        if self._images.count != expected:
            raise ArchiveError(
                f"{self.builder_config.file} has {self._images.count:,} images; the factors of mpi3d/"
                f"{self.builder_config.name} have {expected:,} combinations."
            )
        return split_evenly(expected, _SPLIT_SEED)

    def make_examples(self, items: Sequence[int]) -> Iterator[dict[str, Any]]:
        names = tuple(self.builder_config.factors)
        sizes = [_size(values) for values in self.builder_config.factors.values()]
        values = np.stack(np.unravel_index(np.asarray(items), sizes), axis=-1).tolist()
        for index, row in zip(np.asarray(items).tolist(), values, strict=True):
            _, png = cv2.imencode(".png", self._images[index][..., ::-1])
            yield {"image": png.tobytes(), "factors": dict(zip(names, row, strict=True))}


class _ImageStream:
    """Images of a .npz by index, for little memory; quick only if the indices rise.

    What lies between them is read too, as seeking would switch off zipfile's checksum.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._open()

    def _open(self) -> None:
        try:
            self._stream = zipfile.ZipFile(self._path).open("images.npy")
            version = np.lib.format.read_magic(self._stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran_order, dtype = read_header(self._stream)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ArchiveError(
                f"{self._path} is no .npz with an array `images` ({error}); download it again."
            ) from error
        if shape[1:] != _SHAPE or dtype != np.uint8 or fortran_order:
            raise ArchiveError(f"{self._path}: `images` is {dtype} {shape}, expected uint8 (N, 64, 64, 3) in C order.")
        self.count = shape[0]
        self._next = 0

    def __getitem__(self, index: int) -> np.ndarray:
        if index < self._next:
            self._open()
        size = int(np.prod(_SHAPE))
        try:
            while self._next <= index:
                content = self._stream.read(size)
                self._next += 1
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ArchiveError(f"{self._path} is damaged ({error}); download it again.") from error
        if len(content) != size:
            raise ArchiveError(f"{self._path} ends before image {index}; download it again.")
        return np.frombuffer(content, np.uint8).reshape(_SHAPE)
