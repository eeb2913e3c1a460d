"""CelebA-HQ and CUB: miniature archives, prepared and read back."""

import numpy as np
import pytest

from soda_jax import data
from soda_jax.data.builders import ArchiveError
from soda_jax.data.builders.celeba_hq import ATTRIBUTES
from tests.data.builders import miniatures


def _check_faces(root, known):
    found = {}
    for split in ("train", "validation", "test"):
        dataset = data.load_dataset("celeba_hq", root, split)
        assert dataset.labels["attributes"].names == ATTRIBUTES and len(ATTRIBUTES) == 40
        for i in range(len(dataset)):
            found[dataset[i]["image"].tobytes()] = (split, dataset[i]["attributes"].tolist())
    assert found == {key: value[:2] for key, value in known.items()}


def test_celeba_hq(tmp_path, prepare):
    known = miniatures.celeba_hq(tmp_path / "manual" / "CelebAMask-HQ", ATTRIBUTES)
    _check_faces(prepare("celeba_hq", tmp_path / "manual"), known)


def test_celeba_hq_with_the_files_of_celeba(tmp_path, prepare):
    known = miniatures.celeba_hq(tmp_path / "manual", ATTRIBUTES)
    own = tmp_path / "manual" / "CelebAMask-HQ-attribute-anno.txt"
    own.unlink()
    rows = ["202599", " ".join(ATTRIBUTES), "000001.jpg " + " ".join(["-1"] * 40)]
    partition = ["000001.jpg 1"]
    for split, values, original in known.values():
        rows.append(f"{original} " + " ".join("1" if value else "-1" for value in values))
        partition.append(f"{original} {('train', 'validation', 'test').index(split)}")
    (tmp_path / "manual" / "list_attr_celeba.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "manual" / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    _check_faces(prepare("celeba_hq", tmp_path / "manual"), known)


def test_celeba_hq_with_something_missing(tmp_path, prepare):
    miniatures.celeba_hq(tmp_path / "manual", ATTRIBUTES)
    (tmp_path / "manual" / "CelebA-HQ-img" / "2.jpg").unlink()
    with pytest.raises(ArchiveError, match="neither 2.jpg nor 2.png"):
        prepare("celeba_hq", tmp_path / "manual")
    miniatures.celeba_hq(tmp_path / "manual", ("Young", *ATTRIBUTES[1:]))
    with pytest.raises(ArchiveError, match="40 attributes in their order"):
        prepare("celeba_hq", tmp_path / "manual")


def test_cub(tmp_path, prepare):
    known = miniatures.cub(tmp_path / "manual")
    root = prepare("cub", tmp_path / "manual")
    found = {}
    for split in ("train", "test"):
        dataset = data.load_dataset("cub", root, split)
        assert dataset.labels["label"].classes == ("001.Black_footed", "002.Laysan")
        assert dataset.labels["attributes"].names == ("has_bill::hooked", "has_bill::cone", "has_wing::blue")
        for i in range(len(dataset)):
            example = dataset[i]
            assert example["attributes"].dtype == np.int32
            found[example["image"].tobytes()] = (split, int(example["label"]), example["attributes"].tolist())
    assert found == known


def test_cub_with_rows_missing(tmp_path, prepare):
    miniatures.cub(tmp_path / "manual")
    path = tmp_path / "manual" / "CUB_200_2011" / "attributes" / "image_attribute_labels.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ArchiveError, match="has 14 rows, expected 5 images x 3 attributes"):
        prepare("cub", tmp_path / "manual")
