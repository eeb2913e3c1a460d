"""NMR: objects with cameras, prepared and read back; the cameras are checked by projecting points."""

import pickle

import numpy as np
import pytest

from soda_jax import data
from soda_jax.data import cameras
from soda_jax.data.builders import ArchiveError
from soda_jax.data.builders.multiview import Nmr, dvr_camera
from tests.data.builders import miniatures

VIEWS = 4
SPLITS = {"train": 3, "validation": 1, "test": 1}


@pytest.fixture
def archive(tmp_path):
    known = miniatures.nmr(tmp_path / "manual" / "NMR_Dataset", list(Nmr.CLASSES), VIEWS)
    return tmp_path / "manual", known


def test_nmr(archive, prepare):
    manual, known = archive
    root = prepare("nmr", manual, NUM_VIEWS=VIEWS, ITEMS_PER_SHARD=2)
    by_picture = {
        miniatures.pixels(1000 * ord(name[-1]) + i, 64, 64).tobytes(): (name, i) for name in known for i in range(VIEWS)
    }
    objects = set()
    for split, size in SPLITS.items():
        dataset = data.load_dataset("nmr", root, split)
        assert len(dataset) == size and dataset.labels["label"].classes[:2] == ("airplane", "bench")
        assert dataset.class_ids.tolist() == [int(dataset[i]["label"]) for i in range(size)]
        for index in range(size):
            example = dataset[index]
            names = {by_picture[example["views"][j]["image"].tobytes()] for j in range(VIEWS)}
            (name,) = {name for name, _ in names}
            assert len(names) == VIEWS == len(example["views"])
            assert known[name]["split"] == {"validation": "val"}.get(split, split)
            assert known[name]["label"] == example["label"]
            objects.add(name)
            for j in range(VIEWS):
                view = example["views"][j]
                _check_camera(view, known[name]["centres"][by_picture[view["image"].tobytes()][1]])
    assert objects == set(known)


def _check_camera(view, centre):
    assert view["pose"].dtype == view["intrinsics"].dtype == np.float32 and view["image"].shape == (64, 64, 3)
    np.testing.assert_allclose(view["pose"][:3, 3], centre, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(view["pose"][:3, :3]), 1, atol=1e-5)
    # 1 / tan(15 degrees) times half of 64 pixels.
    np.testing.assert_allclose(view["intrinsics"], [119.4256, 119.4256, 32, 32], rtol=1e-5)
    # The object's centre is seen in the middle, what is above it further up.
    np.testing.assert_allclose(cameras.project(np.zeros(3), view["pose"], view["intrinsics"]), [32, 32], atol=1e-3)
    above = cameras.project(np.array([0, 0, 0.2]), view["pose"], view["intrinsics"])
    np.testing.assert_allclose(above[0], 32, atol=1e-3)
    assert above[1] < 31


def test_dvr_camera_agrees_with_dvr_projection():
    """A published camera of the set: world_mat_0 and camera_mat_0, here with a point off the axis."""
    world = np.array([[0, 0, -1, 0], [0.5, -0.86602539, 0, 0], [-0.86602539, -0.49999997, 0, 2.73199987], [0, 0, 0, 1]])
    camera = np.diag([3.7320509, 3.7320509, 1, 1])
    pose, intrinsics = dvr_camera(world, camera, 64, 64)
    point = np.array([0.1, 0.25, -0.3])
    local = camera @ world @ np.append(point, 1)
    expected = (local[:2] / local[2] + 1) * 32  # x right, y down, an image of [-1, 1]^2
    x, y, z = point
    np.testing.assert_allclose(cameras.project(np.array([x, -z, y]), pose, intrinsics), expected, atol=1e-4)
    assert pose[2, 3] == pytest.approx(2.732 / 2, abs=1e-4)  # 30 degrees above the ground


def test_a_batch_reads_only_the_views_it_uses(archive, prepare, monkeypatch):
    manual, _ = archive
    dataset = data.load_dataset("nmr", prepare("nmr", manual, NUM_VIEWS=VIEWS), "train")
    read, view = [], type(dataset).view
    monkeypatch.setattr(type(dataset), "view", lambda self, n, decode: read.append(n) or view(self, n, decode))
    spec = data.ViewSpec(policy="camera", num_sources=1, source_resolution=32, target_resolution=32)
    batch = data.train_batches(dataset, spec, batch_size=2, seed=0)[0]
    assert batch["source_pose"].shape == (2, 1, 4, 4) and batch["target_intrinsics"].shape == (2, 4)
    np.testing.assert_allclose(batch["target_intrinsics"][0], [59.7128, 59.7128, 16, 16], rtol=1e-5)
    assert len(read) == 4


def test_pickles_for_workers(archive, prepare):
    manual, _ = archive
    dataset = data.load_dataset("nmr", prepare("nmr", manual, NUM_VIEWS=VIEWS), "train")
    content = pickle.dumps(dataset)
    assert len(content) < 20_000
    copy = pickle.loads(content)
    np.testing.assert_array_equal(copy[2]["views"][1]["image"], dataset[2]["views"][1]["image"])


def test_splits_of_objects_are_whole(archive, prepare):
    manual, _ = archive
    root = prepare("nmr", manual, NUM_VIEWS=VIEWS)
    assert len(data.load_dataset("nmr", root, "all")) == 5
    assert len(data.load_dataset("nmr", root, "train+test")) == 4
    last = data.load_dataset("nmr", root, "train+test")[3]["views"][0]["image"]
    np.testing.assert_array_equal(last, data.load_dataset("nmr", root, "test")[0]["views"][0]["image"])
    with pytest.raises(ValueError, match=r"only in whole splits; available: train \(3 objects\)"):
        data.load_dataset("nmr", root, "train[:50%]")
    with pytest.raises(IndexError, match="view 4 of 4"):
        data.load_dataset("nmr", root, "test")[0]["views"][4]


def test_an_object_that_is_not_complete(archive, prepare):
    manual, _ = archive
    with pytest.raises(ArchiveError, match="0004.png is missing"):
        prepare("nmr", manual, NUM_VIEWS=VIEWS + 1)
    (manual / "NMR_Dataset" / "02828884" / "softras_val.lst").unlink()
    with pytest.raises(ArchiveError, match="softras_val.lst is missing"):
        prepare("nmr", manual, NUM_VIEWS=VIEWS)
