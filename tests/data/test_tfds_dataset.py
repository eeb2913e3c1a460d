"""Reads sets that a builder of our own writes here, as PNG bytes, without TensorFlow."""

import io
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from soda_jax import data
from soda_jax.data import decode

NAMES = ("Bald", "Smiling")


def _image(number, shape):
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


class _Toy(tfds.core.GeneratorBasedBuilder):
    """Base of the toys: `sizes` examples a split; a key is the number of its image."""

    VERSION = tfds.core.Version("1.0.0")
    SIZES = {"train": 10, "test": 4}
    SHAPE = (12, 14, 3)

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(size) for name, size in self.SIZES.items()}


class ToyLabelled(_Toy):
    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            "number": np.int64,
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, size):
        for n in range(size):
            yield n, {"image": _png(_image(n, self.SHAPE)), "label": n % 3, "number": n}


class ToyFaces(_Toy):
    def _info(self):
        attributes = {name: np.bool_ for name in NAMES}
        features = {
            "attributes": tfds.features.FeaturesDict(attributes),
            "photo": tfds.features.Image(shape=(None, None, 3)),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, size):
        for n in range(size):
            attributes = {name: bool(n >> k & 1) for k, name in enumerate(NAMES)}
            yield n, {"photo": _png(_image(n, self.SHAPE)), "attributes": attributes}


class ToyGrey(_Toy):
    SHAPE = (12, 14, 1)

    def _info(self):
        features = {"image": tfds.features.Image(shape=self.SHAPE)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, size):
        for n in range(size):
            yield n, {"image": _png(_image(n, self.SHAPE))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for toy in (ToyLabelled, ToyFaces, ToyGrey):
        toy(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def _sorted_by_content(images):
    return sorted(image.tobytes() for image in images)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_images_and_labels_come_back(root, cache_bytes):
    dataset = data.load_dataset("toy_labelled", root, "train", cache_bytes=cache_bytes)
    assert len(dataset) == 10
    label = dataset.labels["label"]
    assert label.sizes == (3,) and label.classes == ("a", "b", "c")
    known = {_image(n, (12, 14, 3)).tobytes(): n % 3 for n in range(10)}
    examples = dataset.get_many(np.arange(10))
    assert len({np.asarray(e["image"]).tobytes() for e in examples}) == 10
    for index, example in enumerate(examples):
        assert known[np.asarray(example["image"]).tobytes()] == example["label"]
        assert np.asarray(example["label"]).dtype == np.int32
        np.testing.assert_array_equal(dataset[index]["image"], np.asarray(example["image"]))


def test_cached_equals_decoded_and_is_reused(root, monkeypatch):
    decoded = data.load_dataset("toy_labelled", root, "test", cache_bytes=0)
    cached = data.load_dataset("toy_labelled", root, "test")
    for index in range(4):
        for key in ("image", "label"):
            np.testing.assert_array_equal(cached[index][key], decoded[index][key])
    kind = type(cached)

    def fail(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(kind, "_read", fail)
    again = data.load_dataset("toy_labelled", root, "test")
    np.testing.assert_array_equal(again[2]["image"], cached[2]["image"])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_all_labels_at_once_are_read_from_the_records_once(root, cache_bytes, monkeypatch, tmp_path):
    """As views of another image of the class need them: later runs and copies for workers read no record."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = data.load_dataset("toy_labelled", root, "train", cache_bytes=cache_bytes)
    np.testing.assert_array_equal(dataset.class_ids, [dataset[i]["label"] for i in range(len(dataset))])
    again = data.load_dataset("toy_labelled", root, "train", cache_bytes=cache_bytes)
    monkeypatch.setattr(type(again), "_read", None)
    np.testing.assert_array_equal(again.class_ids, dataset.class_ids)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).class_ids, dataset.class_ids)


def test_labels_where_there_are_none(root):
    assert data.load_dataset("toy_grey", root, "train").class_ids is None


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_pickles_for_workers(root, cache_bytes):
    dataset = data.load_dataset("toy_labelled", root, "train", cache_bytes=cache_bytes)
    content = pickle.dumps(dataset)
    assert len(content) < 20_000
    np.testing.assert_array_equal(pickle.loads(content)[3]["image"], dataset[3]["image"])


def test_attributes_and_images_of_unknown_size(root):
    dataset = data.load_dataset("toy_faces", root, "train")
    assert dataset._cached is None
    assert dataset.labels["attributes"].sizes == (2, 2)
    assert dataset.labels["attributes"].names == NAMES
    known = {_image(n, (12, 14, 3)).tobytes(): [n & 1, n >> 1 & 1] for n in range(10)}
    for index in range(10):
        example = dataset[index]
        assert known[example["image"].tobytes()] == example["attributes"].tolist()
        assert example["attributes"].dtype == np.int32


def test_grey_becomes_rgb(root):
    dataset = data.load_dataset("toy_grey", root, "train")
    images = [dataset[i]["image"] for i in range(10)]
    assert dataset.labels == {} and images[0].shape == (12, 14, 3)
    expected = [np.repeat(_image(n, (12, 14, 1)), 3, axis=2) for n in range(10)]
    assert _sorted_by_content(images) == _sorted_by_content(expected)


def test_split_slices_and_unknown_splits(root):
    assert len(data.load_dataset("toy_labelled", root, "train[:50%]")) == 5
    with pytest.raises(ValueError, match=r"'valid' is unknown .*train \(10\), test \(4\)"):
        data.load_dataset("toy_labelled", root, "valid")


def test_missing_sets_name_the_remedy(root, tmp_path):
    with pytest.raises(ValueError, match=r"(?s)'toy_grey' is not prepared.*tfds.builder\('toy_grey'"):
        data.load_dataset("toy_grey", tmp_path, "train")
    with pytest.raises(ValueError, match="'no_such_set' is neither"):
        data.load_dataset("no_such_set", root, "train")


def test_set_in_another_format_names_the_remedy(root, tmp_path):
    builder = ToyGrey(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    info = builder.data_path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="(?s)stored as tfrecord.*convert_format"):
        data.load_dataset("toy_grey", tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_damaged_image_is_named_when_it_is_decoded(tmp_path, content):
    class ToyDamaged(_Toy, skip_registration=True):
        name = "toy_grey"

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 1))}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _generate_examples(self, size):
            yield 0, {"image": io.BytesIO(content)}

    ToyDamaged(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    dataset = data.load_dataset("toy_grey", tmp_path, "train", cache_bytes=0)
    example = dataset.get_many(np.array([0]))[0]
    with pytest.raises(decode.DecodeError, match="toy_grey train, example 0"):
        np.asarray(example["image"])


def test_batches_without_tensorflow(root):
    before = set(sys.modules)
    dataset = data.load_dataset("toy_labelled", root, "train")
    spec = data.ViewSpec(source_resolution=8, target_resolution=8)
    batch = data.train_batches(dataset, spec, batch_size=4, seed=0)[0]
    assert batch["target"].shape == (4, 8, 8, 3) and batch["label"].dtype == np.int32
    assert "tensorflow" not in set(sys.modules) - before
