"""AFHQ and Tiny-ImageNet: miniature archives, prepared and read back."""

import sys

import numpy as np
import pytest

from soda_jax import data
from soda_jax.data.builders import ArchiveError
from tests.data.builders import miniatures


def _check(name, root, splits, known):
    seen = set()
    for split, size in splits.items():
        dataset = data.load_dataset(name, root, split)
        assert len(dataset) == size
        for index in range(size):
            example = dataset[index]
            assert known[example["image"].tobytes()] == (split, int(example["label"]))
            seen.add(example["image"].tobytes())
    assert seen == set(known)


@pytest.mark.parametrize(
    ("name", "folder", "held_out"),
    [("afhq/v2", "afhq_v2", "test"), ("afhq/v2", ".", "test"), ("afhq/v1", "afhq", "val")],
)
def test_afhq(tmp_path, prepare, name, folder, held_out):
    before = set(sys.modules)
    known = miniatures.afhq(tmp_path / "manual" / folder, held_out)
    root = prepare(name, tmp_path / "manual", ITEMS_PER_SHARD=4)
    _check(name, root, {"train": 9, "test": 6}, known)
    assert data.load_dataset(name, root, "train").labels["label"].classes == ("cat", "dog", "wild")
    assert "tensorflow" not in set(sys.modules) - before


def test_afhq_without_its_folders(tmp_path, prepare):
    miniatures.afhq(tmp_path / "manual", "val")
    with pytest.raises(ArchiveError, match="has no afhq_v2/test/cat or afhq/test/cat or test/cat"):
        prepare("afhq/v2", tmp_path / "manual")


def test_a_broken_image_is_named(tmp_path, prepare):
    miniatures.afhq(tmp_path / "manual")
    broken = next((tmp_path / "manual" / "train" / "dog").iterdir())
    broken.write_bytes(b"nothing")
    with pytest.raises(ArchiveError, match=f"{broken.name} is no readable image"):
        prepare("afhq/v2", tmp_path / "manual")


def test_tiny_imagenet(tmp_path, prepare):
    known = miniatures.tiny_imagenet(tmp_path / "manual" / "tiny-imagenet-200")
    root = prepare("tiny_imagenet", tmp_path / "manual")
    _check("tiny_imagenet", root, {"train": 6, "validation": 3}, known)
    label = data.load_dataset("tiny_imagenet", root, "train").labels["label"]
    assert label.sizes == (3,) and label.classes == ("n01 goldfish", "n02 crane", "n03 crane")


def test_a_batch_of_the_prepared_set(tmp_path, prepare):
    miniatures.afhq(tmp_path / "manual")
    dataset = data.load_dataset("afhq", prepare("afhq/v2", tmp_path / "manual"), "train")
    spec = data.ViewSpec(policy="class", source_resolution=4, target_resolution=4)
    batch = data.train_batches(dataset, spec, batch_size=4, seed=0)[0]
    assert batch["source"].shape == (4, 1, 4, 4, 3) and np.all(batch["label"] < 3)
