"""`--mode=evaluate`: a checkpoint beside its baselines, on the scenes."""

import json

import numpy as np
import pytest

from soda_jax import evaluate as evaluate_module
from soda_jax.config import ConfigError
from soda_jax.evaluate import evaluate
from tests import tiny, tiny_checkpoint

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
        ({"eval__evaluators": ("knn", "fid")}, "evaluators names fid; known are knn, linear_probe, reconstruction"),
        ({"probe__kind": "none"}, r"knn and linear_probe need labels.*leave them out"),
        ({"probe__kind": "label"}, r"config.probe.kind='label': the dataset has no such targets \(it has: factors\)"),
        ({"model__latent_dim": 32}, "config.model.latent_dim: 16 -> 32"),
        ({"data__eval_split": "dev"}, "dev"),
        ({"eval__feature": "head", "eval__baselines": False}, "config.eval.feature='head': the encoder names stem,"),
    ],
)
def test_impossible_evaluations_name_the_remedy(workdir, scenes, overrides, message):
    error = ConfigError if message.startswith(("evaluators", "knn")) else ValueError
    with pytest.raises(error, match=message):
        evaluate(get_config(scenes, **overrides), str(workdir))


def test_nothing_to_evaluate(tmp_path, scenes):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: train first"):
        evaluate(get_config(scenes), str(tmp_path))
