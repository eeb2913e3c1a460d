"""Pictures of a run as data of the page itself."""

import base64
import dataclasses
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

from PIL import Image

from soda_jax.reporting.workdir import Picture

EARLIER = 4  # older versions of a picture that the page shows beside the newest
BUDGET = 24 * 2**20  # bytes of all pictures in the page
_TYPES = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclasses.dataclass(frozen=True)
class EmbeddedPicture:
    """A picture for the page: caption, path within the workdir, its size in pixels, its content as a data URI."""

    caption: str
    file: str
    width: int
    height: int
    uri: str


@dataclasses.dataclass(frozen=True)
class Series:
    """The newest of the pictures of one name, and earlier ones, oldest first.

    Attributes:
      animation: that stands beside the newest; None: there is none, or nothing else.
      film: the path within the workdir of its MP4; "": there is none.
    """

    name: str
    newest: EmbeddedPicture
    earlier: tuple[EmbeddedPicture, ...]
    animation: EmbeddedPicture | None = None
    film: str = ""


def collect(pictures: list[Picture], workdir: pathlib.Path, budget: int = BUDGET) -> tuple[list[Series], list[str]]:
    """(what the page shows, warnings): of each name the newest picture and up to `EARLIER` older ones.

    Newest pictures come first; those that no longer fit into `budget` bytes, or cannot be read, are named in a warning.
    """
    groups = {name: _by_step(group) for name, group in itertools.groupby(pictures, key=lambda picture: picture.name)}
    warnings: list[str] = []
    loader = _Loader(workdir, budget, warnings)
    newest = {name: loader.load(group[-1][0]) for name, group in groups.items()}
    moving = {name: loader.load(group[-1][1]) for name, group in groups.items() if group[-1][1] is not None}
    series = []
    for name, group in groups.items():
        older = [loader.load(picture) for picture, _ in _spread(group[:-1], EARLIER)]
        shown = [picture for picture in [*older, newest[name]] if picture is not None]
        if shown:
            film = group[-1][0].path.with_suffix(".mp4")
            found = film.relative_to(workdir).as_posix() if film.is_file() else ""
            series.append(Series(name.replace("_", " "), shown[-1], tuple(shown[:-1]), moving.get(name), found))
    if loader.left_out:
        warnings.append(
            f"Pictures left out, the page would grow above {budget / 2**20:.0f} MiB: {', '.join(loader.left_out)}."
        )
    return series, warnings


def _by_step(pictures: Iterable[Picture]) -> list[tuple[Picture, Picture | None]]:
    """Pictures of one name by step, each with the animation beside it."""
    found: list[tuple[Picture, Picture | None]] = []
    for _, group in itertools.groupby(pictures, key=lambda picture: picture.step):
        files = list(group)
        stills = [picture for picture in files if picture.path.suffix.lower() != ".gif"]
        animations = [picture for picture in files if picture not in stills]
        found += [(picture, None) for picture in stills or animations]
        if stills and animations:
            found[-1] = (stills[-1], animations[-1])
    return found


def _spread(items: list[Any], count: int) -> list[Any]:
    """Up to `count` of `items`, evenly over the list, the first among them."""
    if len(items) <= count:
        return items
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


class _Loader:
    """Reads pictures while the budget lasts."""

    def __init__(self, workdir: pathlib.Path, budget: int, warnings: list[str]):
        self._workdir, self._left, self._warnings = workdir, budget, warnings
        self.left_out: list[str] = []

    def load(self, picture: Picture) -> EmbeddedPicture | None:
        name = picture.path.relative_to(self._workdir).as_posix()
        try:
            content = picture.path.read_bytes()
            with Image.open(picture.path) as image:
                width, height = image.size
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            self._warnings.append(f"{name} could not be read ({type(error).__name__}).")
            return None
        if len(content) > self._left:
            self.left_out.append(name)
            return None
        self._left -= len(content)
        caption = picture.name.replace("_", " ") + (f", step {picture.step:,}" if picture.step >= 0 else "")
        uri = f"data:{_TYPES[picture.path.suffix.lower()]};base64,{base64.b64encode(content).decode('ascii')}"
        return EmbeddedPicture(caption, name, width, height, uri)
