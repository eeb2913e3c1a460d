"""Files of the explorer: the pictures that it shows, and what a user keeps: PNG, GIF, and an edit as JSON."""

import hashlib
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from soda_jax.explorer.images import Chosen
from soda_jax.inference.grids import display_side, image_grid
from soda_jax.inference.held_out import SECONDS, animation
from soda_jax.workdir import edits
from soda_jax.workdir.writers import save_gif, save_png

_KEPT = 200  # files to download; the page has its own copies of those that it offers
_KEPT_PICTURES = 1000
SHOWN = 256  # the least side of an image on the page, in pixels


class Downloads:
    """Writes files below a folder; old ones are removed. Those to download have a folder each, so that equal names do
    not meet."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._places: list[pathlib.Path] = []
        self._pictures: dict[str, pathlib.Path] = {}
        self._writing = threading.Lock()

    def shown(self, image: np.ndarray) -> str:
        """A PNG of a uint8 image [h, h, 3] at the size of the page.

        The same image has the same file, which is written once: a browser may be reading it.
        """
        name = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]
        with self._writing:
            path = self._pictures.pop(name, self._folder / f"{name}.png")
            if not path.exists():
                save_png(path, enlarged(image, SHOWN))
            self._pictures[name] = path  # as the newest
            while len(self._pictures) > _KEPT_PICTURES:
                self._pictures.pop(next(iter(self._pictures))).unlink(missing_ok=True)
        return str(path)

    def strip(self, name: str, images: Mapping[str, np.ndarray], title: str = "") -> str:
        """A PNG of images uint8 [h, w, 3] side by side under their captions."""
        path = self._place() / f"{name}.png"
        save_png(path, image_grid({caption: [image] for caption, image in images.items()}, title=title))
        return str(path)

    def source(self, chosen: Chosen) -> str:
        """A PNG of an image as the encoder reads it, which `tools.edit --images` takes."""
        path = self._place() / "source.png"
        save_png(path, chosen.views[0])
        return str(path)

    def film(self, name: str, frames: Sequence[np.ndarray], *, returns: bool = True) -> str:
        """A GIF of frames uint8 [h, w, 3].

        Args:
          returns: it goes there and back; else round and round.
        """
        path = self._place() / f"{name}.gif"
        large = [enlarged(frame) for frame in frames]
        save_gif(path, animation(large) if returns else large, SECONDS)
        return str(path)

    def edit(self, stored: edits.StoredEdit) -> str:
        """The JSON that `tools.edit --edit` repeats."""
        path = self._place() / "edit.json"
        edits.save(stored, path)
        return str(path)

    def _place(self) -> pathlib.Path:
        """A new folder for one file; the oldest ones go."""
        self._places.append(pathlib.Path(tempfile.mkdtemp(dir=self._folder)))
        while len(self._places) > _KEPT:
            shutil.rmtree(self._places.pop(0), ignore_errors=True)
        return self._places[-1]


def enlarged(image: np.ndarray, least: int = 96) -> np.ndarray:
    """A square uint8 image [h, h, 3], small ones a whole number of times as large, so that pixels stay sharp."""
    times = max(display_side(len(image)) // len(image), -(-least // len(image)))
    return image.repeat(times, axis=0).repeat(times, axis=1)
