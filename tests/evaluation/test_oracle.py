"""The oracle of exact factors: it learns what images show, once, and says how well."""

import numpy as np
import pytest

from soda_jax.data.datasets import Labels
from soda_jax.data.datasets.scenes import Scenes
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation import oracle

SPEC = ViewSpec(policy="same", source_resolution=8, target_resolution=8, augment_source=False, augment_target=False)


class Squares:
    """A bright square in one of four corners, of one of three colours, on a dark ground."""

    labels = {"factors": Labels((4, 3), ("corner", "colour"))}

    def __init__(self, count, seed):
        self._factors = np.random.default_rng(seed).integers(0, (4, 3), (count, 2)).astype(np.int32)

    def __len__(self):
        return len(self._factors)

    def __getitem__(self, index):
        corner, colour = self._factors[index]
        image = np.full((8, 8, 3), 30, np.uint8)
        row, column = 4 * (corner // 2), 4 * (corner % 2)
        image[row : row + 4, column : column + 4, colour] = 220
        return {"image": image, "factors": self._factors[index]}


class Unlabelled(Squares):
    labels = {}


def trained(folder, **changes):
    options = {"name": "squares", "split": "train", "steps": 80, "folder": folder} | changes
    return oracle.load_or_train(Squares(400, 0), SPEC, **options)


@pytest.fixture(scope="module")
def few_at_a_time():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "BATCH", 16)
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory, few_at_a_time):
    folder = tmp_path_factory.mktemp("oracles")
    return folder, trained(folder)


def test_it_reads_held_out_images(kept):
    _, reader = kept
    assert reader.names == ("corner", "colour") and reader.sizes == (4, 3)
    split = Squares(300, 1)
    accuracy = reader.accuracy(split, SPEC, 300)
    assert list(accuracy) == ["corner", "colour"]
    assert all(share.value > 0.97 and share.count == 300 for share in accuracy.values())
    images = np.stack([split[i]["image"] for i in range(300)]) / np.float32(127.5) - 1
    truth = np.stack([split[i]["factors"] for i in range(300)])
    noisy = images + 0.05 * np.random.default_rng(0).standard_normal(images.shape)
    assert (reader.read(noisy) == truth).mean() > 0.97
    np.testing.assert_array_equal(reader.read(images[:1]), reader.read(images)[:1])  # whatever the batch is filled with


def test_it_is_trained_once(kept, monkeypatch):
    folder, reader = kept
    monkeypatch.setattr(oracle, "_train", None)
    again = trained(folder)
    images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3))
    np.testing.assert_array_equal(again.read(images), reader.read(images))
    with pytest.raises(TypeError):  # other settings are another oracle
        trained(folder, split="train@0-50%")
    with pytest.raises(TypeError):
        trained(folder, steps=81)


def test_a_file_of_other_weights_is_trained_again(kept, monkeypatch, tmp_path):
    folder, _ = kept
    (file,) = folder.glob("*.npy")
    short = []

    def train(model, weights, put_together, batches, steps, seed):
        short.append(steps)
        return np.zeros(weights.shape, np.float32)

    monkeypatch.setattr(oracle, "_train", train)
    (tmp_path / file.name).write_bytes(file.read_bytes()[:-100])  # cut short
    trained(tmp_path)
    assert short == [80]
    (tmp_path / file.name).unlink()
    oracle.CachedArray.load_or_build(tmp_path / file.name, lambda: np.full(3, np.nan, np.float32))  # sound, of nothing
    trained(tmp_path)
    assert short == [80, 80]


def test_what_shows_no_factors(tmp_path):
    options = {"name": "squares", "split": "train", "steps": 2, "folder": tmp_path}
    with pytest.raises(ValueError, match="the dataset 'squares' has no exact factors .its labels: none."):
        oracle.load_or_train(Unlabelled(5, 0), SPEC, **options)
    small = ViewSpec(
        policy="same", source_resolution=4, target_resolution=4, augment_source=False, augment_target=False
    )
    with pytest.raises(ValueError, match="images of 4 pixels show too little"):
        oracle.load_or_train(Squares(5, 0), small, **options)


@pytest.mark.slow
def test_scenes(tmp_path, monkeypatch):
    """All six factors, as `config.eval.edits_oracle_accuracy` asks for them."""
    monkeypatch.setattr(oracle, "BATCH", 64)
    spec = ViewSpec(
        policy="same", source_resolution=32, target_resolution=32, augment_source=False, augment_target=False
    )
    train, test = (Scenes(tmp_path, split, resolution=32) for split in ("train", "test"))
    reader = oracle.load_or_train(train, spec, name="scenes", split="train", steps=1000, folder=tmp_path)
    accuracy = reader.accuracy(test, spec, 1000)
    assert all(share.value >= 0.97 for share in accuracy.values()), accuracy
