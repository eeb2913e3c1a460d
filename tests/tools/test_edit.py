"""The command that edits images: what it finds, lists, draws and scores, and what it answers to mistakes."""

import json

import numpy as np
import pytest
from PIL import Image

import soda_jax
from soda_jax.explorer import actions
from soda_jax.explorer.actions import Edit, Sampling
from soda_jax.explorer.downloads import Downloads
from soda_jax.explorer.images import of_run
from soda_jax.latents.sections import dims_of
from soda_jax.tools import edit
from tests import tiny, tiny_checkpoint

DEFAULTS = {
    "step": None, "edit": "", "fit": False, "groups": "", "name": "", "list": False, "direction": "", "images": "",
    "num_images": 2, "sections": "", "sigma": "-1:1:3", "mode": "add", "hold": [], "noise": "fresh", "guidance": None,
    "sampling_steps": 2, "seed": 0, "out": "",
}  # fmt: skip


class Options(dict):
    __getattr__ = dict.__getitem__


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    root = tmp_path_factory.mktemp("scenes")
    config = tiny.scenes_config(str(root), sampling__latent_codes=64, sampling__pca_components=2)
    tiny_checkpoint.write(folder, config, 5)
    return folder


def run(workdir, **options):
    edit.main(Options(DEFAULTS | {"workdir": str(workdir)} | options))


@pytest.fixture(scope="module")
def fitted(workdir):
    run(workdir, fit=True)
    return workdir


def test_the_directions_that_it_finds(fitted, capsys):
    run(fitted, list=True)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(",")[0] for line in lines]
    assert {"pca1", "pca2", "pca1_sections_0-1", "object_hue", "orientation", "weights1"} <= set(names)
    top = next(line for line in lines if line.startswith("pca1,"))
    assert "whole latent" in top and "% of the variance" in top and "sigma)" in top
    model = soda_jax.load(fitted)
    assert all(direction.model == model.weights_digest for direction in model.directions.values())
    assert model.sample_prior(2).shape == (2, 32, 32, 3)


def test_nothing_found_yet(tmp_path, capsys):
    tiny_checkpoint.write(tmp_path, tiny.get_config(), 5)
    run(tmp_path, list=True)
    assert "no directions of checkpoint 5 yet; find some with --fit" in capsys.readouterr().out


def test_a_strip_and_its_scores(fitted, capsys):
    run(fitted, direction="pca1", sections="0-1")
    path = fitted / "edits" / "pca1_in_0-1.png"
    scores = json.loads(path.with_suffix(".json").read_text())
    assert scores["sigma"] == [-1.0, 0.0, 1.0] and len(scores["images"]) == 2
    assert scores["realised"][1] == scores["rmse"][1] == 0.0 and scores["asked"][1] == pytest.approx(0.0, abs=1e-6)
    direction = soda_jax.load(fitted).directions["pca1"]
    share = np.square(direction.vector[dims_of("0-1", 16, 5)]).sum()  # of the way: the other sections stay
    assert scores["asked"][2] == pytest.approx(share, abs=1e-5) and scores["leakage"][2] >= 0
    assert all(np.isfinite(scores[name]).all() for name in ("realised", "rmse"))
    with Image.open(path) as strip:
        assert strip.width > 4 * 96
    assert path.with_suffix(".gif").exists() and path.with_suffix(".mp4").exists()
    shown = capsys.readouterr().out
    assert "asked for" in shown and "slope of realised" in shown and str(path) in shown


def test_images_of_a_folder_from_their_own_noise(fitted, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / name)
    run(fitted, direction="floor_hue", images=str(tmp_path), noise="inverted", sigma="1", out=str(tmp_path / "strip"))
    scores = json.loads((tmp_path / "strip.json").read_text())
    assert scores["images"] == ["a.png", "b.jpg"] and scores["noise"] == "inverted"
    assert (tmp_path / "strip.png").exists() and not (tmp_path / "strip.gif").exists()  # one frame does not move
    assert "-" in capsys.readouterr().out  # no leakage of the whole latent


