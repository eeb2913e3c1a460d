"""What our dataset builders share: from an unpacked archive to ArrayRecord, without TensorFlow.

TFDS's own way needs TensorFlow once a split is larger than 1 GB (tensorflow_datasets/core/shuffle.py of 4.9.10 keeps
that much in memory and then turns to `tf.io.gfile`), and starts over after an interruption. So our builders write shard
by shard, in the archive's order: training shuffles anyway, and any shard that is finished stays finished.
"""

import abc
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module

from soda_jax.data.datasets.base import fixed_split
from soda_jax.data.decode import DecodeError, EncodedImage

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SPLITS = ("train", "validation", "test")
_PLAN = "plan.json"


class ArchiveError(ValueError):
    """The manual folder lacks a file, or has one that is not what the dataset's archive has."""


class ManualBuilder(tfds.core.ShardBasedBuilder):
    """Base of the builders that read an official archive's layout from TFDS's manual folder.

    A subclass lists the archive's items for every split and makes examples of them. Until all shards are written they
    wait in `unfinished.VERSION` beside the dataset's folder, from where a later run goes on.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Run `python -m soda_jax.tools.prepare_data --dataset=NAME`: it says what to get."
    ITEMS_PER_SHARD = 1000

    @abc.abstractmethod
    def read_archive(self, manual_dir: pathlib.Path) -> Mapping[str, Sequence[Any]]:
        """Items (files, objects, positions in a file) of every split, in a fixed order.

        Raises:
            ArchiveError: a file is missing or inconsistent.
        """

    @abc.abstractmethod
    def make_examples(self, items: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
        """Examples, as the features describe them, of some items of one split; images as encoded bytes."""

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, Mapping[str, Any]]]]]]:
        splits = self.read_archive(pathlib.Path(dl_manager.manual_dir))
        return {name: self._shards_of(items) for name, items in splits.items() if len(items)}

    def _shards_of(self, items: Sequence[Any]) -> list[Callable[[], Iterator[tuple[int, Mapping[str, Any]]]]]:
        count = -(-len(items) // self.ITEMS_PER_SHARD)
        edges = [len(items) * i // count for i in range(count + 1)]
        return [
            functools.partial(self._keyed_examples, items[first:last])
            for first, last in zip(edges[:-1], edges[1:], strict=True)
        ]

    def _keyed_examples(self, items: Sequence[Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        yield from enumerate(self.make_examples(items))

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        shards_per_split = self._shard_iterators_per_split(dl_manager)
        if not shards_per_split:
            raise ArchiveError(f"{self.name}: {dl_manager.manual_dir} has no examples.")
        waiting = self._open_waiting_folder(dl_manager.manual_dir, shards_per_split)
        infos = []
        for split, shards in shards_per_split.items():
            template = self._get_filename_template(split_name=split)
            names = [template.sharded_filepath(shard_index=i, num_shards=len(shards)).name for i in range(len(shards))]
            for name, shard in tqdm.tqdm(
                zip(names, shards, strict=True), desc=f"{self.name} {split}", unit=" shards", disable=None
            ):
                if not (waiting / name).exists():
                    self._write_shard(waiting / name, shard)
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[_num_records(waiting / name) for name in names],
                    num_bytes=sum((waiting / name).stat().st_size for name in names),
                    filename_template=template,
                )
            )
        for path in waiting.glob("*array_record*"):
            os.replace(path, pathlib.Path(self.data_path) / path.name)
        shutil.rmtree(waiting)
        self.info.set_splits(tfds.core.splits.SplitDict(infos))

    def _open_waiting_folder(self, manual_dir, shards_per_split) -> pathlib.Path:
        """The folder of finished shards; emptied if they were made of something else."""
        digest = hashlib.sha256(os.path.abspath(manual_dir).encode())
        for split, shards in shards_per_split.items():
            digest.update(split.encode())
            for shard in shards:
                digest.update(_fingerprint(shard.args[0]))
        plan = json.dumps({"builder": self.info.full_name, "items": digest.hexdigest()})
        folder = pathlib.Path(self.data_path).parent / f"unfinished.{self.version}"
        try:
            if (folder / _PLAN).read_text() == plan:
                return folder
        except OSError:
            pass  # Nothing was begun here.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _PLAN).write_text(plan)
        return folder

    def _write_shard(self, path: pathlib.Path, shard: Callable[[], Iterator[tuple[int, Mapping[str, Any]]]]) -> None:
        features = self.info.features
        serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
        unfinished = path.with_suffix(".tmp")
        # One record a group: random access then reads a single example.
        writer = array_record_module.ArrayRecordWriter(os.fspath(unfinished), "group_size:1")
        try:
            for _, example in shard():
                writer.write(serializer.serialize_example(features.encode_example(example)))
        finally:
            writer.close()
        os.replace(unfinished, path)


def _num_records(path: pathlib.Path) -> int:
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    try:
        return reader.num_records()
    finally:
        reader.close()


def _fingerprint(items: Sequence[Any]) -> bytes:
    if isinstance(items, np.ndarray):
        return items.tobytes()
    return repr(items).encode()


def find_folder(manual_dir: pathlib.Path, candidates: Sequence[str], marker: str) -> pathlib.Path:
    """The first of `manual_dir`'s sub-folders `candidates` ("" is itself) that contains `marker`.

    Raises:
        ArchiveError: none does.
    """
    for candidate in candidates:
        if (manual_dir / candidate / marker).exists():
            return manual_dir / candidate
    places = " or ".join(os.path.join(candidate, marker) for candidate in candidates)
    raise ArchiveError(f"{manual_dir} has no {places}.")


def require_file(path: pathlib.Path, remedy: str = "") -> pathlib.Path:
    """`path`, if it is a file; else ArchiveError with the remedy."""
    if not path.is_file():
        raise ArchiveError(f"{path} is missing.{' ' if remedy else ''}{remedy}")
    return path


def read_rows(path: pathlib.Path) -> list[list[str]]:
    """The lines of a text file as lists of words, without empty lines."""
    lines = require_file(path).read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split() for line in lines if line.strip()]


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Image files directly in `folder`, by name; ArchiveError if there are none."""
    paths = sorted(folder.glob("*")) if folder.is_dir() else []
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    if not images:
        raise ArchiveError(f"{folder} has no images; unpack the archive again.")
    return images


def read_image_bytes(path: pathlib.Path) -> bytes:
    """The content of an image file; ArchiveError if its header cannot be read."""
    content = require_file(path).read_bytes()
    try:
        _ = EncodedImage(content, os.fspath(path)).shape
    except DecodeError as error:
        raise ArchiveError(f"{path} is no readable image ({error.reason}); unpack the archive again.") from error
    return content


def split_evenly(size: int, seed: int) -> dict[str, np.ndarray]:
    """80/10/10 splits of range(size) under a fixed permutation, each sorted, for sets without official splits."""
    return {split: np.sort(fixed_split(size, split, seed)) for split in SPLITS}
