"""A tree of image files; sub-folders are classes."""

import hashlib
import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

from soda_jax.data.sources.base import Example, Targets

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
SPLITS = ("train", "validation", "test")


class ImageFolder:
    """JPEG, PNG and WebP files below a folder, in the order of their paths.

    If `root` has a sub-folder called "train", "validation" or "test", those are the splits.
    Otherwise every file belongs to one of the three by a hash of its path relative to `root`
    (80/10/10 percent), so that adding files moves no other file.

    `image` uint8 [h, w, 3], upright by its EXIF orientation, transparency on white, grey and CMYK
    as RGB. `label` int32 [], if the images lie in sub-folders: the place of the first folder below
    the split in the sorted list of such folders, over all splits.

    Args:
        root: the tree.
        split: "train", "validation" or "test".

    Raises:
        ValueError: no such folder, no images, or an unknown or empty split; on access, an image
            that cannot be decoded.
    """

    def __init__(self, root: str | os.PathLike | None, split: str):
        if root is None or not pathlib.Path(root).expanduser().is_dir():
            raise ValueError(f"root={root!r} is not a folder; give the folder that has the images.")
        self._root = pathlib.Path(root).expanduser()
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}.")
        files = _files_by_split(self._root)
        counts = ", ".join(f"{name} ({len(files[name])})" for name in SPLITS)
        if not files[split]:
            raise ValueError(
                f"split={split!r} of {self._root} is empty; images (of type {', '.join(EXTENSIONS)}) found: {counts}."
            )
        self._paths = [path for path, _ in files[split]]
        folders = {folder for rows in files.values() for _, folder in rows}
        self.targets: dict[str, Targets] = {}
        self._labels = None
        # A mixture of labelled and unlabelled files has no meaningful labels.
        if None not in folders:
            classes = tuple(sorted(folders))
            self.targets["label"] = Targets((len(classes),), ("label",), classes)
            number = {name: np.int32(i) for i, name in enumerate(classes)}
            self._labels = [number[folder] for _, folder in files[split]]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        example: Example = {"image": read_image(self._root / self._paths[index])}
        if self._labels is not None:
            example["label"] = self._labels[index]
        return example


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Decodes an image file to uint8 [h, w, 3] RGB: upright, transparency on white.

    Raises:
        ValueError: the file cannot be decoded; its name is in the message.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
                image = Image.alpha_composite(canvas, image)
            return np.asarray(image.convert("RGB"))
    # Pillow's decoders raise nearly anything on damaged files.
    except Exception as error:
        raise ValueError(
            f"image {os.fspath(path)!r} cannot be decoded ({error}); repair or remove the file."
        ) from error


def _files_by_split(root: pathlib.Path) -> dict[str, list[tuple[str, str | None]]]:
    """For each split its (path relative to `root`, class folder or None), sorted by path."""
    has_split_folders = any((root / name).is_dir() for name in SPLITS)
    files: dict[str, list[tuple[str, str | None]]] = {name: [] for name in SPLITS}
    for relative in _image_paths(root):
        parts = relative.split("/")
        if has_split_folders:
            if parts[0] not in SPLITS:
                continue
            split, below = parts[0], parts[1:]
        else:
            split, below = _hashed_split(relative), parts
        files[split].append((relative, below[0] if len(below) > 1 else None))
    return files


def _image_paths(root: pathlib.Path) -> list[str]:
    """Sorted "/"-separated paths of the images below `root`, without what is hidden."""
    paths = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = pathlib.PurePath(os.path.relpath(folder, root))
        paths += [
            (relative / name).as_posix()
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(paths)


def _hashed_split(relative: str) -> str:
    tenth = int.from_bytes(hashlib.sha256(relative.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "validation" if tenth == 8 else "test"
