"""Walks of an image along directions of the latent, z + a sigma v, as strips and as animations."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from soda_jax.inference.grids import image_grid, stacked
from soda_jax.inference.held_out import HeldOut, animation, draw, held_out
from soda_jax.inference.pictures import PictureContext
from soda_jax.latents.directions import Direction, StrengthWarning, move


@dataclasses.dataclass(frozen=True, eq=False)
class Walk:
    """One held-out image moved along several directions.

    Attributes:
      shown: the image.
      directions: R of them.
      sigmas: [F], how far, in standard deviations of the real codes along each.
      images: uint8 [R, F, H, W, 3].
      every: of the F frames, each so many-th is a column of the strip; the others only move.
    """

    shown: HeldOut
    directions: tuple[Direction, ...]
    sigmas: np.ndarray
    images: np.ndarray
    every: int

    def strip(self, rows: Sequence[int], captions: Sequence[str], title: str) -> np.ndarray:
        """The source, and of each direction of `rows` a row of images, a sigma a column; uint8 [H, W, 3].

        Row captions say also where the image lies on the direction, and between which ends 99.8% of real codes do.
        """
        columns = {"source": self.shown.sources}
        for frame in range(0, len(self.sigmas), self.every):
            columns[_sigma(self.sigmas[frame])] = self.images[list(rows), frame]
        lines = []
        for row, caption in zip(rows, captions, strict=True):
            line = self.directions[row]
            at = line.position(self.shown.z)[0]
            lines.append(f"{caption}\nimage at {at:+.1f} sigma\nreal {line.low:+.1f} to {line.high:+.1f}")
        return image_grid(columns, rows=lines, title=title)

    def frames(self, blocks: Sequence[tuple[str, dict[str, int]]]) -> list[np.ndarray]:
        """The animation: all directions move at once, there and back.

        Args:
          blocks: (title, {caption: direction}), one below the other.
        """
        return animation(
            [
                stacked(
                    [
                        image_grid(
                            {caption: self.images[row, frame][None] for caption, row in tiles.items()},
                            title=f"{_sigma(sigma)}, {title}",
                        )
                        for title, tiles in blocks
                    ]
                )
                for frame, sigma in enumerate(self.sigmas)
            ]
        )


def walk_along(context: PictureContext, directions: Sequence[Direction]) -> Walk:
    """Moves the first held-out image by -`walk_sigma` to `walk_sigma` sigma along each direction."""
    settings, shown = context.settings, held_out(context, 1)
    every = settings.walk_between + 1
    sigmas = np.linspace(-settings.walk_sigma, settings.walk_sigma, (settings.walk_frames - 1) * every + 1)
    with warnings.catch_warnings():
        # Captions say where the real codes end.
        warnings.simplefilter("ignore", StrengthWarning)
        z = np.stack([move(shown.z, [(line, sigma)])[0] for line in directions for sigma in sigmas])
    # One series: all directions start from one noise, so that their frames at 0 sigma are the same image.
    images = draw(context, shown, z[None])[0]
    return Walk(
        shown, tuple(directions), sigmas, images.reshape(len(directions), len(sigmas), *images.shape[1:]), every
    )


def place(sections: str | None) -> str:
    """A range of sections, or None, in words."""
    return "whole latent" if sections is None else f"section{'s' if '-' in sections else ''} {sections}"


def _sigma(value: float) -> str:
    return "0 sigma" if abs(value) < 1e-9 else f"{value:+.3g} sigma"
