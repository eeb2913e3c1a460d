"""What a TFDS dataset's features mean to us: images, labels, attributes, factors, boxes."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from soda_jax.data.datasets.base import Example, Labels
from soda_jax.data.decode import EncodedImage

EYES = ("left", "right", "both")
_FACTOR_PREFIX = "label_"


class RecordReader:
    """Makes examples of a dataset's records, by its features' types and names.

    image       the feature "image", or the first one; of a stereo pair, `image` and `image2`, what `eyes` says
    label       the ClassLabel "label", or that of the supervised keys (smallnorb: its category)
    attributes  a dict of booleans (celeb_a), or a vector of them whose names the metadata have (cub)
    factors     a dict of ClassLabels (mpi3d), or two and more called label_* (shapes3d, smallnorb)
    bbox        the image is cut to it, see `BoxedImage` (caltech_birds2011, cub)

    Args:
        info: of the prepared dataset.
        eyes: "left", "right" or "both"; the last two for stereo pairs only.

    Attributes:
        labels: what labels, attributes and factors there are.
        image_keys: the features that hold the images of an example, one or two.
        image_shape: (height, width, channels) where all images share it, else None.

    Raises:
        ValueError: there is no image, or no second eye.
    """

    def __init__(self, info: tfds.core.DatasetInfo, eyes: str):
        features = info.features
        self._name = info.name
        self.image_keys = _image_keys(info.name, features, eyes)
        shape = features[self.image_keys[0]].shape
        # The box cuts images to different sizes.
        self._boxed = _is(features, "bbox", tfds.features.BBoxFeature)
        self.image_shape = None if self._boxed or None in shape[:2] else tuple(shape)
        self._label_key = _label_key(info)
        self._attributes_key, attribute_names = _attributes(info)
        self._factor_keys, factor_names = _factors(features)
        self.labels: dict[str, Labels] = {}
        if self._label_key:
            label = features[self._label_key]
            classes = tuple(label.names) if label.num_classes else ()
            self.labels["label"] = Labels((label.num_classes,), ("label",), classes)
        if self._attributes_key:
            self.labels["attributes"] = Labels((2,) * len(attribute_names), attribute_names)
        if self._factor_keys:
            sizes = tuple(_get(features, key).num_classes for key in self._factor_keys)
            self.labels["factors"] = Labels(sizes, factor_names)

    def columns(self, record: Mapping[str, Any], name: str) -> Example:
        """Images (encoded) under their keys, and the labels, of a record whose images are still bytes.

        Args:
            name: what errors call the record.
        """
        columns: Example = {}
        for key in self.image_keys:
            if self._boxed:
                columns[key] = BoxedImage(record[key], record["bbox"], name)
            else:
                columns[key] = EncodedImage(record[key], name)
        if self._label_key:
            columns["label"] = np.int32(record[self._label_key])
        if self._attributes_key:
            values = record[self._attributes_key]
            if isinstance(values, Mapping):
                values = [values[key] for key in self.labels["attributes"].names]
            columns["attributes"] = np.array(values, np.int32)
        if self._factor_keys:
            columns["factors"] = np.array([_get(record, key) for key in self._factor_keys], np.int32)
        return columns

    def example(self, columns: Example) -> Example:
        """The example of some columns: its image under "image", or two as `views` without cameras."""
        labels = {key: columns[key] for key in self.labels}
        images = [{"image": columns[key]} for key in self.image_keys]
        return {**images[0], **labels} if len(images) == 1 else {"views": images, **labels}


class BoxedImage(EncodedImage):
    """An encoded image, cut to a square around a box (section D.2 of the paper: CUB).

    The square has the box's centre and its longer side. Where it leaves the image the border's pixels are repeated.

    Args:
        content: of the file.
        box: (top, left, bottom, right) as shares of the image's height and width.
        name: what errors call it.
    """

    def __init__(self, content: bytes, box: np.ndarray, name: str | None = None):
        super().__init__(content, name)
        self._box = tuple(float(x) for x in box)

    def _square(self) -> tuple[int, int, int]:
        """Top, left and side in pixels."""
        height, width, _ = super().shape
        top, left, bottom, right = np.array(self._box) * (height, width, height, width)
        side = max(1, round(max(bottom - top, right - left)))
        return round((top + bottom - side) / 2), round((left + right - side) / 2), side

    @property
    def shape(self) -> tuple[int, int, int]:
        side = self._square()[2]
        return (side, side, 3)

    def reduction(self, limit: float) -> int:
        return 1

    def decode(self, reduction: int = 1) -> np.ndarray:
        top, left, side = self._square()
        image = super().decode()
        height, width, _ = image.shape
        inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
        margins = (max(-top, 0), max(top + side - height, 0), max(-left, 0), max(left + side - width, 0))
        return cv2.copyMakeBorder(inside, *margins, cv2.BORDER_REPLICATE)

    def __getstate__(self):
        return {**super().__getstate__(), "_box": self._box}


def decoded(columns: Example) -> Example:
    """The same columns with every image as uint8 [h, w, 3]."""
    return {key: value.decode() if isinstance(value, EncodedImage) else value for key, value in columns.items()}


def _image_keys(name: str, features, eyes: str) -> tuple[str, ...]:
    if eyes not in EYES:
        raise ValueError(f"eyes={eyes!r} is unknown; choose one of {', '.join(EYES)}.")
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if not images:
        raise ValueError(f"dataset {name!r} has no image; its features are {', '.join(features.keys())}.")
    left = "image" if "image" in images else images[0]
    if eyes == "left":
        return (left,)
    if "image2" not in images:
        raise ValueError(f"eyes={eyes!r}: dataset {name!r} has no stereo pairs (image, image2); use 'left'.")
    return ("image2",) if eyes == "right" else (left, "image2")


def _label_key(info) -> str | None:
    supervised = info.supervised_keys or ()
    candidates = ("label", supervised[-1] if len(supervised) == 2 else None)
    return next((key for key in candidates if _is(info.features, key, tfds.features.ClassLabel)), None)


def _attributes(info) -> tuple[str | None, tuple[str, ...]]:
    """The feature of the attributes, and their names."""
    for key, feature in info.features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            leaves = [(f.shape, f.np_dtype) for f in feature.values()]
            if leaves and all(leaf == ((), np.bool_) for leaf in leaves):
                return key, tuple(feature.keys())
    if _is(info.features, "attributes", tfds.features.Tensor) and info.metadata and "attributes" in info.metadata:
        return "attributes", tuple(info.metadata["attributes"])
    return None, ()


def _factors(features) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """The paths of the factors' features, and the factors' names."""
    for key, feature in features.items():
        is_dict = isinstance(feature, tfds.features.FeaturesDict)
        if is_dict and all(isinstance(f, tfds.features.ClassLabel) for f in feature.values()):
            return tuple((key, name) for name in feature.keys()), tuple(feature.keys())
    keys = [
        key
        for key, feature in features.items()
        if key.startswith(_FACTOR_PREFIX) and isinstance(feature, tfds.features.ClassLabel)
    ]
    if len(keys) < 2:
        return (), ()
    return tuple((key,) for key in keys), tuple(key.removeprefix(_FACTOR_PREFIX) for key in keys)


def _is(features, key: str | None, kind: type) -> bool:
    return key in features and isinstance(features[key], kind)


def _get(nested, path: tuple[str, ...]):
    for key in path:
        nested = nested[key]
    return nested
