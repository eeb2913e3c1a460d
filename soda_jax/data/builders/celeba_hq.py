"""CelebA-HQ (Karras et al. 2018) with the 40 attributes of CelebA, which TFDS's `celeb_a_hq` lacks."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from soda_jax.data.builders.base import ArchiveError, ManualBuilder, find_folder, read_image_bytes, read_rows

ATTRIBUTES = tuple(
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young".split()
)
_PARTITIONS = {"train": 0, "validation": 1, "test": 2}
# CelebA's official partition, list_eval_partition.txt: images 1..162770 are for training, ..182637 for validation.
_FIRST_VALIDATION, _FIRST_TEST = 162_771, 182_638
_Item = tuple[pathlib.Path, tuple[int, ...], str]


class CelebaHq(ManualBuilder):
    """`image` 1024 x 1024, `attributes` and `original`, the name of the image in CelebA.

    The manual folder has what CelebAMask-HQ.zip contains, below `CelebAMask-HQ` or at its top: `CelebA-HQ-img` with the
    images 0.jpg .. 29999.jpg (or .png), `CelebA-HQ-to-CelebA-mapping.txt`, `CelebAMask-HQ-attribute-anno.txt`. Without
    the last one CelebA's own `list_attr_celeba.txt` is read, through the mapping. The splits are CelebA's official
    ones, through the mapping: `list_eval_partition.txt` if it is there, else the image numbers that it divides at.
    """

    ITEMS_PER_SHARD = 500

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "attributes": {name: np.bool_ for name in ATTRIBUTES},
            "original": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), homepage="https://github.com/switchablenorms/CelebAMask-HQ"
        )

    def read_archive(self, manual_dir: pathlib.Path) -> dict[str, list[_Item]]:
        root = find_folder(manual_dir, ("CelebAMask-HQ", ""), "CelebA-HQ-to-CelebA-mapping.txt")
        originals = {row[0]: row[2] for row in read_rows(root / "CelebA-HQ-to-CelebA-mapping.txt")[1:]}
        attributes = _read_attributes(root, originals)
        partition = _read_partition(root)
        splits: dict[str, list[_Item]] = {split: [] for split in _PARTITIONS}
        for number, original in originals.items():
            if number not in attributes or original not in partition:
                raise ArchiveError(f"image {number} ({original} in CelebA) has no attributes or no place in a split.")
            splits[partition[original]].append((_image_path(root, number), attributes[number], original))
        return splits

    def make_examples(self, items: Sequence[_Item]) -> Iterator[dict[str, Any]]:
        for path, values, original in items:
            attributes = {name: value > 0 for name, value in zip(ATTRIBUTES, values, strict=True)}
            yield {"image": read_image_bytes(path), "attributes": attributes, "original": original}


def _image_path(root: pathlib.Path, number: str) -> pathlib.Path:
    for suffix in (".jpg", ".png"):
        path = root / "CelebA-HQ-img" / f"{number}{suffix}"
        if path.exists():
            return path
    raise ArchiveError(f"{root / 'CelebA-HQ-img'} has neither {number}.jpg nor {number}.png; unpack the archive again.")


def _read_attributes(root: pathlib.Path, originals: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """For each number of an image its 40 values, -1 or 1."""
    own, celeba = root / "CelebAMask-HQ-attribute-anno.txt", root / "list_attr_celeba.txt"
    path = own if own.exists() or not celeba.exists() else celeba
    # First line: how many rows; second: the names.
    _, names, *rows = read_rows(path)
    if tuple(names) != ATTRIBUTES:
        raise ArchiveError(f"{path} does not have CelebA's 40 attributes in their order.")
    if any(len(row) != 1 + len(ATTRIBUTES) for row in rows):
        raise ArchiveError(f"{path}: a row has not {len(ATTRIBUTES)} values.")
    values = {row[0].rsplit(".", 1)[0]: tuple(map(int, row[1:])) for row in rows}
    if path == own:
        return values
    return {number: values[stem] for number, o in originals.items() if (stem := o.rsplit(".", 1)[0]) in values}


class _NumberedPartition:
    """CelebA's partition by the number in a file's name."""

    def __contains__(self, name: str) -> bool:
        return name.split(".")[0].isdigit()

    def __getitem__(self, name: str) -> str:
        number = int(name.split(".")[0])
        return "train" if number < _FIRST_VALIDATION else "validation" if number < _FIRST_TEST else "test"


def _read_partition(root: pathlib.Path) -> dict[str, str] | _NumberedPartition:
    """The split of every image of CelebA."""
    path = root / "list_eval_partition.txt"
    if not path.exists():
        return _NumberedPartition()
    split_of = {str(value): split for split, value in _PARTITIONS.items()}
    return {name: split_of[value] for name, value in read_rows(path)}
