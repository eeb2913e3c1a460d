"""`--mode=evaluate`: a checkpoint beside its baselines, on the scenes."""

import json

import numpy as np
import pytest

from soda_jax import build
from soda_jax import evaluate as evaluate_module
from soda_jax.config import ConfigError
from soda_jax.data.pipeline import eval_batches
from soda_jax.evaluate import evaluate
from tests import tiny, tiny_checkpoint
from tests.objects import Objects

pytestmark = pytest.mark.usefixtures("quick_compile")

FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")


def get_config(root, **overrides):
    settings = {
        "train__batch_size": 100,  # training's alone: need not divide over this machine's devices
        "eval__train_examples": 300,
        "eval__test_examples": 50,
        "eval__batch_size": 16,
        "eval__knn_k": (3, 1000),
        "eval__probe_epochs": 5,
        "eval__probe_learning_rates": (1e-2,),
        "eval__reconstruction_examples": 3,
        "sampling__batch_size": 2,
        "model__denoiser__multipliers": (1,),
    }
    return tiny.scenes_config(str(root), **(settings | overrides))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(folder, get_config(scenes), 7)
    return folder


@pytest.fixture(scope="module")
def evaluation(workdir, scenes):
    """(results, batches that the untrained encoder was calibrated on)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_module, "CALIBRATION_BATCHES", 2)
        return evaluate(get_config(scenes), str(workdir))


def test_rows_and_metrics(evaluation):
    assert list(evaluation) == ["SODA", "untrained encoder", "raw pixels"]
    features = {f"{kind}/{name}" for kind in ("knn3", "linear_probe") for name in (*FACTORS, "mean")}
    features |= {"linear_probe/learning_rate"}
    assert set(evaluation["SODA"]) == features | {"reconstruction/psnr", "reconstruction/ssim"}
    assert set(evaluation["untrained encoder"]) == set(evaluation["raw pixels"]) == features
    for row in evaluation.values():
        assert all(np.isfinite(value) for value in row.values())
        assert all(0 <= row[name] <= 1 for name in features)
    assert evaluation["SODA"] != evaluation["untrained encoder"]


def test_raw_pixels_show_the_hues(evaluation):
    """A check of the whole way from images and factors to scores: colours can be read off the pixels."""
    pixels = evaluation["raw pixels"]
    assert pixels["linear_probe/floor_hue"] > 0.6 and pixels["linear_probe/wall_hue"] > 0.6
    assert pixels["knn3/mean"] > 0.2  # chance: 0.125


def test_written_as_json(evaluation, workdir):
    written = json.loads((workdir / "evaluation_00000007.json").read_text())
    assert written == {"step": 7, "results": evaluation}


def test_without_baselines_and_with_one_evaluator(workdir, scenes, capsys):
    config = get_config(scenes, eval__baselines=False, eval__evaluators=("knn",), eval__train_examples=20)
    results = evaluate(config, str(workdir))
    assert list(results) == ["SODA"]
    assert set(results["SODA"]) == {f"knn3/{name}" for name in (*FACTORS, "mean")}
    printed = capsys.readouterr().out
    assert "SODA: 20 training, 50 test examples" in printed
    assert f"knn3/mean         {results['SODA']['knn3/mean']:.4f}" in printed
    assert "evaluation_00000007.json" in printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval__evaluators": ("knn", "fid")}, r"config.eval.evaluators=\('knn', 'fid'\): names fid; known are knn, "),
        ({"probe__kind": "none"}, r"knn and linear_probe need labels.*leave them out"),
        ({"probe__kind": "label"}, r"config.probe.kind='label': the dataset has no such targets \(it has: factors\)"),
        ({"model__latent_dim": 32}, "config.model.latent_dim: 16 -> 32"),
        ({"data__eval_split": "dev"}, "dev"),
        ({"eval__feature": "head", "eval__baselines": False}, "config.eval.feature='head': the encoder names stem,"),
    ],
)
def test_impossible_evaluations_name_the_remedy(workdir, scenes, overrides, message):
    error = ConfigError if message.startswith((r"config.eval.evaluators", "knn")) else ValueError
    with pytest.raises(error, match=message):
        evaluate(get_config(scenes, **overrides), str(workdir))


def test_nothing_to_evaluate(tmp_path, scenes):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: train first"):
        evaluate(get_config(scenes), str(tmp_path))


@pytest.fixture(scope="module")
def posed_workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("posed")
    tiny_checkpoint.write(folder, tiny.posed_config(), 3)
    return folder


def test_novel_views_beside_their_baselines(posed_workdir, monkeypatch, capsys):
    train, test = Objects(count=8, num_views=4, seed=1), Objects()
    monkeypatch.setattr(build, "source", lambda config, split: {"train": train, "test": test}[split])
    settings = {"eval__evaluators": ("novel_view",), "eval__novel_view_examples": 3, "eval__novel_view_targets": 1}
    config = tiny.posed_config(**settings, data__min_sources=1)
    results = evaluate(config, str(posed_workdir))
    assert list(results) == ["SODA", "nearest source", "mean training image"]
    names = [f"novel_view{count}/{metric}" for count in (1, 3, 5) for metric in ("psnr", "ssim")]
    assert all(list(row) == names and np.isfinite(list(row.values())).all() for row in results.values())
    printed = capsys.readouterr().out
    assert "no scores for 7 sources: an object has 6 views, 1 of them targets" in printed
    assert "no scores for 9 sources" in printed
    assert json.loads((posed_workdir / "evaluation_00000003.json").read_text())["results"] == results
    # All training views count alike, to within the error of drawing them at random.
    mean = train.images.reshape(-1, 8, 8, 3).mean(axis=0) / 255
    targets = [batch["target"] for batch in eval_batches(test, build.view_spec(config), batch_size=3, limit=3)]
    psnr = -10 * np.log10(np.mean((targets[0] / 255 - mean) ** 2, axis=(1, 2, 3))).mean()
    np.testing.assert_allclose(results["mean training image"]["novel_view3/psnr"], psnr, atol=0.03)
    without = evaluate(tiny.posed_config(**settings, eval__baselines=False), str(posed_workdir))
    assert without == {"SODA": results["SODA"]}
