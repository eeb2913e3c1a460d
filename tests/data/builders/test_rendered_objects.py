"""Rendered objects: a folder as render_objects writes it, against the source that reads such a folder directly."""

import json

import numpy as np
import pytest

from soda_jax import data
from soda_jax.data import cameras
from soda_jax.data.builders import ArchiveError
from tests.data.builders import miniatures

SPLITS = {"train": ["chair-1", "lamp-1", "lamp-2"], "validation": ["chair-2"], "test": []}
VIEWS = 3


def _write(root, with_categories=True):
    for number, name in enumerate(name for names in SPLITS.values() for name in names):
        frames = []
        for j, pose in enumerate(cameras.orbit(np.array([0.1, 1.5, 4.0]), 0.4, 3.0)):
            miniatures.write(root / name / f"{j:03d}.png", miniatures.png(miniatures.pixels(10 * number + j, 12, 12)))
            frames.append({"file_path": f"{j:03d}.png", "transform_matrix": pose.tolist()})
        document = {"camera_angle_x": 0.7, "fl_x": 16.0, "fl_y": 16.0, "cx": 6, "cy": 6, "w": 12, "h": 12}
        if with_categories:
            document["category"] = name.split("-")[0]
        (root / name / "transforms.json").write_text(json.dumps({**document, "frames": frames}))
    written = {"validation": "val"}  # neither in this order nor by these names in ours
    splits = {written.get(split, split): names for split, names in reversed(SPLITS.items())}
    (root / "splits.json").write_text(json.dumps(splits))


@pytest.mark.parametrize(("name", "folder"), [("rendered_objects", "."), ("shapenet", "shapenet"), ("gso", ".")])
def test_records_equal_the_folder(tmp_path, prepare, name, folder):
    _write(tmp_path / "manual" / folder)
    root = prepare(name, tmp_path / "manual", ITEMS_PER_SHARD=2)
    for split in ("train", "validation"):
        records = data.load_dataset(name, root, split)
        direct = data.load_dataset("multiview", tmp_path / "manual" / folder, split)
        assert len(records) == len(direct) == len(SPLITS[split])
        assert records.labels == direct.labels
        np.testing.assert_array_equal(records.class_ids, direct.class_ids)
        for i in range(len(direct)):
            assert records[i]["label"] == direct[i]["label"] and len(records[i]["views"]) == VIEWS
            for j in range(VIEWS):
                for key in ("image", "pose", "intrinsics"):
                    np.testing.assert_array_equal(records[i]["views"][j][key], direct[i]["views"][j][key])
    with pytest.raises(ValueError, match=r"split='test' of .* is empty"):
        data.load_dataset(name, root, "test")


def test_a_split_of_another_name_is_refused(tmp_path, prepare):
    _write(tmp_path / "manual")
    (tmp_path / "manual" / "splits.json").write_text('{"rest": ["chair-1"]}')
    with pytest.raises(ArchiveError, match="splits.json has 'rest'; name its parts train, validation, test"):
        prepare("gso", tmp_path / "manual")


def test_without_categories_there_is_no_label(tmp_path, prepare):
    _write(tmp_path / "manual", with_categories=False)
    dataset = data.load_dataset("gso", prepare("gso", tmp_path / "manual"), "train")
    assert dataset.labels == {} and dataset.class_ids is None and set(dataset[0]) == {"views"}
