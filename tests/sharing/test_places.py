"""Whatever a user names a model by, one resolver finds its folder: for `soda_jax.load` and for every tool."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import soda_jax
from soda_jax.sharing import places, shipped
from soda_jax.tools import edit, encode
from soda_jax.tools import export as export_tool
from tests import tiny, tiny_checkpoint, tiny_exports
from tests.tools import test_edit, test_encode, test_export


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "pretrained"
    for number, name in enumerate(("objects", "scenes")):
        tiny_exports.write(folder / name, step=number + 1, with_examples=True)
    return folder


@pytest.fixture(autouse=True)
def here(pretrained, tmp_path, monkeypatch):
    """An empty current folder, and two models that come along."""
    monkeypatch.setattr(shipped, "FOLDER", pretrained)
    monkeypatch.chdir(tmp_path)
    places._say_which.cache_clear()
    return tmp_path


def test_a_name_is_the_model_that_comes_along(pretrained):
    model = soda_jax.load("scenes")
    assert (model.step, model.workdir) == (2, str(pretrained / "scenes"))
    expected = tiny_checkpoint.random_variables(tiny.get_config(), seed=2)
    tiny.assert_equal(jax.device_get(model.variables), expected)
    assert not places.is_path("scenes") and places.shown("scenes") == "scenes"


def test_a_folder_of_the_name_wins_and_is_told(here, capsys):
    tiny_checkpoint.write(here / "scenes", tiny.get_config(), 9)
    for _ in range(2):
        assert soda_jax.load("scenes").step == 9
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith(f"'scenes' is the folder {here / 'scenes'} here; the model of")]
    assert len([line for line in lines if "'scenes' is the folder" in line]) == 1
    assert places.is_path("scenes") and places.shown("scenes") == str(here / "scenes")


def test_a_file_of_the_name_is_no_model(here, pretrained, capsys):
    (here / "scenes").write_text("notes")
    (here / "notes").write_text("notes")
    assert places.model_folder("scenes") == str(pretrained / "scenes") and not places.is_path("scenes")
    with pytest.raises(FileNotFoundError, match="notes holds no checkpoint"):
        soda_jax.load("notes")
    assert capsys.readouterr().err == ""


def test_an_unknown_name_lists_those_that_there_are():
    with pytest.raises(FileNotFoundError) as error:
        soda_jax.load("scene")
    message = str(error.value)
    assert message.startswith("workdir=scene: there is no folder 'scene' here, and no model of this name comes with")
    assert "those that do are objects, scenes (did you mean scenes?)" in message
    assert "hf://ORG/NAME" in message and "of a run, in which training wrote checkpoints/" in message


def test_where_none_comes_along(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match="--model=scenes: .* no model of this name comes with soda_jax; none does"
    ):
        places.model_folder("scenes", "--model")


def test_paths_stay_paths(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    for path in ("./scenes", "runs/scenes", "/nowhere/scenes", here / "x"):
        assert places.model_folder(path) == str(path)
    assert places.model_folder("~/run") == str(here / "run")
    with pytest.raises(ValueError, match="--model='' is empty"):
        places.model_folder("", "--model")


def test_tools_take_the_name(pretrained, here, capsys):
    """encode, edit and export; what they write lies here, and nothing beside the model."""
    before = sorted(pretrained.rglob("*"))
    (here / "images").mkdir()
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(image).save(here / "images" / f"{i}.png")
    options = test_encode.DEFAULTS | {"model": "scenes", "images": "images", "out": "z.npz"}
    encode.main(test_encode.Options(options))
    with np.load("z.npz") as found:
        assert json.loads(str(found["about"]))["model"] == "scenes" and found["features"].shape == (3, 16)

    export_tool.main(
        test_export.Options(test_export.DEFAULTS | {"workdir": "scenes", "out": "mine", "dtype": "float32"})
    )
    assert soda_jax.load("./mine").step == 2
    for name in ("model.safetensors", "examples/examples.json", "config.json"):
        assert (here / "mine" / name).read_bytes() == (pretrained / "scenes" / name).read_bytes()

    options = test_edit.DEFAULTS | {"workdir": "scenes"}
    with pytest.raises(SystemExit, match="--workdir=scenes: directions are kept in the model's folder, .* --out=DIR"):
        edit.main(test_edit.Options(options | {"fit": True}))
    capsys.readouterr()
    edit.main(test_edit.Options(options | {"list": True}))
    assert "no directions of checkpoint 2 yet" in capsys.readouterr().out
    assert sorted(pretrained.rglob("*")) == before


def test_examples_are_edited_where_no_images_are_given(here):
    images, names = edit.held_out(soda_jax.load("scenes"), 3)
    np.testing.assert_array_equal(images, tiny_exports.examples().images[:3])
    assert names == ["example 0", "example 1", "example 2"]
