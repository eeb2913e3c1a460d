"""Arrays kept on disk between runs, memory-mapped so that worker processes share them."""

import logging
import os
import pathlib
import zlib
from collections.abc import Callable

import numpy as np

from soda_jax.paths import replaced

_TRAILER_BYTES = 4


def cache_dir(root: str | os.PathLike | None = None) -> pathlib.Path:
    """`root` if given, else soda_jax's folder in the user's cache ($XDG_CACHE_HOME, ~/.cache)."""
    if root:
        return pathlib.Path(root).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "soda_jax"


class CachedArray:
    """A read-only array that pickles as its path when it lives on disk.

    Attributes:
        array: the array, a memory map where it could be stored.
        path: its file, or None when the cache folder could not be written.
    """

    def __init__(self, array: np.ndarray, path: pathlib.Path | None):
        self.array = array
        self.path = path

    @classmethod
    def load_or_build(cls, path: pathlib.Path, build: Callable[[], np.ndarray]) -> "CachedArray":
        """Opens `path`, or builds the array and stores it there.

        A file that is truncated or whose checksum differs is built again. Where the folder cannot
        be written the array stays in memory, with a warning.
        """
        array = _open(path)
        if array is not None:
            return cls(array, path)
        built = build()
        try:
            _write(path, built)
        except OSError as error:
            logging.getLogger(__name__).warning(
                "cannot store %s (%s): keeping it in memory, to be rebuilt next time", path, error
            )
            return cls(built, None)
        return cls(np.load(path, mmap_mode="r"), path)

    def __getstate__(self):
        return {"path": self.path, "array": self.array if self.path is None else None}

    def __setstate__(self, state):
        self.path = state["path"]
        self.array = np.load(self.path, mmap_mode="r") if self.path else state["array"]


def _checksum(array: np.ndarray) -> bytes:
    crc = zlib.crc32(np.ascontiguousarray(array).data.cast("B"))
    return crc.to_bytes(_TRAILER_BYTES, "little")


def _open(path: pathlib.Path) -> np.ndarray | None:
    """The stored array, or None when the file is missing or damaged."""
    if not path.exists():
        return None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        with open(path, "rb") as file:
            file.seek(-_TRAILER_BYTES, os.SEEK_END)
            trailer, end = file.read(), file.tell()
        if end == array.offset + array.nbytes + _TRAILER_BYTES and trailer == _checksum(array):
            return array
    except (OSError, ValueError, EOFError):
        pass  # Any way of being unreadable ends the same: build it again.
    logging.getLogger(__name__).warning("%s is damaged: building it again", path)
    return None


def _write(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes the array and its checksum to a temporary file, then moves it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        np.save(file, array)
        file.write(_checksum(array))
