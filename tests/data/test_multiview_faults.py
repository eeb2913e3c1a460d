"""Multi-view folders with broken links, odd names, other capitals, and files that other tools wrote."""

import json
import os

import pytest

from soda_jax import data
from tests.data.test_multiview import _open, _rewrite, _write_object


@pytest.fixture
def many(tmp_path):
    for number in range(40):
        _write_object(tmp_path / f"thing{number:02d}", 3, 4 * number, category="odd" if number % 2 else "even")
    return tmp_path


def _link_badly(folder, name, kind):
    (folder / name).unlink()
    (folder / name).symlink_to({"nothing": "gone.png", "itself": name, "ring": f"{name}.other", "folder": "."}[kind])
    if kind == "ring":
        (folder / f"{name}.other").symlink_to(name)


@pytest.mark.parametrize("kind", ["nothing", "itself", "ring", "folder"])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_bad_links_among_the_images_are_skipped_and_listed(many, tmp_path, kind, cache_bytes):
    names = _open(many, cache_bytes=0).names
    path = many / names[0] / "transforms_1.png"
    _link_badly(path.parent, path.name, kind)
    listed = tmp_path / "work" / "bad_files.txt"
    options = {"cache_bytes": cache_bytes, "bad_files": listed, "max_bad_share": 0.1}
    dataset = _open(many, **options)
    assert dataset.names == names
    batches = data.train_batches(
        dataset, data.ViewSpec(source_resolution=8, target_resolution=8), batch_size=32, seed=0
    )
    for step in range(8):
        batches[step]
    assert dataset.bad_files.names() == [str(path)]
    again = _open(many, **options)  # a later run still knows it
    assert again.bad_files.names() == [str(path)]
    if cache_bytes:
        assert len(dataset[0]["views"]) == len(again[0]["views"]) == 2


@pytest.mark.parametrize("target", ["gone.json", "transforms.json", "."])
def test_a_bad_link_in_place_of_the_cameras_is_named(many, target):
    file = many / "thing03" / "transforms.json"
    file.unlink()
    file.symlink_to(target)
    with pytest.raises(ValueError, match=r"thing03.transforms.json cannot be read .*export"):
        _open(many)


def test_names_that_are_no_utf8(tmp_path):
    for number, name in enumerate((b"caf\xe9", b"na\xefve", b"plain")):
        for j in range(6):
            _write_object(tmp_path / os.fsdecode(name) / f"thing{j}", 3, 20 * number + 3 * j)
    root = tmp_path / os.fsdecode(b"caf\xe9")
    os.rename(root / "thing1" / "transforms_0.png", os.fsencode(root / "thing1") + b"/\xff.png")
    document = json.loads((root / "thing1" / "transforms.json").read_text())
    document["frames"][0]["file_path"] = "\udcff.png"
    _rewrite(root / "thing1" / "transforms.json", document)
    dataset = _open(tmp_path, "train")
    assert dataset.labels["label"].classes == ("caf\\xe9", "na\\xefve", "plain")
    assert len(dataset) + sum(len(_open(tmp_path, s)) for s in ("validation", "test") if _has(tmp_path, s)) == 18
    for i in range(len(dataset)):
        assert len([view["image"] for view in dataset[i]["views"]]) == 3
    assert " ".join(dataset.labels["label"].classes).encode()


def _has(root, split):
    try:
        return bool(_open(root, split))
    except ValueError:
        return False


def test_val_and_validation_are_one_split(many):
    _rewrite(many / "splits.json", {"TRAIN": ["thing01"], "val": ["thing02"], "Validation": ["thing03", "thing00"]})
    assert _open(many, "train").names == ["thing01"]
    assert _open(many, "validation").names == ["thing00", "thing02", "thing03"]
    _rewrite(many / "splits.json", {"train": ["thing01"], "val": ["thing02"], "validation": ["thing02"]})
    with pytest.raises(ValueError, match="'thing02' more than once"):
        _open(many, "train")
    _rewrite(many / "splits.json", {"train": [["thing01"]]})
    with pytest.raises(ValueError, match="splits.json must be"):
        _open(many, "train")


def test_folders_of_splits_in_capitals(tmp_path):
    for number, split in enumerate(("Train", "TEST", "Val", "train")):
        _write_object(tmp_path / split / "chair" / f"thing{number}", 3)
    assert _open(tmp_path, "train").names == ["Train/chair/thing0", "train/chair/thing3"]
    assert _open(tmp_path, "test").names == ["TEST/chair/thing1"]
    assert _open(tmp_path, "validation").names == ["Val/chair/thing2"]
    assert _open(tmp_path, "train").labels["label"].classes == ("chair",)


