"""Image files of users as the arrays that a model's encoder takes."""

import pathlib

import numpy as np

from soda_jax.data.datasets.folder import image_paths
from soda_jax.data.decode import decode_image
from soda_jax.inference.requests import source_views
from soda_jax.paths import expanded


def read_images(place: str, resolution: int, limit: int, flag: str = "--images") -> tuple[np.ndarray, list[str]]:
    """Images uint8 [N, resolution, resolution, 3] of a file or a folder, the first `limit` by name, and their names.

    Raises:
      ValueError: there are none.
      DecodeError: one cannot be decoded.
    """
    path = pathlib.Path(expanded(place, flag))
    if not path.exists():
        raise ValueError(f"{flag}={place}: there is no such file or folder")
    names = [""] if path.is_file() else image_paths(path)[:limit]
    if not names:
        raise ValueError(f"{flag}={place}: the folder holds no image")
    decoded = [decode_image(path / name if name else path) for name in names]
    return np.concatenate([source_views(image[None], resolution)[:, 0] for image in decoded]), names
