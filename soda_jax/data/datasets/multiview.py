"""Objects seen from known cameras: one folder per object, in the NeRF/Blender convention."""

import functools
import hashlib
import json
import logging
import os
import pathlib
from concurrent import futures

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
from soda_jax.data.datasets.cache import CachedArray, cache_dir
from soda_jax.data.datasets.splits_json import SPLIT_FILE, read_splits
from soda_jax.data.datasets.transforms_json import (
    SPLIT_TRANSFORMS,
    TRANSFORMS,
    Frames,
    read_credit,
    read_frames,
    read_json,
)
from soda_jax.data.decode import DecodeError, EncodedImage


class MultiViewFolder:
    """Objects with images from several cameras: the folders with a `transforms.json` below `root`.

    `transforms.json` as NeRF, Blender, instant-ngp and nerfstudio write it; transforms_json.py tells
    what is read. Images are PNG, JPEG or WebP; transparency is shown on white.

    Splits, the same for all views of an object:

    - `splits.json` in `root`: {"train": [...], "validation": [...], "test": [...]} with the objects'
      paths relative to `root`; objects that it does not name are left out. "val" and "validation" are one split;
    - else the folders `train`, `validation` (or `val`) and `test` in `root`, in capitals or small letters, if objects
      lie in any of them (`split_folders` tells which other names are splits); those that lie elsewhere are left out;
    - else 80/10/10 percent by a hash of the object's path, so that adding objects moves no other.

    `root` may itself be one object with `transforms_train.json`, `transforms_val.json` and
    `transforms_test.json` (NeRF's synthetic scenes): each split is then the views that its file
    lists. Such a folder further down is one object with the views of all three.

    An example is `views`, an object with `len` and `[j]` -> image uint8 [h, w, 3], pose float32
    [4, 4], intrinsics float32 [4] of the image; and `label` int32 [] if every object has a category:
    the "category" in its transforms.json, or else the first folder on the way to it.

    The model takes the world as it is: an object should lie within `config.model.pose.sphere_radius`
    of the origin, z up. "scene_centre" and "scene_scale" in its transforms.json move it there.

    If all images of a split have one size and fit into `cache_bytes`, they are decoded once, into a
    memory-mapped file in the user's cache folder that all worker processes share.

    Views whose image is known to be broken are left out: from the list of an earlier run, and from decoding the split
    where it is cached. Of a larger split a broken image shows when it is read, and another object takes its place.

    Attributes:
        names: path of each object relative to the root.
        labels: the class, if there is one.
        class_ids: int32 [len], or None.
        bad_files: the images that cannot be read.

    Args:
        root: the folder.
        split: "train", "validation" or "test", or another name in splits.json.
        cache_bytes: largest decoded size of a split that is cached; 0 turns caching off.
        min_views: objects with fewer are left out, which is logged.
        bad_files: where to list the images that cannot be read; None keeps the list in memory.
        max_bad_share: share of the split's images that may be unreadable before an error stops all.

    Raises:
        ValueError: no such folder, no objects, an unknown or empty split, or a transforms.json that
            cannot be used, naming file and remedy, or more unreadable images than `max_bad_share`;
            on access, an image that does not have its camera's proportions, and DecodeError for an
            unreadable one.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        *,
        cache_bytes: int = 2 << 30,
        min_views: int = 1,
        bad_files: str | os.PathLike | None = None,
        max_bad_share: float = 0.05,
    ):
        if root is None or not pathlib.Path(root).expanduser().is_dir():
            raise ValueError(
                f"root={root!r} is not a folder; set config.data.root to the one that has a folder for each object."
            )
        self._root = pathlib.Path(root).expanduser().absolute()
        self._min_views = min_views
        index = _Index(self._root)
        members = index.members(split)
        views = {name: index.frames(name, split) for name in members}
        paths = [path for frames in views.values() for path in frames.paths]
        files = [os.path.relpath(path, self._root) for path in paths]
        self.bad_files = BadFiles(self._root, files, max_share=max_bad_share, path=bad_files)
        self._pixels = self._cache(split, cache_bytes, self._readable(views))
        if self._pixels is None:
            # A list of what was met by chance leaves nothing out: a run that goes on must see what it saw before.
            views = self._with_enough(views)
        else:
            views = self._readable(views)
        self.names = list(views)
        self._objects = list(views.values())
        self._first = np.cumsum([0] + [len(frames) for frames in self._objects])
        self.labels: dict[str, Labels] = {}
        self.class_ids: np.ndarray | None = None
        self._credits = [index.credit(name) for name in self.names]
        categories = index.categories()
        if categories is not None:
            classes = tuple(sorted(set(categories.values())))
            self.labels["label"] = Labels((len(classes),), ("label",), tuple(map(readable_name, classes)))
            self.class_ids = np.array([classes.index(categories[name]) for name in self.names], np.int32)

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, index: int) -> Example:
        return self._example(range(len(self))[index], decode=True)

    def get_many(self, indices: np.ndarray) -> list[Example]:
        """The examples at `indices`; unless cached, each `image` is an `EncodedImage`."""
        return [self._example(int(index), decode=False) for index in indices]

    def credit(self, index: int) -> str:
        """Title, creator and library of an object's model, as its transforms.json names them; "" for none."""
        return self._credits[index]

    def _example(self, index: int, decode: bool) -> Example:
        pixels = None
        if self._pixels is not None:
            pixels = self._pixels.array[self._first[index] : self._first[index + 1]]
        example: Example = {"views": ObjectViews(self._objects[index], pixels, decode)}
        if self.class_ids is not None:
            example["label"] = self.class_ids[index]
        return example

    def _readable(self, views: dict[str, Frames]) -> dict[str, Frames]:
        """`views` without the images known to be broken, and without objects that have too few others."""
        broken = set(self.bad_files.names())
        return self._with_enough({name: frames.without(broken) for name, frames in views.items()} if broken else views)

    def _with_enough(self, views: dict[str, Frames]) -> dict[str, Frames]:
        enough = {name: frames for name, frames in views.items() if len(frames) >= self._min_views}
        few = [name for name in views if name not in enough]
        if not few:
            return views
        shown = ", ".join(map(readable_name, few[:3])) + (", ..." if len(few) > 3 else "")
        text = f"{len(few)} of {len(views)} objects of {self._root} have fewer than {self._min_views} views: {shown}"
        if not enough:
            raise ValueError(f"{text}; lower config.data.num_sources, or add views.")
        logging.getLogger(__name__).warning("%s; they are left out", text)
        return enough

    def _cache(self, split: str, cache_bytes: int, views: dict[str, Frames]) -> CachedArray | None:
        """The readable images of the split in the views' order, or None if they are too large or of several sizes."""
        paths = [path for frames in views.values() for path in frames.paths]
        shape = self._first_shape(paths)
        if len(paths) * int(np.prod(shape)) > cache_bytes:
            return None
        identity, broken = _identities(paths)
        if broken:
            for error in broken:
                self.bad_files.report(error)
            return self._cache(split, cache_bytes, self._readable(views))
        version = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        file = cache_dir() / "multiview" / f"{self._root.name}-{split.replace('/', '_')}-{version}.npy"
        try:
            return CachedArray.load_or_build(file, lambda: _decode_all(paths, shape))
        except _SizesDifferError:
            return None
        except _BrokenImagesError as broken:
            for error in broken.errors:
                self.bad_files.report(error)
            return self._cache(split, cache_bytes, self._readable(views))

    def _first_shape(self, paths: list[str]) -> tuple[int, ...]:
        """[h, w, 3] of the first image that can be read."""
        for path in paths:
            try:
                return _stored_image(path).shape
            except DecodeError as error:
                self.bad_files.report(error)
        raise ValueError(f"no image of {self._root} can be read; {self.bad_files.summary()}")


