"""The command that encodes a folder: its features beside those of `model.encode` and of an evaluation."""

import errno
import functools
import json

import numpy as np
import pytest
from PIL import Image

import soda_jax
from soda_jax import build
from soda_jax.data import load_dataset
from soda_jax.data.pipeline import eval_batches
from soda_jax.evaluation import feature_file
from soda_jax.inference.denoiser import DenoiserFeatures
from soda_jax.tools import encode
from soda_jax.workdir import best
from tests import tiny, tiny_checkpoint

DEFAULTS = {
    "feature": "latent", "block": "", "level": 0.1, "step": "newest", "max_bad_share": None, "threads": 2,
    "overwrite": False,
}  # fmt: skip
COUNT = 21  # a full batch of 16 and a rest


class Options(dict):
    __getattr__ = dict.__getitem__


@pytest.fixture(scope="module", autouse=True)
def each_model_compiles_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soda_jax, "load", functools.cache(soda_jax.load))
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(folder, tiny.get_config(data__eval_crop=0.8), 5, 6)
    best.write(str(folder), 5, "eval/loss", 0.5)
    return folder


@pytest.fixture
def images(tmp_path):
    """A folder of images of various sizes in nested folders, and some that the dataset `folder` does not take."""
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for i in range(COUNT):
        path = root / ("a", "b/c", "")[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + i, 25 - i % 7, 3), np.uint8)).save(path)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image")
    return root


def run(workdir, images, out, **options):
    encode.main(Options(DEFAULTS | {"model": str(workdir), "images": str(images), "out": str(out)} | options))
    return np.load(out, allow_pickle=False)


def test_features_are_those_of_encode(workdir, images, tmp_path, capsys):
    found = run(workdir, images, tmp_path / "z.npz")
    model = soda_jax.load(str(workdir), None)
    assert found["files"].tolist() == sorted(p.relative_to(images).as_posix() for p in images.rglob("[0-9]*.png"))
    each = [model.encode(np.asarray(Image.open(images / name))[None])[0] for name in found["files"]]
    np.testing.assert_allclose(found["features"], each, atol=1e-5)
    assert found["features"].shape == (COUNT, 16) and found["features"].std() > 0.1
    about = json.loads(found["about"].item())
    assert about["step"] == 6 and about["feature"] == "latent" and about["unreadable"] == 0
    assert about["weights"] == model.weights_digest and about["model"] == str(workdir)
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"{COUNT} of {COUNT} images in" in last and "[21, 16], latent of checkpoint 6." in last
    assert [path.name for path in tmp_path.iterdir() if path != images] == ["z.npz"]


def test_other_features_and_steps(workdir, images, tmp_path):
    newest = run(workdir, images, tmp_path / "z.npz")["features"]
    for step in ("best", "5"):
        old = run(workdir, images, tmp_path / f"{step}.npz", step=step)
        assert json.loads(old["about"].item())["step"] == 5 and not np.allclose(old["features"], newest)
    pooled = run(workdir, images, tmp_path / "pooled.npz", feature="pooled")["features"]
    assert pooled.shape == (COUNT, 8)
    np.testing.assert_array_equal(run(workdir, images, tmp_path / "again.npz", feature="z")["features"], newest)


def test_features_are_those_of_an_evaluation(workdir, tmp_path):
    """JPEGs that decode at reduced size, of a denoiser's block, whose noise comes of an image's place."""
    rng = np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    for i in range(4):
        small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
        small.resize((190, 120 + i)).save(tmp_path / "train" / f"{i}.jpg")
    model = soda_jax.load(str(workdir), None)
    features = DenoiserFeatures(model.inference)
    spec = build.view_spec(model.config)
    (batch,) = eval_batches(load_dataset("folder", tmp_path, "train"), spec, batch_size=16)
    latents = next(model.inference.encode_batches(model.variables, [batch], "latent"))[:4]
    found = run(workdir, tmp_path / "train", tmp_path / "z.npz")["features"]
    np.testing.assert_allclose(found, latents, atol=1e-5)
    t, block = features.timestep(0.3), features.names[1]
    expected = features(model.variables, batch, t)[block][:4]
    options = {"feature": "denoiser", "block": block, "level": 0.3}
    found = run(workdir, tmp_path / "train", tmp_path / "d.npz", **options)
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    assert json.loads(found["about"].item())["block"] == block


