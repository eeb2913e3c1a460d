"""MPI3D: an .npz with fewer values a factor, prepared and read back."""

import numpy as np
import pytest

from soda_jax import data
from soda_jax.data.builders import ArchiveError, mpi3d

SIZES = {"object_color": 2, "object_shape": ("cone", "cube", "sphere"), "object_size": 2, "vertical_axis": 5}
COUNT = 60


@pytest.fixture
def small(monkeypatch):
    for config in mpi3d.Mpi3d.BUILDER_CONFIGS:
        monkeypatch.setattr(config, "factors", SIZES)


def _images():
    coarse = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mpi3d(tmp_path, small, prepare, save):
    (tmp_path / "manual").mkdir()
    save(tmp_path / "manual" / "mpi3d_toy.npz", images=_images())
    root = prepare("mpi3d/toy", tmp_path / "manual", ITEMS_PER_SHARD=7)
    number = {image.tobytes(): n for n, image in enumerate(_images())}
    found = []
    for split, size in (("train", 48), ("validation", 6), ("test", 6)):
        dataset = data.load_dataset("mpi3d/toy", root, split, cache_bytes=0)
        assert len(dataset) == size and dataset.labels["factors"].sizes == (2, 3, 2, 5)
        assert dataset.labels["factors"].names == tuple(SIZES)
        for i in range(size):
            n = number[dataset[i]["image"].tobytes()]
            # The last factor is the fastest.
            assert dataset[i]["factors"].tolist() == [n // 30, n // 10 % 3, n // 5 % 2, n % 5]
            found.append(n)
    assert sorted(found) == list(range(COUNT))


def test_the_official_sets_have_the_official_factors():
    sizes = {
        config.name: [len(v) if isinstance(v, tuple) else v for v in config.factors.values()]
        for config in mpi3d.Mpi3d.BUILDER_CONFIGS
    }
    assert sizes == {
        **dict.fromkeys(("toy", "realistic", "real"), [6, 6, 2, 3, 3, 40, 40]),
        "complex": [4, 4, 2, 3, 3, 40, 40],
    }


def test_wrong_files_are_told(tmp_path, small, prepare):
    (tmp_path / "manual").mkdir()
    path = tmp_path / "manual" / "mpi3d_toy.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(ArchiveError, match="no .npz with an array `images`"):
        prepare("mpi3d/toy", tmp_path / "manual")
    np.savez(path, images=_images()[:-1])
    with pytest.raises(ArchiveError, match="has 59 images; .* have 60 combinations"):
        prepare("mpi3d/toy", tmp_path / "manual")
    np.savez(path, images=_images().astype(np.float32))
    with pytest.raises(ArchiveError, match="expected uint8"):
        prepare("mpi3d/toy", tmp_path / "manual")
    with pytest.raises(ArchiveError, match="mpi3d_real.npz is missing"):
        prepare("mpi3d/real", tmp_path / "manual")


def test_a_file_that_ends_early(tmp_path, small, prepare):
    (tmp_path / "manual").mkdir()
    path = tmp_path / "manual" / "mpi3d_toy.npz"
    np.savez(path, images=_images())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(ArchiveError, match="damaged"):
        prepare("mpi3d/toy", tmp_path / "manual")
