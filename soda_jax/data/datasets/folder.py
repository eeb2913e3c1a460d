"""A tree of image files; labels.csv has their labels, or sub-folders are classes."""

import hashlib
import logging
import os
import pathlib

import numpy as np

from soda_jax.data.datasets.bad_files import BadFiles
from soda_jax.data.datasets.base import (
    SPLITS,
    Example,
    Labels,
    hashed_split,
    left_out_beside_splits,
    readable_name,
    split_folders,
    walk,
)
from soda_jax.data.datasets.labels_csv import LABELS_FILE, read_labels
from soda_jax.data.decode import EncodedImage

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")

_File = tuple[str, str | None]  # path relative to the root; class folder, if it lies in one


class ImageFolder:
    """JPEG, PNG and WebP files below a folder, in the order of their paths.

    If `root` has sub-folders called "train", "validation" (or "val") or "test", in capitals or small letters, those are
    the splits, and nothing beside them is read; where several are one split's, as "train" and "Train", they are it
    together. "training", "valid" and "testing" are such names too where folders for training and for another split lie
    side by side; elsewhere they are classes. Without splits every file belongs to one of the three by a hash of its
    path relative to `root` (80/10/10 percent), so that adding files moves no other file.

    `image` uint8 [h, w, 3] as `decode_image` makes it. If `root` has a labels.csv, that gives `label` int32 [],
    `attributes` int32 [A] and `factors` int32 [F], as far as it has such columns, and folders give none. Else `label`,
    if the images lie in sub-folders: the place of the first folder below the split in the sorted list of such folders,
    over all splits. Class numbers are the same in all splits.

    Args:
        root: the tree.
        split: "train", "validation" or "test".
        bad_files: where to list the files that cannot be read; None keeps the list in memory.
        max_bad_share: share of the split's files that may be unreadable before an error stops all.

    Raises:
        ValueError: no such folder, no images, an unknown or empty split, or more unreadable files
            than `max_bad_share`, or a labels.csv that is wrong or leaves an image out; on access by `[index]`,
            DecodeError for an unreadable one.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        *,
        bad_files: str | os.PathLike | None = None,
        max_bad_share: float = 0.05,
    ):
        if root is None or not pathlib.Path(root).expanduser().is_dir():
            raise ValueError(f"root={root!r} is not a folder; set config.data.root to the one that has the images.")
        self._root = pathlib.Path(root).expanduser().absolute()
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}.")
        files, left_out = _files_by_split(self._root)
        left_out = left_out_beside_splits(self._root, left_out)
        counts = ", ".join(f"{name} ({len(files[name])})" for name in SPLITS)
        if not files[split]:
            raise ValueError(
                f"split={split!r} of {self._root} is empty; images (of type {', '.join(EXTENSIONS)}) found: {counts}."
                f"{left_out} Add images, or choose another split (config.data.train_split, config.data.eval_split)."
            )
        self._paths = [path for path, _ in files[split]]
        self.bad_files = BadFiles(self._root, self._paths, max_share=max_bad_share, path=bad_files)
        self.labels: dict[str, Labels] = {}
        self._values: dict[str, np.ndarray] = {}  # of the labels, by kind
        if (self._root / LABELS_FILE).is_file():
            self._take_labels_file(files, split)
        else:
            self._take_folders(files, split)

    @property
    def class_ids(self) -> np.ndarray | None:
        """The class of every example, int32 [len]; None where there are no classes."""
        return self._values.get("label")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the folder's place, files and labels."""
        digest = hashlib.sha256("\n".join([os.fspath(self._root), *self._paths]).encode("utf-8", "surrogateescape"))
        for kind, values in self._values.items():
            digest.update(kind.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def _take_labels_file(self, files: dict[str, list[_File]], split: str) -> None:
        every = [path for name in SPLITS for path, _ in files[name]]
        found = read_labels(self._root / LABELS_FILE, every)
        first = sum(len(files[name]) for name in SPLITS[: SPLITS.index(split)])
        self.labels = found.labels
        self._values = {kind: values[first : first + len(self._paths)] for kind, values in found.values.items()}
        folders = any(folder is not None for name in SPLITS for _, folder in files[name])
        ignored = " Folders are no classes beside it." if folders else ""
        logging.getLogger(__name__).warning(found.described + ignored)

    def _take_folders(self, files: dict[str, list[_File]], split: str) -> None:
        for misplaced in sorted(self._root.glob(f"*/{LABELS_FILE}")):
            logging.getLogger(__name__).warning(
                "%s is not read: one %s in %s labels all images, with paths from there",
                misplaced,
                LABELS_FILE,
                self._root,
            )
        folders = {folder for rows in files.values() for _, folder in rows}
        # A mixture of labelled and unlabelled files has no meaningful labels.
        if None in folders:
            return
        classes = tuple(sorted(folders))
        self.labels["label"] = Labels((len(classes),), ("label",), tuple(map(readable_name, classes)))
        number = {name: i for i, name in enumerate(classes)}
        self._values["label"] = np.array([number[folder] for _, folder in files[split]], np.int32)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        example = self.get_many(np.array([index]))[0]
        return example | {"image": example["image"].decode()}

    def get_many(self, indices: np.ndarray) -> list[Example]:
        """The examples at `indices`; each `image` is an `EncodedImage`."""
        return [self._example(int(index)) for index in indices]

    def _example(self, index: int) -> Example:
        example: Example = {"image": EncodedImage(os.path.join(self._root, self._paths[index]))}
        return example | {kind: values[index] for kind, values in self._values.items()}


def _files_by_split(root: pathlib.Path) -> tuple[dict[str, list[_File]], set[str]]:
    """(for each split its (path relative to `root`, class folder or None), sorted by path; what is left out)."""
    splits = split_folders(name for name in os.listdir(root) if os.path.isdir(root / name))
    files: dict[str, list[_File]] = {name: [] for name in SPLITS}
    left_out = set()
    for relative in image_paths(root):
        parts = relative.split("/")
        if splits:
            split, below = splits.get(parts[0]), parts[1:]
            if split is None:
                left_out.add(parts[0])
                continue
        else:
            split, below = hashed_split(relative), parts
        files[split].append((relative, below[0] if len(below) > 1 else None))
    return files, left_out


def image_paths(root: pathlib.Path) -> list[str]:
    """Sorted "/"-separated paths of the images below `root`, without what is hidden."""
    paths = []
    for folder, _, names in walk(root):
        relative = pathlib.PurePath(os.path.relpath(folder, root))
        paths += [(relative / name).as_posix() for name in names if name.lower().endswith(EXTENSIONS)]
    return sorted(paths)
