"""Features of any number of images in one .npz file, without holding them in memory."""

import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from soda_jax.paths import replaced

MEMORY = 256 << 20  # bytes of features that stay in memory until the file is written
_CHUNK = 16 << 20
_NAMES = 4096  # written together


class FeatureFile:
    """Writes `features` float32 [N, d], `files` [N] (text) and `about` (a JSON text) as arrays of an .npz file.

    The number of rows stands before them in the file, and is known at the end. So rows wait in memory and, beyond
    `MEMORY`, in a nameless file beside the result, which takes as much disk again while the result is written.

    Args:
      path: the file, which appears when it is complete: it is written under another name, and then renamed.

    Raises:
      OSError: its folder cannot be written, or the disk is full.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = pathlib.Path(path)
        self._files: list[str] = []
        self._width: int | None = None
        self._rows = tempfile.SpooledTemporaryFile(max_size=MEMORY, dir=self._path.absolute().parent)

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def __len__(self) -> int:
        return len(self._files)

    @property
    def width(self) -> int:
        """d; 0 before the first rows."""
        return self._width or 0

    def append(self, features: np.ndarray, files: Sequence[str]) -> None:
        """Adds rows [n, d] and what they are of.

        Raises:
          ValueError: they are no rows of the same width as before, not as many as the files, or not finite.
        """
        features = np.ascontiguousarray(features, "<f4")
        if features.ndim != 2 or len(features) != len(files) or self._width not in (None, features.shape[1]):
            raise ValueError(
                f"features {features.shape} of {len(files)} files: give [n, {self._width or 'd'}], a row each"
            )
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the features of {files[int(finite.argmin())]!r} are not finite: the weights diverged or are damaged; "
                "take another checkpoint"
            )
        self._width = features.shape[1]
        self._rows.write(features.data)
        self._files += files

    def finish(self, about: Mapping[str, Any]) -> None:
        """Writes the file; `about` says what made it."""
        with replaced(self._path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as member:
                _header(member, np.dtype("<f4"), (len(self), self.width))
                self._rows.seek(0)
                shutil.copyfileobj(self._rows, member, _CHUNK)
            with archive.open(_compressed("files.npy"), "w", force_zip64=True) as member:
                self._write_names(member)
            with archive.open("about.npy", "w") as member:
                np.lib.format.write_array(member, np.array(json.dumps(about)), allow_pickle=False)

    def _write_names(self, member: BinaryIO) -> None:
        """Names as fixed-width text, which NumPy reads without pickle, in pieces: a long name widens all."""
        kind = np.dtype(f"<U{max(map(len, self._files), default=1)}")
        _header(member, kind, (len(self),))
        for start in range(0, len(self), _NAMES):
            member.write(np.array(self._files[start : start + _NAMES], kind).tobytes())


def _header(member: BinaryIO, kind: np.dtype, shape: tuple[int, ...]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, described)


def _compressed(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED  # four bytes a letter, and most names begin alike
    return info