class ObjectViews:
    """The views of one object: `views[j]` -> dict(image, pose, intrinsics)."""

    def __init__(self, frames: Frames, pixels: np.ndarray | None, decode: bool):
        self._frames = frames
        self._pixels = pixels
        self._decode = decode

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> Example:
        frames, number = self._frames, range(len(self))[number]
        image = _stored_image(frames.paths[number]) if self._pixels is None else self._pixels[number]
        height, width = image.shape[:2]  # a file is opened here, if need be
        try:
            intrinsics = frames.lenses[number].intrinsics(height, width)
        except ValueError as error:
            raise ValueError(f"image {frames.paths[number]!r}: {error}") from None
        if self._decode:
            image = np.asarray(image)
        return {"image": image, "pose": frames.poses[number], "intrinsics": intrinsics}


class _Index:
    """The objects below a root, their splits and categories."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self._single = _is_object(root)
        if self._single and not (root / SPLIT_TRANSFORMS["train"]).exists():
            raise ValueError(
                f"{root} is one object with no {SPLIT_TRANSFORMS['train']} to divide its views; give the folder "
                "above it as root, which may hold many such objects."
            )
        self._names = ["."] if self._single else _find_objects(root)
        if not self._names:
            raise ValueError(f"no {TRANSFORMS} below {root}; every object needs one in its folder.")
        self._documents = functools.cache(self._read)
        self._left_out = ""
        self._split_folders: dict[str, str] = {}
        if not self._single:
            self._use_split_folders()
        self._splits = self._find_splits()

    def _use_split_folders(self) -> None:
        """Where any object lies in a folder for a split, only such objects count: the others would be in any split."""
        folders = split_folders({name.split("/")[0] for name in self._names})
        beside = {name for name in self._names if name.split("/")[0] not in folders}
        if not beside:
            self._split_folders = folders
        elif folders and not (self._root / SPLIT_FILE).exists():
            self._split_folders = folders
            self._left_out = left_out_beside_splits(self._root, beside)
            self._names = [name for name in self._names if name not in beside]

    def members(self, split: str) -> list[str]:
        """Names of the objects of a split."""
        counts = ", ".join(f"{name} ({len(names)})" for name, names in self._splits.items())
        if split not in self._splits:
            raise ValueError(f"split={split!r} of {self._root} is unknown; its splits, with their objects: {counts}.")
        if not self._splits[split]:
            raise ValueError(
                f"split={split!r} of {self._root} is empty; objects: {counts}.{self._left_out} Add objects, say in "
                f"{self._root / SPLIT_FILE} which belong to each split, or choose another split "
                "(config.data.train_split, config.data.eval_split)."
            )
        return self._splits[split]

    def frames(self, name: str, split: str) -> Frames:
        """The views of an object; of the only one, those of the split."""
        parts = [
            read_frames(file, document)
            for file, document in self._documents(name)
            if not self._single or file.name == SPLIT_TRANSFORMS[split]
        ]
        return Frames(
            sum((part.paths for part in parts), ()),
            np.concatenate([part.poses for part in parts]),
            sum((part.lenses for part in parts), ()),
        )

    def credit(self, name: str) -> str:
        return read_credit(self._documents(name)[0][1], name)

    def categories(self) -> dict[str, str] | None:
        """The category of every object, over all splits."""
        if self._single:
            return None
        written = {name: self._documents(name)[0][1].get("category") for name in self._names}
        if all(isinstance(category, str) and category for category in written.values()):
            return written
        parts = {name: name.split("/") for name in self._names}
        if self._split_folders:
            parts = {name: words[1:] for name, words in parts.items()}
        if all(len(words) > 1 for words in parts.values()):
            return {name: words[0] for name, words in parts.items()}
        return None

    def _read(self, name: str) -> list[tuple[pathlib.Path, dict]]:
        folder = self._root / name
        files = [folder / TRANSFORMS]
        if self._single or not os.path.lexists(files[0]):
            files = [file for file in (folder / file for file in SPLIT_TRANSFORMS.values()) if os.path.lexists(file)]
        return [(file, read_json(file)) for file in files]

    def _find_splits(self) -> dict[str, list[str]]:
        if self._single:
            return {split: ["."] for split, file in SPLIT_TRANSFORMS.items() if (self._root / file).exists()}
        if (self._root / SPLIT_FILE).exists():
            return _read_splits(self._root / SPLIT_FILE, set(self._names))
        splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        for name in self._names:
            split = self._split_folders[name.split("/")[0]] if self._split_folders else hashed_split(name)
            splits[split].append(name)
        return splits


class _SizesDifferError(Exception):
    """The images of a split do not have one size."""


class _BrokenImagesError(Exception):
    """Images of a split cannot be decoded."""

    def __init__(self, errors: list[DecodeError]):
        super().__init__(errors)
        self.errors = errors


def _identities(paths: list[str]) -> tuple[list[list], list[DecodeError]]:
    """[path, size, time of change] of the files, and errors for what leads to none: links to nothing, or in a ring."""
    identities, errors = [], []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            errors.append(DecodeError(path, error.strerror or str(error)))
            continue
        identities.append([path, status.st_size, status.st_mtime_ns])
    return identities, errors


def _stored_image(path: str) -> EncodedImage:
    # Tools that calibrate cameras do not turn images by their EXIF orientation.
    return EncodedImage(path, upright=False)


def _decode_all(paths: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [len(paths), *shape]; decoding runs in threads."""
    pixels = np.empty((len(paths), *shape), np.uint8)
    errors: list[DecodeError] = []

    def decode(number: int) -> None:
        try:
            image = _stored_image(paths[number]).decode()
        except DecodeError as error:
            errors.append(error)
            return
        if image.shape != shape:
            raise _SizesDifferError
        pixels[number] = image

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = pool.map(decode, range(len(paths)))
        try:
            for _ in tasks:
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if errors:
        raise _BrokenImagesError(sorted(errors, key=lambda error: error.name))
    return pixels


def _is_object(folder: str | os.PathLike) -> bool:
    # A link to nothing counts: that it cannot be read is said then, and the object not lost without a word.
    return any(os.path.lexists(os.path.join(folder, name)) for name in (TRANSFORMS, *SPLIT_TRANSFORMS.values()))


def _find_objects(root: pathlib.Path) -> list[str]:
    """Sorted "/"-separated paths of the objects below `root`, without what is hidden, and each only once."""
    names = {}
    for folder, folders, _ in walk(root):
        found = [name for name in folders if _is_object(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in found]
        relative = pathlib.PurePath(os.path.relpath(folder, root))
        for name in found:
            names.setdefault(os.path.realpath(os.path.join(folder, name)), (relative / name).as_posix())
    return sorted(names.values())


def _read_splits(file: pathlib.Path, names: set[str]) -> dict[str, list[str]]:
    splits = read_splits(file)
    members = [name for split in splits.values() for name in split]
    absent = [name for name in members if name not in names]
    if absent:
        raise ValueError(
            f"{file} names {len(absent)} objects that are not there, first {absent[0]!r}; correct it, or restore them."
        )
    return {split: sorted(members) for split, members in splits.items()}
