"""Miniatures with the features of TFDS's own datasets: what becomes image, label, attributes, factors, and splits."""

import io
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from soda_jax import data
from soda_jax.data.datasets.tfds_features import BoxedImage

SHAPES3D = {"floor_hue": 10, "wall_hue": 10, "object_hue": 10, "scale": 8, "shape": 4, "orientation": 15}
NORB = {"category": 5, "elevation": 9, "azimuth": 18, "lighting": 6}
BOX = (0.125, 1 / 6, 0.875, 1 / 3)  # of 40 x 60 pixels: rows 5..35, columns 10..20


def _pixels(number, shape):
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


class _Mini(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    SIZES = {"train": 6, "test": 3}
    SUPERVISED = None

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(self.features()), supervised_keys=self.SUPERVISED
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(size) for split, size in self.SIZES.items()}

    def _generate_examples(self, size):
        for n in range(size):
            yield n, self.example(n)


class MiniShapes3d(_Mini):
    SIZES = {"train": 40}

    def features(self):
        labels = {f"label_{name}": tfds.features.ClassLabel(num_classes=size) for name, size in SHAPES3D.items()}
        values = {f"value_{name}": np.float32 for name in SHAPES3D}
        return {"image": tfds.features.Image(shape=(8, 8, 3)), **labels, **values}

    def example(self, n):
        labels = {f"label_{name}": (n + i) % size for i, (name, size) in enumerate(SHAPES3D.items())}
        values = {f"value_{name}": 0.5 for name in SHAPES3D}
        return {"image": _png(_pixels(n, (8, 8, 3))), **labels, **values}


class MiniNorb(_Mini):
    SUPERVISED = ("image", "label_category")

    def features(self):
        labels = {f"label_{name}": tfds.features.ClassLabel(num_classes=size) for name, size in NORB.items()}
        images = {key: tfds.features.Image(shape=(12, 12, 1)) for key in ("image", "image2")}
        return {**images, "instance": tfds.features.ClassLabel(num_classes=10), **labels}

    def example(self, n):
        labels = {f"label_{name}": (n + i) % size for i, (name, size) in enumerate(NORB.items())}
        images = {"image": _png(_pixels(n, (12, 12))), "image2": _png(_pixels(100 + n, (12, 12)))}
        return {**images, "instance": n % 10, **labels}


class MiniBirds(_Mini):
    def features(self):
        return {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=200),
            "label_name": tfds.features.Text(),
            "bbox": tfds.features.BBoxFeature(),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
        }

    def example(self, n):
        return {
            "image": _png(_pixels(n, (40, 60, 3))),
            "image/filename": f"{n}.jpg",
            "label": n,
            "label_name": "bird",
            "bbox": tfds.features.BBox(*BOX),
            "segmentation_mask": _png(np.zeros((40, 60), np.uint8)),
        }


class MiniFaces(_Mini):
    def features(self):
        return {
            "image": tfds.features.Image(shape=(9, 7, 3), encoding_format="jpeg"),
            "landmarks": {"lefteye_x": np.int64, "lefteye_y": np.int64},
            "attributes": {"Bald": np.bool_, "Smiling": np.bool_},
            "identity": {"Identity_No": np.int64},
        }

    def example(self, n):
        attributes = {"Bald": bool(n & 1), "Smiling": bool(n & 2)}
        landmarks = {"lefteye_x": 3, "lefteye_y": 4}
        image = _png(_pixels(n, (9, 7, 3)))
        return {"image": image, "landmarks": landmarks, "attributes": attributes, "identity": {"Identity_No": n}}


class MiniCifar100(_Mini):
    SUPERVISED = ("image", "label")

    def features(self):
        return {
            "coarse_label": tfds.features.ClassLabel(num_classes=20),
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(num_classes=100),
        }

    def example(self, n):
        return {"coarse_label": 0, "id": str(n), "image": _png(_pixels(n, (8, 8, 3))), "label": 10 + n}


