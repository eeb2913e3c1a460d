"""Archives with a folder of images per class: AFHQ and Tiny-ImageNet."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from soda_jax.data.builders.base import (
    ArchiveError,
    ManualBuilder,
    find_folder,
    list_images,
    read_image_bytes,
    read_rows,
)

_Item = tuple[pathlib.Path, int]


class _ClassFolders(ManualBuilder, skip_registration=True):
    """Base: an item is (image file, class)."""

    def make_examples(self, items: Sequence[_Item]) -> Iterator[dict[str, Any]]:
        for path, label in items:
            yield {"image": read_image_bytes(path), "label": label, "file_name": path.name}


class Afhq(_ClassFolders):
    """Animal Faces-HQ (Choi et al. 2020): 512-pixel faces of cats, dogs and wild animals.

    The manual folder has `train/{cat,dog,wild}` and, as the official hold-out, `val` (v1) or `test` (v2), at its top or
    below `afhq`, `afhq_v1` or `afhq_v2`. Both hold-outs are called "test" here, as the paper calls them.
    """

    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="v2", description="2021: PNG, better downsampling; 14,336 + 1,467 images."),
        tfds.core.BuilderConfig(name="v1", description="2020: JPEG; 14,630 + 1,500 images."),
    ]
    ITEMS_PER_SHARD = 256
    CLASSES = ("cat", "dog", "wild")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=self.CLASSES),
            "file_name": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), homepage="https://github.com/clovaai/stargan-v2"
        )

    def read_archive(self, manual_dir: pathlib.Path) -> dict[str, list[_Item]]:
        version = self.builder_config.name
        held_out = {"v1": "val", "v2": "test"}[version]
        root = find_folder(manual_dir, (f"afhq_{version}", "afhq", ""), f"{held_out}/cat")
        return {
            split: [
                (path, label) for label, name in enumerate(self.CLASSES) for path in list_images(root / folder / name)
            ]
            for split, folder in (("train", "train"), ("test", held_out))
        }


class TinyImagenet(_ClassFolders):
    """Tiny-ImageNet (Stanford CS231n): 200 classes of 500 + 50 images of 64 px; the test images have no labels.

    The manual folder has `tiny-imagenet-200` or its content. Classes are in the order of their WordNet ids, and called
    by the id and the first of its words.
    """

    ITEMS_PER_SHARD = 25_000

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(),
            "file_name": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), homepage="http://cs231n.stanford.edu"
        )

    def read_archive(self, manual_dir: pathlib.Path) -> dict[str, list[_Item]]:
        root = find_folder(manual_dir, ("tiny-imagenet-200", ""), "wnids.txt")
        ids = sorted(row[0] for row in read_rows(root / "wnids.txt"))
        words = dict(line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines() if "\t" in line)
        self.info.features["label"].names = [f"{i} {words.get(i, '').split(',')[0].strip()}".strip() for i in ids]
        number = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
        train = [(path, number[i]) for i in ids for path in list_images(root / "train" / i / "images")]
        validation = []
        for name, wordnet_id, *_ in read_rows(root / "val" / "val_annotations.txt"):
            if wordnet_id not in number:
                raise ArchiveError(f"val_annotations.txt: class {wordnet_id} of {name} is not in wnids.txt.")
            validation.append((root / "val" / "images" / name, number[wordnet_id]))
        return {"train": train, "validation": validation}
