"""`--mode=sample`: a grid of held-out examples from a checkpoint."""

import functools
import importlib
import sys
import types

import numpy as np
import pytest
from PIL import Image

from soda_jax import build
from soda_jax.config.pictures import PICTURES, PictureEntry, table_rows
from soda_jax.given import given_weights
from soda_jax.inference import grids
from soda_jax.inference.pictures import Picture
from soda_jax.inference.sample import sample
from tests import tiny, tiny_checkpoint
from tests.objects import Objects


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four 8-pixel images as a dataset, and what is in them."""
    root = tmp_path_factory.mktemp("images")
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    (root / "test").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(root / "test" / f"{number}.png")
    return root, images


@pytest.fixture(scope="module")
def get_config(folder):
    return functools.partial(tiny.get_config, data__name="folder", data__root=str(folder[0]))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, get_config):
    workdir = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(workdir, get_config(), 7)
    return workdir


@pytest.fixture(scope="module")
def grid(workdir, get_config):
    path = sample(get_config(train__batch_size=100), str(workdir))  # training's batch need not fit the devices here
    assert path == workdir / "samples" / "grid_00000007_seed0.png"
    return np.asarray(Image.open(path))


def column(grid, number):
    """The images of a column at their own size, [2, 8, 8, 3]; they are drawn at 96 pixels."""
    tops = [grids.HEADER + row * (96 + grids.PADDING) for row in range(2)]
    left = grids.PADDING + number * (96 + grids.PADDING)
    return np.stack([grid[top : top + 96 : 12, left : left + 96 : 12] for top in tops])


def test_another_models_pictures_go_where_they_are_asked_for(workdir, get_config, grid, tmp_path):
    config, ours = get_config(train__batch_size=100), str(tmp_path / "ours")
    path = sample(config, ours, weights=given_weights(str(workdir), config, ours))
    assert path == tmp_path / "ours" / "samples" / "grid_00000007_seed0.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), grid)


def test_size_and_examples(grid, folder):
    assert grid.shape == (grids.HEADER + 2 * 100, grids.PADDING + 4 * 100, 3)
    for number in (0, 1):  # source and target
        np.testing.assert_array_equal(column(grid, number), folder[1][[0, 2]])


def test_the_test_split_of_the_checkpoint_that_is_named(grid, workdir, get_config):
    splits = {"data__eval_split": "validation", "data__test_split": "test"}  # the folder has no images for validation
    path = sample(get_config(sampling__pictures=("grid",), **splits), str(workdir), step=7)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), grid)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of step 8"):
        sample(get_config(), str(workdir), step=8)


def test_samples_are_images_of_their_own(grid):
    _, target, reconstruction, unconditional = (column(grid, i) for i in range(4))
    for images in (reconstruction, unconditional):
        assert (images != target).any() and np.ptp(images) > 50
        assert (images[0] != images[1]).any()
    assert (reconstruction != unconditional).any()


def test_no_turntable_without_cameras(grid, workdir):
    assert not list((workdir / "samples").glob("turntable*"))


def test_the_seed_draws_other_noise_into_another_file(grid, workdir, get_config):
    path = sample(get_config(seed=3), str(workdir))
    assert path.name == "grid_00000007_seed3.png"
    other = np.asarray(Image.open(path))
    np.testing.assert_array_equal(column(other, 1), column(grid, 1))
    assert (column(other, 2) != column(grid, 2)).any() and (column(other, 3) != column(grid, 3)).any()


def test_another_models_folder(workdir, get_config):
    with pytest.raises(ValueError, match="holds a checkpoint of another model") as error:
        sample(get_config(model__denoiser__channels=16), str(workdir))
    assert "config.model.denoiser.channels: 8 -> 16" in str(error.value)


def test_no_checkpoint(tmp_path, get_config):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: train first"):
        sample(get_config(), str(tmp_path))


@pytest.fixture(scope="module")
def posed_workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("posed")
    tiny_checkpoint.write(workdir, tiny.posed_config(), 3)
    return workdir


def test_a_turntable_of_held_out_objects(posed_workdir, monkeypatch, capsys):
    objects = Objects()
    monkeypatch.setattr(build, "dataset", lambda config, split: {"test": objects}[split])
    config = tiny.posed_config(sampling__turntable_views=3, sampling__turntable_altitude=20.0)
    sample(config, str(posed_workdir))
    strip = posed_workdir / "samples" / "turntable_00000003_seed0.png"
    assert f"turntable in {strip}, .gif and .mp4" in capsys.readouterr().out
    picture = np.asarray(Image.open(strip))
    assert picture.shape == (grids.HEADER + 2 * 100, grids.PADDING + (2 + 3) * 100, 3)
    for number in (0, 1):  # two sources of each of two objects
        shown = column(picture, number)
        for row, index in enumerate((0, 2)):
            assert (objects.images[index] == shown[row]).all((1, 2, 3)).any()
    views = [column(picture, number) for number in (2, 3, 4)]
    assert (views[0] != views[1]).any() and (views[1] != views[2]).any()
    with Image.open(strip.with_suffix(".gif")) as animation:
        assert (animation.n_frames, animation.size) == (3, (2 * 96, 2 * 96))


def test_no_turntable_of_no_views(posed_workdir, monkeypatch):
    monkeypatch.setattr(build, "dataset", lambda config, split: Objects())
    path = sample(tiny.posed_config(sampling__turntable_views=0, seed=5), str(posed_workdir))
    assert [file.name for file in path.parent.glob("*seed5*")] == [path.name]


def test_only_the_pictures_that_are_asked_for(posed_workdir, monkeypatch, capsys):
    monkeypatch.setattr(build, "dataset", lambda config, split: Objects())
    settings = {"sampling__turntable_views": 2, "seed": 6, "sampling__pictures": ("turntable",)}
    path = sample(tiny.posed_config(**settings), str(posed_workdir))
    assert capsys.readouterr().out == f"step 3: turntable in {path}, .gif and .mp4\n"
    assert {file.suffix for file in path.parent.glob("*seed6*")} == {".png", ".gif", ".mp4"}
    settings |= {"sampling__turntable_views": 0, "seed": 7}
    with pytest.raises(ValueError, match=r"config.sampling.pictures=\('turntable',\): with these settings"):
        sample(tiny.posed_config(**settings), str(posed_workdir))


def test_a_picture_is_one_function_and_one_entry(workdir, get_config, monkeypatch, capsys):
    """An added one is drawn from the weights and the held-out examples, written and printed as the others are."""

    def picture(context):
        first = context.dataset[0]["image"]
        assert "params" in context.variables and context.seed == 9
        return Picture(first, [first, 255 - first], seconds=1.0)

    module = types.ModuleType("mirror")
    module.picture = picture
    monkeypatch.setitem(sys.modules, "soda_jax.inference.mirrors", module)
    monkeypatch.setitem(
        PICTURES, "mirror", PictureEntry(module="mirrors", shows="The first example, and its negative.")
    )
    path = sample(get_config(seed=9, sampling__pictures=("mirror", "grid")), str(workdir))
    assert path == workdir / "samples" / "mirror_00000007_seed9.png"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"step 7: mirror in {path}, .gif and .mp4" and printed[1].startswith("step 7: grid in ")
    with Image.open(path.with_suffix(".gif")) as animation:
        assert (animation.n_frames, animation.info["duration"]) == (2, 500)
    assert ("`mirror`", "The first example, and its negative.") in table_rows()


def test_every_entry_names_its_module():
    for name, entry in PICTURES.items():
        module = importlib.import_module(f"soda_jax.inference.{entry.module}")
        assert callable(module.picture), name