class MiniLsunScene(_Mini):
    SIZES = {"train": 4, "validation": 2}

    def features(self):
        return {"id": tfds.features.Text(), "image": tfds.features.Image(encoding_format="jpeg")}

    def example(self, n):
        return {"id": str(n), "image": _png(_pixels(n, (6 + n, 7, 3)))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for mini in (MiniShapes3d, MiniNorb, MiniBirds, MiniFaces, MiniCifar100, MiniLsunScene):
        mini(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def _keys_of(dataset):
    return {dataset[i]["image"].tobytes() for i in range(len(dataset))}


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_shapes3d_factors(root, cache_bytes):
    dataset = data.load_dataset("mini_shapes3d", root, "all", cache_bytes=cache_bytes)
    factors = dataset.labels["factors"]
    assert dict(zip(factors.names, factors.sizes, strict=True)) == SHAPES3D
    assert set(dataset.labels) == {"factors"}
    number = {_pixels(n, (8, 8, 3)).tobytes(): n for n in range(40)}
    for index in range(len(dataset)):
        n = number[dataset[index]["image"].tobytes()]
        expected = [(n + i) % size for i, size in enumerate(SHAPES3D.values())]
        assert dataset[index]["factors"].tolist() == expected


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_set_with_one_split_is_divided_80_10_10(root, cache_bytes):
    parts = {
        split: data.load_dataset("mini_shapes3d", root, split, cache_bytes=cache_bytes)
        for split in ("train", "validation", "test", "all")
    }
    keys = {split: _keys_of(part) for split, part in parts.items()}
    assert {split: len(part) for split, part in parts.items()} == {"train": 32, "validation": 4, "test": 4, "all": 40}
    assert keys["train"] | keys["validation"] | keys["test"] == keys["all"] and len(keys["all"]) == 40
    again = data.load_dataset("mini_shapes3d", root, "test", cache_bytes=0)
    np.testing.assert_array_equal(again[1]["image"], parts["test"][1]["image"])
    # Slices stay TFDS's own.
    assert len(data.load_dataset("mini_shapes3d", root, "train[:50%]")) == 20


def test_official_splits_are_left_alone(root):
    assert len(data.load_dataset("mini_lsun_scene", root, "train")) == 4
    assert len(data.load_dataset("mini_lsun_scene", root, "validation")) == 2
    with pytest.raises(ValueError, match="'test' is unknown"):
        data.load_dataset("mini_lsun_scene", root, "test")


def test_smallnorb_is_stereo(root):
    left = data.load_dataset("mini_norb", root, "train")
    right = data.load_dataset("mini_norb", root, "train", eyes="right")
    both = data.load_dataset("mini_norb", root, "train", eyes="both")
    assert left.labels["factors"].sizes == (5, 9, 18, 6)
    assert left.labels["factors"].names == ("category", "elevation", "azimuth", "lighting")
    assert left.labels["label"].sizes == (5,)
    number = {np.repeat(_pixels(n, (12, 12))[..., None], 3, axis=2).tobytes(): n for n in range(6)}
    for index in range(6):
        n = number[left[index]["image"].tobytes()]
        assert left[index]["factors"].tolist() == [n % 5, n + 1, n + 2, (n + 3) % 6]
        assert left[index]["label"] == n % 5
        np.testing.assert_array_equal(right[index]["image"][..., 0], _pixels(100 + n, (12, 12)))
        views = both[index]["views"]
        np.testing.assert_array_equal(views[0]["image"], left[index]["image"])
        np.testing.assert_array_equal(views[1]["image"], right[index]["image"])
    spec = data.ViewSpec(policy="augment", source_resolution=8, target_resolution=8)
    assert data.train_batches(both, spec, batch_size=2, seed=0)[0]["source"].shape == (2, 1, 8, 8, 3)
    with pytest.raises(ValueError, match="eyes='both': dataset 'mini_faces' has no stereo pairs"):
        data.load_dataset("mini_faces", root, "train", eyes="both")
    with pytest.raises(ValueError, match="eyes='middle' is unknown"):
        data.load_dataset("mini_norb", root, "train", eyes="middle")


def test_birds_are_cut_to_their_box(root):
    dataset = data.load_dataset("mini_birds", root, "train")
    assert dataset.labels["label"].sizes == (200,) and set(dataset.labels) == {"label"}
    for index in range(6):
        example = dataset.get_many(np.array([index]))[0]
        # The longer side is 30 rows, the box's centre (20, 15): rows 5..35, columns 0..30.
        assert example["image"].shape == (30, 30, 3)
        np.testing.assert_array_equal(
            np.asarray(example["image"]), _pixels(int(example["label"]), (40, 60, 3))[5:35, :30]
        )
    spec = data.ViewSpec(source_resolution=16, target_resolution=8)
    assert data.train_batches(dataset, spec, batch_size=3, seed=0)[0]["target"].shape == (3, 8, 8, 3)


def test_a_box_at_the_border_is_padded():
    pixels = _pixels(0, (10, 20, 3))
    # Rows 2..8, columns 18..20: the square of 6 reaches columns 16..22, two beyond the image.
    image = BoxedImage(_png(pixels), (0.2, 0.9, 0.8, 1.0))
    expected = np.concatenate([pixels[2:8, 16:20], pixels[2:8, 19:20], pixels[2:8, 19:20]], axis=1)
    np.testing.assert_array_equal(image.decode(), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).decode(), expected)
    assert image.shape == (6, 6, 3) and image.reduction(8) == 1
    wide = BoxedImage(_png(pixels), (0.0, 0.0, 1.0, 1.0)).decode()
    assert wide.shape == (20, 20, 3)
    np.testing.assert_array_equal(wide[5:15], pixels)
    np.testing.assert_array_equal(wide[:5], np.repeat(pixels[:1], 5, axis=0))


def test_attributes_are_the_booleans_only(root):
    dataset = data.load_dataset("mini_faces", root, "train")
    assert set(dataset.labels) == {"attributes"} and dataset.labels["attributes"].names == ("Bald", "Smiling")
    number = {_pixels(n, (9, 7, 3)).tobytes(): n for n in range(6)}
    for index in range(6):
        n = number[dataset[index]["image"].tobytes()]
        assert dataset[index]["attributes"].tolist() == [n & 1, n >> 1 & 1]


def test_fine_labels_and_labels_of_all(root):
    for cache_bytes in (0, 1 << 20):
        dataset = data.load_dataset("mini_cifar100", root, "train", cache_bytes=cache_bytes)
        assert set(dataset.labels) == {"label"} and dataset.labels["label"].sizes == (100,)
        assert sorted(int(dataset[i]["label"]) for i in range(6)) == list(range(10, 16))
        np.testing.assert_array_equal(dataset.class_ids, [dataset[i]["label"] for i in range(6)])


def test_what_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=f"prepare_data --dataset=mpi3d/toy --manual_dir=.* --data_dir={tmp_path}"):
        data.load_dataset("mpi3d/toy", tmp_path, "train")
    with pytest.raises(ValueError, match="prepare_data --dataset=lsun/church_outdoor "):
        data.load_dataset("lsun/church_outdoor", tmp_path, "train")
    with pytest.raises(ValueError, match="prepare_data --dataset=afhq/v2 "):
        data.load_dataset("afhq", tmp_path, "train")