def test_a_direction_of_two_folders(fitted, tmp_path, capsys):
    for folder, level in (("without", 60), ("with", 200)):
        (tmp_path / folder).mkdir()
        for i in range(2):
            Image.fromarray(np.full((32, 32, 3), level + i, np.uint8)).save(tmp_path / folder / f"{i}.png")
    run(fitted, groups=f"{tmp_path}/without,{tmp_path}/with", name="bright")
    assert "difference of the means of 2 and 2 images" in capsys.readouterr().out
    assert "bright" in soda_jax.load(fitted).directions


@pytest.mark.parametrize(
    ("text", "expected"), [("-3:3:7", [-3, -2, -1, 0, 1, 2, 3]), ("-2,0.5", [-2, 0.5]), ("1", [1]), ("0:1:2", [0, 1])]
)
def test_strengths(text, expected):
    assert edit.parse_sigma(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1:2", "1:2:0", "nan", "1:2:x", "-1:1:-3", "inf:1:2"])
def test_no_strengths(text):
    with pytest.raises(ValueError, match="--sigma="):
        edit.parse_sigma(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to do: give --direction, or --edit, --fit, --groups or --list"),
        ({"direction": "hat"}, "--direction=hat: there is no such direction or file; this checkpoint has"),
        ({"direction": "pca1", "sections": "0-9"}, "the latent has sections 0-4"),
        ({"direction": "pca1", "sigma": "much"}, "--sigma=much"),
        ({"direction": "pca1", "images": "/nowhere"}, "--images=/nowhere: there is no such file or folder"),
        ({"direction": "pca1", "hold": ["pca1"]}, "has nothing left when pca1"),
        ({"direction": "nowhere/pca1.json"}, "there is no file"),
        ({"groups": "one", "name": "hat"}, "--groups=one --name=hat: give two folders"),
        ({"step": 7, "list": True}, "holds no checkpoint of step 7"),
    ],
)
def test_mistakes_get_a_line(fitted, options, message, capsys):
    with pytest.raises(SystemExit) as end:
        run(fitted, **options)
    assert str(end.value).startswith("error: ") and message in str(end.value)


def test_another_models_direction_is_refused_by_name(fitted, tmp_path):
    config = soda_jax.load(fitted).config
    tiny_checkpoint.write(tmp_path, config, 6)
    place = fitted / "directions" / "00000005" / "pca1.json"
    with pytest.raises(SystemExit, match="direction 'pca1' .* is of other weights"):
        run(tmp_path, direction=str(place))


def test_an_empty_folder_and_one_that_is_no_image(fitted, tmp_path):
    with pytest.raises(SystemExit, match="the folder holds no image"):
        run(fitted, direction="pca1", images=str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="'.*a.png' cannot be decoded"):
        run(fitted, direction="pca1", images=str(tmp_path))


def test_an_edit_of_the_explorer_is_repeated(fitted, tmp_path, capsys):
    model = soda_jax.load(fitted)
    chosen = of_run(model.config, 3)[1]
    asked, sampling = Edit("pca1", 1.25, sections="0-1", hold=("object_hue",)), Sampling(2, 1.5, seed=4)
    downloads = Downloads(tmp_path)
    drawn = actions.edit(model, chosen, asked, sampling)
    stored = downloads.edit(actions.stored(model, asked, sampling))
    run(fitted, edit=stored, images=downloads.source(chosen), direction="pca2", seed=9, out=str(tmp_path / "strip"))
    scores = json.loads((tmp_path / "strip.json").read_text())
    assert scores["sigma"] == [1.25] and scores["sections"] == "0-1" and scores["seed"] == 4
    assert scores["asked"][0] == pytest.approx(drawn.asked, abs=1e-4)
    with Image.open(tmp_path / "strip.png") as opened:
        strip = np.asarray(opened).astype(int)
    tile = drawn.after.repeat(3, axis=0).repeat(3, axis=1).astype(int)  # drawn at three times its size
    places = ((y, x) for y in range(len(strip) - 95) for x in range(strip.shape[1] - 95))
    assert any(np.abs(strip[y : y + 96, x : x + 96] - tile).max() <= 1 for y, x in places)
