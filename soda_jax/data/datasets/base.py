"""What every dataset offers, and the small helpers they share."""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

Example = dict[str, Any]
SPLITS = ("train", "validation", "test")
# Names of splits, in small letters.
_SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
# Names that a class may have too, as "valid" beside "invalid".
_AMBIGUOUS_NAMES = {"training": "train", "valid": "validation", "testing": "test"}
_LABEL_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Labels:
    """Ground truth of one kind ("label", "attributes" or "factors") that a dataset carries.

    Attributes:
        sizes: number of classes of each label; a label has one entry, binary attributes have 2s.
        names: a name for each label, as long as `sizes`.
        classes: names of the classes of a label, where the set has them.
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        if len(self.sizes) != len(self.names):
            raise ValueError(f"Labels: {len(self.sizes)} sizes but {len(self.names)} names; give one a label.")


class Dataset(Protocol):
    """Random access to the examples of one split. Picklable: workers receive a copy.

    An example is a dict with `image` uint8 [h, w, 3] and optionally `label` int32 [],
    `attributes` int32 [A], `factors` int32 [F]. A multi-view dataset gives, in place of `image`,
    `views`: an object with `__len__` and `__getitem__(j)` -> dict(image uint8 [h, w, 3],
    pose float32 [4, 4], intrinsics float32 [4]: fx, fy, cx, cy).

    A dataset may also offer

    - `get_many(indices) -> list of examples`, which the pipeline prefers: it may then compute a whole
      batch at once, and an `image`, also one of `views`, may be an `EncodedImage`, which is decoded
      once it is known how large it has to be;
    - `credit(index)`, whom an example is by, "" where that is not known, for images that are handed on;
    - `class_ids`, the class of every example, integers [len], for views of another image of a class;
    - `fingerprint`, text that differs where its images or labels do, of a set whose name does not say which these are;
    - `bad_files`, a `BadFiles`: where an image then raises DecodeError, another example takes its
      place. `get_many` itself must not raise it.
    """

    labels: Mapping[str, Labels]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def get_many(dataset: Dataset, indices: np.ndarray) -> list[Example]:
    """The examples at `indices`, by the dataset's own batched access where it has one."""
    if hasattr(dataset, "get_many"):
        return dataset.get_many(indices)
    return [dataset[int(i)] for i in indices]


def credit_of(dataset: Dataset, index: int) -> str:
    """Whom an example is by; "" where the dataset does not say."""
    return dataset.credit(int(index)) if hasattr(dataset, "credit") else ""


def class_ids_of(dataset: Dataset) -> np.ndarray:
    """The class of every example, integers [len(dataset)]: `dataset.class_ids`, or by going through it.

    Raises:
        ValueError: the dataset has no classes.
    """
    if hasattr(dataset, "class_ids") and dataset.class_ids is not None:
        return np.asarray(dataset.class_ids)
    if "label" not in dataset.labels:
        have = ", ".join(dataset.labels) or "none"
        raise ValueError(
            f"view_policy='class' needs labels, which this dataset lacks (its labels: {have}); "
            "choose another view_policy, e.g. 'augment'."
        )
    chunks = (np.arange(i, min(i + _LABEL_CHUNK, len(dataset))) for i in range(0, len(dataset), _LABEL_CHUNK))
    return np.array([example["label"] for chunk in chunks for example in get_many(dataset, chunk)])


def fixed_split(size: int, split: str, seed: int) -> np.ndarray:
    """Members of "train" / "validation" / "test" (80/10/10) under a fixed permutation.

    Returns:
        int64 indices into range(size), the same on every machine for the same seed.
    """
    order = np.random.Generator(np.random.Philox(seed)).permutation(size)
    bounds = {
        "train": (0, size * 8 // 10),
        "validation": (size * 8 // 10, size * 9 // 10),
        "test": (size * 9 // 10, size),
    }
    if split not in bounds:
        raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(bounds)}.")
    first, last = bounds[split]
    return order[first:last]


def split_of(name: str) -> str | None:
    """The split that "train", "validation", "val" or "test" names, in capitals or small letters; None for others."""
    return _SPLIT_NAMES.get(name.lower())


def split_folders(names: Iterable[str]) -> dict[str, str]:
    """Which of the folders `names`, that lie side by side, are for splits: name -> split.

    `train`, `validation`, `val` and `test` always are, in capitals or small letters. `training`, `valid` and `testing`
    are only if folders for training and for another split lie there, as in `train`, `valid`, `test`; alone, or beside
    `invalid`, they are classes.

    Several folders of one split, as `train` and `Train` on a disk that tells them apart, or `val` and `validation`, are
    that split together: nothing is left out, and nothing can be in two splits.
    """
    known = _SPLIT_NAMES | _AMBIGUOUS_NAMES
    every = {name: known[name.lower()] for name in names if name.lower() in known}
    if "train" in every.values() and len(set(every.values())) > 1:
        return every
    return {name: split for name, split in every.items() if split_of(name)}


def readable_name(name: str) -> str:
    """A file's name with the bytes that are not UTF-8, and control characters, as backslash escapes; in one line."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hashed_split(name: str) -> str:
    """ "train", "validation" or "test" (80/10/10) by a hash of `name`.

    Adding or removing names moves no other name to another split.
    """
    tenth = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "validation" if tenth == 8 else "test"


def walk(root: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk from the top, without what is hidden, and through links to folders.

    No folder is entered twice: by a link, its files would be in two places, and perhaps in two splits.
    """
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield folder, folders, [name for name in files if not name.startswith(".")]


def left_out_beside_splits(root: str | os.PathLike, names: Iterable[str]) -> str:
    """A sentence on the folders and files (`names`) that lie beside split folders, so are not read; it is logged too.

    Returns:
        "" if there are none.
    """
    names = sorted(set(names))
    if not names:
        return ""
    shown = ", ".join(map(readable_name, names[:3])) + (", ..." if len(names) > 3 else "")
    text = (
        f"As {readable_name(os.fspath(root))} has folders for splits ({', '.join(SPLITS)}), nothing else in it is "
        f"read: not {shown}."
    )
    logging.getLogger(__name__).warning(text)
    return " " + text