def test_a_model_of_cameras_and_several_sources(tmp_path, images):
    config = tiny.posed_config()
    tiny_checkpoint.write(tmp_path / "run", config, 5)
    found = run(tmp_path / "run", images, tmp_path / "z.npz")
    image = np.asarray(Image.open(images / found["files"][3]))
    expected = soda_jax.load(str(tmp_path / "run"), None).encode(image[None])[0]
    np.testing.assert_allclose(found["features"][3], expected, atol=1e-5)


def test_unreadable_images_are_skipped_listed_and_counted(workdir, images, tmp_path, capsys):
    whole = run(workdir, images, tmp_path / "z.npz")
    (images / "a" / "0.png").write_bytes(b"no image")
    found = run(workdir, images, tmp_path / "y.npz")
    assert "a/0.png" not in found["files"] and len(found["files"]) == COUNT - 1
    kept = whole["files"] != "a/0.png"
    np.testing.assert_allclose(found["features"], whole["features"][kept], atol=1e-6)
    listed = tmp_path / "y.bad_files.txt"
    assert "a/0.png\t" in listed.read_text() and listed.read_text().count("\n") == 1
    assert f"1 of {COUNT} files cannot be read; listed in {listed}." in capsys.readouterr().out.splitlines()[-1]
    (images / "a" / "3.png").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"error: 2 of 21 .*max_bad_share=0.05.* or raise --max_bad_share"):
        run(workdir, images, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()
    assert len(run(workdir, images, tmp_path / "x.npz", max_bad_share=0.1)["files"]) == COUNT - 2


def test_nothing_readable(workdir, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="none of 1 images can be read; see "):
        run(workdir, tmp_path / "a", tmp_path / "z.npz", max_bad_share=1.0)


def test_what_is_there_is_kept(workdir, images, tmp_path):
    (tmp_path / "z.npz").write_text("mine")
    with pytest.raises(SystemExit, match="z.npz exists: give another name, or --overwrite"):
        run(workdir, images, tmp_path / "z.npz")
    assert (tmp_path / "z.npz").read_text() == "mine"
    assert len(run(workdir, images, tmp_path / "z.npz", overwrite=True)["files"]) == COUNT


def test_a_full_disk_is_said(workdir, images, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_file.shutil, "copyfileobj", full)
    with pytest.raises(SystemExit, match=r"z.npz cannot be written \(No space left on device\); make room"):
        run(workdir, images, tmp_path / "z.npz")
    assert not list(tmp_path.glob("*.npz*")) and not list(tmp_path.glob(".z*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "/nowhere"}, "/nowhere"),
        ({"images": "/nowhere"}, "/nowhere is not a folder"),
        ({"out": "z.npy"}, "--out=z.npy: give a name that ends in .npz"),
        ({"step": "last"}, "--step=last: give newest, best or"),
        ({"step": "7"}, "7"),
        ({"feature": "nothing"}, "the encoder names .*pooled"),
        ({"feature": "denoiser"}, "--block=: --feature=denoiser needs one of "),
        ({"block": "middle1"}, "--block=middle1 is of --feature=denoiser"),
    ],
)
def test_mistakes_get_a_line(workdir, images, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run(**({"workdir": workdir, "images": images, "out": tmp_path / "z.npz"} | options))
    assert not list(tmp_path.glob("*.np*"))


def test_an_empty_folder(workdir, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(SystemExit, match="holds no image of type .jpg"):
        run(workdir, tmp_path / "a", tmp_path / "z.npz")
