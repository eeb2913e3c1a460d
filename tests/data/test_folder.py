import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image

from soda_jax import data
from soda_jax.data.datasets.base import hashed_split, split_folders
from soda_jax.data.decode import decode_image


def _save(path, mode="RGB", colour=(200, 30, 60), size=(24, 16), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    for number in range(40):
        _save(tmp_path / ("dog" if number % 3 else "cat") / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    _save(tmp_path / ".hidden" / "thumb.png")
    return tmp_path


def _open_splits(root):
    return [data.load_dataset("folder", root, s) for s in ("train", "validation", "test")]


def test_hash_split_partitions_and_does_not_move_files(tree):
    before = _open_splits(tree)
    assert sum(len(dataset) for dataset in before) == 40
    assert len(before[0]) > 20
    members = [set(dataset._paths) for dataset in before]
    assert not members[0] & members[1] and not members[0] & members[2]
    for number in range(100, 130):
        _save(tree / "fox" / f"{number}.webp")
    for old, dataset in zip(members, _open_splits(tree), strict=True):
        assert old <= set(dataset._paths)


def test_labels_are_sorted_folders_the_same_in_all_splits(tree):
    for dataset in _open_splits(tree):
        label = dataset.labels["label"]
        assert label.sizes == (2,) and label.classes == ("cat", "dog")
        for index in range(len(dataset)):
            example = dataset[index]
            assert example["label"] == (dataset._paths[index].split("/")[0] == "dog")
            assert example["image"].shape == (16, 24, 3)


def test_split_folders_are_used_when_they_exist(tmp_path):
    _save(tmp_path / "train" / "a" / "1.png")
    _save(tmp_path / "train" / "b" / "deeper" / "2.JPG")
    _save(tmp_path / "test" / "b" / "3.jpeg")
    _save(tmp_path / "elsewhere.png")
    train = data.load_dataset("folder", tmp_path, "train")
    assert len(train) == 2 and [train[i]["label"] for i in range(2)] == [0, 1]
    assert data.load_dataset("folder", tmp_path, "test")[0]["label"] == 1
    with pytest.raises(ValueError, match=r"'validation' .* empty.*train \(2\).*test \(1\)"):
        data.load_dataset("folder", tmp_path, "validation")


def test_val_is_validation_and_what_is_not_read_is_named(tmp_path, caplog):
    for split in ("train", "val", "car"):
        _save(tmp_path / split / "a" / "1.png")
    assert len(data.load_dataset("folder", tmp_path, "train")) == 1
    assert len(data.load_dataset("folder", tmp_path, "validation")) == 1
    assert "nothing else in it is read: not car." in caplog.text
    with pytest.raises(ValueError, match=r"'test' .* empty.*not car.*config.data.eval_split"):
        data.load_dataset("folder", tmp_path, "test")


def test_links_double_no_file(tree):
    count = sum(map(len, _open_splits(tree)))
    (tree / "latest").symlink_to(tree / "cat")
    (tree / "round").symlink_to(tree)
    assert sum(map(len, _open_splits(tree))) == count


def test_flat_folder_has_no_label(tmp_path):
    for number in range(10):
        _save(tmp_path / "train" / f"{number}.png")
    dataset = data.load_dataset("folder", tmp_path, "train")
    assert dataset.labels == {} and "label" not in dataset[0]


def test_rotated_by_exif(tmp_path):
    image = Image.new("RGB", (24, 16), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 12, 16))  # White on the left.
    exif = Image.Exif()
    exif[0x0112] = 6  # To be shown turned by 90 degrees clockwise: white on top.
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    result = decode_image(tmp_path / "a.jpg")
    assert result.shape == (24, 16, 3)
    assert result[:10].mean() > 250 and result[14:].mean() < 5


@pytest.mark.parametrize(
    ("name", "mode", "colour", "expected"),
    [
        ("a.png", "RGBA", (0, 0, 200, 0), (255, 255, 255)),
        ("a.png", "RGBA", (0, 0, 200, 255), (0, 0, 200)),
        ("a.png", "RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("a.webp", "RGBA", (0, 0, 200, 0), (255, 255, 255)),
        ("a.png", "LA", (90, 0), (255, 255, 255)),
        ("a.png", "L", 90, (90, 90, 90)),
        ("a.png", "1", 1, (255, 255, 255)),
        ("a.jpg", "L", 90, (90, 90, 90)),
        ("a.jpg", "CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("a.webp", "RGB", (10, 200, 30), (10, 200, 30)),
    ],
)
def test_all_kinds_become_rgb(tmp_path, name, mode, colour, expected):
    _save(tmp_path / name, mode, colour)
    image = decode_image(tmp_path / name)
    assert image.shape == (16, 24, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= 6


def test_palette_with_transparency(tmp_path):
    _save(tmp_path / "a.png", "P", 0, transparency=0)
    assert np.all(decode_image(tmp_path / "a.png") == 255)


def test_damaged_image_is_named(tmp_path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    for content in (b"no image", buffer.getvalue()[:1500], b""):
        path = tmp_path / "train" / "broken.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(ValueError, match="broken.jpg' cannot be decoded"):
            data.load_dataset("folder", tmp_path, "train")[0]


def test_missing_folder_and_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        data.load_dataset("folder", tmp_path / "absent", "train")
    with pytest.raises(ValueError, match="is not a folder"):
        data.load_dataset("folder", None, "train")
    with pytest.raises(ValueError, match="'all' is unknown"):
        data.load_dataset("folder", tmp_path, "all")
    with pytest.raises(ValueError, match="'train' .* empty"):
        data.load_dataset("folder", tmp_path, "train")


def test_folder_trains(tree):
    spec = data.ViewSpec(source_resolution=12, target_resolution=12)
    batch = data.train_batches(_open_splits(tree)[0], spec, batch_size=8, seed=0)[0]
    assert batch["target"].shape == (8, 12, 12, 3) and batch["label"].dtype == np.int32


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "Test"),
        ("TRAIN", "VALIDATION", "TEST"),
        ("tRaIn", "Valid", "teST"),
        ("Training", "val", "Testing"),
        ("training", "valid", "testing"),
    ],
)
def test_folders_of_splits_may_be_in_capitals(tmp_path, names):
    for name in names:
        for number in range(3):
            _save(tmp_path / name / ("cat", "dog")[number % 2] / f"{number}.png")
    for name, dataset in zip(names, _open_splits(tmp_path), strict=True):
        assert {path.split("/")[0] for path in dataset._paths} == {name} and len(dataset) == 3
        assert dataset.labels["label"].classes == ("cat", "dog")


@pytest.mark.parametrize(
    "names", [("valid", "invalid"), ("testing", "mining"), ("training", "resting"), ("Valid", "testing")]
)
def test_classes_may_be_called_nearly_as_splits(tmp_path, names):
    """`training`, `valid` and `testing` are splits only where folders for training and for another split lie there."""
    for name in names:
        for number in range(40):
            _save(tmp_path / name / f"{number}.png")
    splits = _open_splits(tmp_path)
    assert sum(map(len, splits)) == 80
    for dataset in splits:
        assert dataset.labels["label"].classes == tuple(sorted(names)) and len(dataset) < 80


def test_a_file_makes_no_folder_a_split(tmp_path):
    for number in range(40):
        _save(tmp_path / ("valid", "invalid")[number % 2] / f"{number}.png")
    (tmp_path / "train").write_text("no folder")
    assert sum(map(len, _open_splits(tmp_path))) == 40


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "valid", "invalid"], {"train": "train", "valid": "validation"}),
        (["TRAINING", "Testing", "notes"], {"TRAINING": "train", "Testing": "test"}),
        (["training", "test"], {"training": "train", "test": "test"}),
        (["training", "Training"], {}),
        (["testing", "valid"], {}),
        (["test", "testing"], {"test": "test"}),
        (["Val", "validation", "valid"], {"Val": "validation", "validation": "validation"}),
        (["cat", "dog"], {}),
        ([], {}),
    ],
)
def test_which_folders_are_splits(names, expected):
    assert split_folders(names) == expected


