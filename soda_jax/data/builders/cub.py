"""Caltech-UCSD Birds-200-2011 (Wah et al. 2011) with its 312 attributes, which TFDS's `caltech_birds2011` lacks."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from soda_jax.data.builders.base import ArchiveError, ManualBuilder, find_folder, read_image_bytes, read_rows
from soda_jax.data.decode import EncodedImage


class _Bird(NamedTuple):
    path: pathlib.Path
    label: int
    box: tuple[float, float, float, float]  # left, top, width, height in pixels
    attributes: bytes  # one byte a flag


class Cub(ManualBuilder):
    """`image`, `label` (200 species), `attributes` (312 flags, as seen in this image) and `bbox`; official splits.

    The manual folder has what CUB_200_2011.tgz contains: `CUB_200_2011` and, beside it or in it, `attributes.txt`.
    The names of the attributes are in the dataset's metadata.
    """

    ITEMS_PER_SHARD = 1000

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(),
            "attributes": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
            "bbox": tfds.features.BBoxFeature(),
            "file_name": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
            metadata=tfds.core.MetadataDict(),
        )

    def read_archive(self, manual_dir: pathlib.Path) -> dict[str, list[_Bird]]:
        root = find_folder(manual_dir, ("CUB_200_2011", ""), "images.txt")
        files = _by_number(root / "images.txt")
        names = _by_number(find_folder(root, ("attributes", "", ".."), "attributes.txt") / "attributes.txt")
        classes = _by_number(root / "classes.txt")
        labels = _by_number(root / "image_class_labels.txt")
        boxes = _by_number(root / "bounding_boxes.txt")
        is_training = _by_number(root / "train_test_split.txt")
        attributes = _read_attributes(root / "attributes" / "image_attribute_labels.txt", len(files), len(names))
        self.info.features["label"].names = [row[0] for row in classes.values()]
        self.info.metadata["attributes"] = [row[0] for row in names.values()]
        splits: dict[str, list[_Bird]] = {"train": [], "test": []}
        for number, (file,) in files.items():
            bird = _Bird(
                root / "images" / file,
                int(labels[number][0]) - 1,
                tuple(map(float, boxes[number])),
                attributes[number - 1].tobytes(),
            )
            splits["train" if is_training[number][0] == "1" else "test"].append(bird)
        return splits

    def make_examples(self, items: Sequence[_Bird]) -> Iterator[dict[str, Any]]:
        for bird in items:
            content = read_image_bytes(bird.path)
            height, width, _ = EncodedImage(content).shape
            left, top, box_width, box_height = bird.box
            corners = np.array([top / height, left / width, (top + box_height) / height, (left + box_width) / width])
            ymin, xmin, ymax, xmax = np.clip(corners, 0, 1).tolist()
            yield {
                "image": content,
                "label": bird.label,
                "attributes": np.frombuffer(bird.attributes, np.bool_),
                "bbox": tfds.features.BBox(ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax),
                "file_name": bird.path.name,
            }


def _by_number(path: pathlib.Path) -> dict[int, list[str]]:
    """Rows of a file whose first column counts from 1."""
    rows = {int(row[0]): row[1:] for row in read_rows(path)}
    if list(rows) != list(range(1, len(rows) + 1)):
        raise ArchiveError(f"{path}: its rows are not numbered 1, 2, ...")
    return rows


def _read_attributes(path: pathlib.Path, num_images: int, num_attributes: int) -> np.ndarray:
    """Whether an attribute is present: bool [images, attributes]."""
    present = np.zeros((num_images, num_attributes), np.bool_)
    count = 0
    with open(path, encoding="ascii") as lines:
        for line in lines:
            # image, attribute, present, certainty, time; a few rows of the official file have more columns.
            image, attribute, flag = line.split(None, 3)[:3]
            present[int(image) - 1, int(attribute) - 1] = flag == "1"
            count += 1
    if count != present.size:
        raise ArchiveError(f"{path} has {count:,} rows, expected {num_images:,} images x {num_attributes} attributes.")
    return present