def test_valid_is_a_split_beside_train_and_otherwise_a_category(tmp_path):
    for number in range(20):
        for category in ("valid", "invalid"):
            _write_object(tmp_path / "categories" / category / f"thing{number}", 2)
    opened = [_open(tmp_path / "categories", split) for split in ("train", "validation", "test")]
    assert sum(map(len, opened)) == 40
    assert {dataset.labels["label"].classes for dataset in opened} == {("invalid", "valid")}
    for split in ("Training", "valid", "testing"):
        _write_object(tmp_path / "splits" / split / "chair" / f"of_{split}", 2)
    opened = [_open(tmp_path / "splits", split) for split in ("train", "validation", "test")]
    names = [["Training/chair/of_Training"], ["valid/chair/of_valid"], ["testing/chair/of_testing"]]
    assert [dataset.names for dataset in opened] == names
    assert {dataset.labels["label"].classes for dataset in opened} == {("chair",)}


def test_splits_json_keeps_the_names_that_it_gives(many):
    _rewrite(many / "splits.json", {"train": ["thing01"], "valid": ["thing02"], "invalid": ["thing03"]})
    assert [_open(many, split).names for split in ("valid", "invalid")] == [["thing02"], ["thing03"]]
    with pytest.raises(ValueError, match=r"'validation' .* is unknown; its splits, .*: train \(1\), valid \(1\)"):
        _open(many, "validation")


def test_byte_order_marks(many):
    file = many / "thing01" / "transforms.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    (many / "splits.json").write_text('{"train": ["thing01"]}', encoding="utf-8-sig")
    assert len(_open(many)[0]["views"]) == 3


@pytest.mark.parametrize("suffix", [".JPG", ".Jpg", ".PNG", ".jPeG"])
@pytest.mark.parametrize("extension", [True, False])
def test_image_names_in_other_capitals(tmp_path, suffix, extension):
    document = _write_object(tmp_path / "train" / "a", 2, suffix=suffix)
    for frame in document["frames"]:
        name = frame["file_path"].removesuffix(suffix)
        frame["file_path"] = name + suffix.lower() if extension else name
    _rewrite(tmp_path / "train" / "a" / "transforms.json", document)
    assert len(_open(tmp_path)[0]["views"]) == 2


def test_names_that_differ_only_in_capitals_are_not_guessed(tmp_path):
    document = _write_object(tmp_path / "train" / "a", 1)
    folder = tmp_path / "train" / "a"
    for name in ("View.png", "VIEW.PNG"):
        (folder / name).write_bytes((folder / "transforms_0.png").read_bytes())
    document["frames"][0]["file_path"] = "view.png"
    _rewrite(folder / "transforms.json", document)
    if len(list(folder.glob("*"))) == 4:  # where the disk tells them apart
        with pytest.raises(ValueError, match="1 of its 1 images are missing"):
            _open(tmp_path)


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "simple_radial", "FOV"])
@pytest.mark.parametrize("zeros", [{"k1": 0.0}, {"k": 0, "k1": 0, "p1": 0.0, "p2": -0.0, "omega": 0}, {"k1": "0.0"}])
def test_distortion_of_zero_is_none(tmp_path, model, zeros):
    _write_object(tmp_path / "train" / "a", 2, camera_model=model, **zeros)
    assert len(_open(tmp_path)[0]["views"]) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"camera_model": "SIMPLE_RADIAL", "k1": 1e-3},
        {"camera_model": "SIMPLE_RADIAL", "k": 1e-3},
        {"camera_model": "FOV", "omega": 0.9},
        {"camera_model": "OPENCV", "k6": 0.1},
        {"distortion_params": [0, 0, 0.1, 0]},
        {"k1": "curved"},
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.0},  # bends rays without any coefficient
        {"camera_model": "EQUIRECTANGULAR"},
    ],
)
def test_distortion_is_refused(tmp_path, settings):
    _write_object(tmp_path / "train" / "a", 2, **settings)
    with pytest.raises(ValueError, match="its lens is distorted"):
        _open(tmp_path)


def test_no_root_names_the_field():
    with pytest.raises(ValueError, match=r"config\.data\.root"):
        _open(None)