def test_folders_of_one_split_are_it_together(tmp_path):
    for name in ("train", "Train", "TEST", "val", "validation"):
        _save(tmp_path / name / "cat" / f"{name}.png")
    train, validation, test = _open_splits(tmp_path)
    assert sorted(train._paths) == ["Train/cat/Train.png", "train/cat/train.png"]
    assert len(validation) == 2 and test._paths == ["TEST/cat/TEST.png"]


def test_a_file_that_is_called_like_a_split_is_none(tmp_path):
    for number in range(40):
        _save(tmp_path / "cat" / f"{number}.png")
    (tmp_path / "Test").write_text("no folder")
    _save(tmp_path / "train.png")
    assert sum(map(len, _open_splits(tmp_path))) == 41


def test_names_that_are_no_utf8(tmp_path):
    for number in range(40):
        _save(tmp_path / ("dog" if number % 3 else "cat") / f"{number}.png")
    for folder in (tmp_path / "cat", tmp_path / "dog"):
        for path in list(folder.iterdir()):
            os.rename(path, os.fsencode(path.with_suffix("")) + b"\xe9.png")
        os.rename(folder, os.fsencode(folder) + b"\xff")
    splits = _open_splits(tmp_path)
    assert sum(map(len, splits)) == 40
    for dataset in splits:
        assert dataset.labels["label"].classes == ("cat\\xff", "dog\\xff")
        for index in range(len(dataset)):
            assert dataset[index]["image"].shape == (16, 24, 3)


def test_names_that_are_utf8_stay_in_their_split():
    """The hash is of the bytes that the name has on the disk."""
    names = [f"caf\u00e9/{number}.png" for number in range(50)]
    tenths = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10 for name in names]
    expected = ["train" if tenth < 8 else ("validation", "test")[tenth - 8] for tenth in tenths]
    assert [hashed_split(name) for name in names] == expected
