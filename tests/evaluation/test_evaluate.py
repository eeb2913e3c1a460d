"""`--mode=evaluate`: a checkpoint beside its baselines, on the scenes."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

import soda_jax
from soda_jax import build
from soda_jax.config import ConfigError
from soda_jax.data.pipeline import eval_batches
from soda_jax.evaluation import features as evaluate_features
from soda_jax.evaluation import images as evaluate_images
from soda_jax.evaluation.evaluate import _add_online_probe, evaluate
from soda_jax.evaluation.evaluators import few_shot
from soda_jax.given import given_weights
from soda_jax.tools import export
from soda_jax.workdir import export as exports
from tests import tiny, tiny_checkpoint
from tests.objects import Objects

FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
ROWS = ["SODA", "untrained encoder", "raw pixels"]


def get_config(root, **overrides):
    settings = {
        "train__batch_size": 100,  # training's alone: need not divide over this machine's devices
        "eval__train_examples": 300,
        "eval__test_examples": 50,
        "eval__batch_size": 16,
        "eval__knn_k": (3, 1000),
        "eval__probe_epochs": 100,  # 58 steps of 512
        "eval__probe_learning_rates": (1e-2,),
        "eval__few_shot_shares": (0.2,),
        "eval__few_shot_seeds": 2,
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
    online = [
        {"step": 5, "eval/loss": 0.5, "probe/mean": 0.1},
        {"step": 6, "eval/loss": 0.4, "probe/mean": 0.25, "probe/scale": 0.5, "probe_pixels/mean": None},
        {"step": 7, "loss": 0.3, "probe/accuracy": 0.9},
        {"step": 8, "eval/loss": 0.3, "probe/mean": 0.75},
    ]
    lines = [json.dumps(line) for line in online]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 9, "eva']))
    return folder


@pytest.fixture(scope="module")
def evaluation(workdir, scenes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_features, "CALIBRATION_BATCHES", 2)
        patch.setattr(evaluate_images, "MEAN_TARGETS", 64)
        patch.setattr(few_shot, "MIN_STEPS", 30)
        return evaluate(get_config(scenes), str(workdir))


def test_rows_and_metrics(evaluation):
    assert list(evaluation) == [*ROWS, "mean training image"]
    accuracies = {
        f"{kind}/{name}" for kind in ("knn3", "linear_probe", "few_shot_20pct") for name in (*FACTORS, "mean")
    }
    rates = {f"{kind}/learning_rate" for kind in ("linear_probe", "few_shot_20pct")} | {"few_shot_20pct/examples"}
    images = {"reconstruction/psnr", "reconstruction/ssim"}
    online = {"online_probe/mean", "online_probe/scale"}
    assert set(evaluation["SODA"]) == accuracies | rates | images | online
    assert set(evaluation["untrained encoder"]) == set(evaluation["raw pixels"]) == accuracies | rates
    assert set(evaluation["mean training image"]) == images
    for row in evaluation.values():
        for name in row.keys() & (accuracies | images):
            figure = row[name]
            assert figure.low <= figure.value <= figure.high
            assert figure.count == (3 if name in images else 50)
        assert all(0 <= row[name].low and row[name].high <= 1 for name in row.keys() & accuracies)
    assert evaluation["SODA"] != evaluation["untrained encoder"]


def test_the_online_probe_as_training_measured_it_last(evaluation):
    """Up to the checkpoint's step; what was not a number, or was measured on training batches, is none of it."""
    assert evaluation["SODA"]["online_probe/mean"] == 0.25 and evaluation["SODA"]["online_probe/scale"] == 0.5


def test_lines_of_metrics_that_are_no_rows_are_passed_over(tmp_path):
    row = {"step": 5, "eval/loss": 0.5, "probe/mean": 0.1}
    odd = [
        "3",
        "null",
        '["eval/loss"]',
        '"eval/loss"',
        '{"eval/loss": 1, "probe/mean": 9}',
        '{"step": "6", "eval/loss": 1}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*odd, json.dumps(row), *odd]))
    results = {"SODA": {}}
    _add_online_probe(str(tmp_path), 7, results, "SODA")
    assert results == {"SODA": {"online_probe/mean": 0.1}}


def test_raw_pixels_show_the_hues(evaluation):
    """A check of the whole way from images and factors to scores: colours can be read off the pixels."""
    pixels = evaluation["raw pixels"]
    assert pixels["linear_probe/floor_hue"].value > 0.6 and pixels["linear_probe/wall_hue"].value > 0.6
    assert pixels["knn3/mean"].value > 0.2  # chance: 0.125


def test_written_as_json(evaluation, workdir):
    written = json.loads((workdir / "evaluation_00000007.json").read_text())
    figure = evaluation["SODA"]["knn3/mean"]
    assert written["results"]["SODA"]["knn3/mean"] == dataclasses.asdict(figure)
    assert {row: list(figures) for row, figures in written["results"].items()} == {
        row: list(figures) for row, figures in evaluation.items()
    }
    assert written["num_images"] == {"train": 300, "test": 50, "reconstruction": 3}
    assert written["hardware"]["device_count"] == jax.device_count()


def test_without_baselines_and_with_one_evaluator(evaluation, workdir, scenes, capsys):
    config = get_config(scenes, eval__baselines=False, eval__evaluators=("knn",), eval__train_examples=20)
    results = evaluate(config, str(workdir))
    assert list(results) == ["SODA"]
    assert set(results["SODA"]) == {f"knn3/{name}" for name in (*FACTORS, "mean")} | {
        "online_probe/mean",
        "online_probe/scale",
    }
    printed = capsys.readouterr().out
    assert "SODA: 20 training, 50 test examples" in printed
    assert "no scores of 1000 neighbours: the gallery holds 20 examples" in printed
    figure = results["SODA"]["knn3/mean"]
    shown = re.escape(f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]")
    assert re.search(rf"^knn3/mean +{shown}$", printed, re.MULTILINE)
    assert "evaluation_00000007.json" in printed
    written = json.loads((workdir / "evaluation_00000007.json").read_text())
    kept = {name for name in evaluation["SODA"] if not name.startswith("knn")}
    assert set(written["results"]["SODA"]) == kept | set(results["SODA"])


@pytest.mark.parametrize("views", ["cached", "epoch"])
def test_a_probe_on_augmented_views(workdir, scenes, views):
    """Each epoch's own crops, or a few kept ones, teach the probe; the test views stay whole."""
    config = get_config(
        scenes,
        eval__baselines=False,
        eval__evaluators=("linear_probe",),
        eval__probe_views=views,
        eval__probe_cached_views=2,
        eval__probe_epochs=16,  # two steps
        eval__train_examples=64,
    )
    seen = []
    with pytest.MonkeyPatch.context() as patch:

        def spied(*args, augment_seed=None, **options):
            seen.append((options["limit"], augment_seed))
            return eval_batches(*args, augment_seed=augment_seed, **options)

        patch.setattr(evaluate_features, "eval_batches", spied)
        results = evaluate(config, str(workdir))
    assert np.isfinite(float(results["SODA"]["linear_probe/mean"]))
    assert seen[:2] == [(64, None), (50, None)]
    assert {limit for limit, _ in seen[2:]} == {64}
    assert [seed for _, seed in seen[2:]] == list(range(2 if views == "cached" else 16))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval__evaluators": ("knn", "fid")}, r"config.eval.evaluators=\('knn', 'fid'\): names fid; known are knn, "),
        ({"probe__kind": "none"}, r"config.eval.evaluators: knn and linear_probe and few_shot need labels.*leave them"),
        ({"eval__evaluators": ("diversity",), "eval__image_metrics": ("fid",)}, "inception_weights is empty: get"),
        ({"probe__kind": "label"}, r"config.probe.kind='label': the dataset has no such labels \(it has: factors\)"),
        ({"model__latent_dim": 32}, "config.model.latent_dim: 16 -> 32"),
        ({"data__eval_split": "dev"}, "dev"),
        ({"data__test_split": "dev"}, "dev"),
        ({"eval__feature": "head", "eval__baselines": False}, "feature='head': the encoder names stem,"),
    ],
)
def test_impossible_evaluations_name_the_remedy(workdir, scenes, overrides, message):
    error = ConfigError if message.startswith("config.eval.evaluators") else ValueError
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
    monkeypatch.setattr(build, "dataset", lambda config, split: {"train": train, "test": test}[split])
    settings = {"eval__evaluators": ("novel_view",), "eval__novel_view_examples": 3, "eval__novel_view_targets": 1}
    config = tiny.posed_config(**settings, data__min_sources=1)
    results = evaluate(config, str(posed_workdir))
    assert list(results) == ["SODA", "nearest source", "mean training image"]
    names = [f"novel_view{count}/{metric}" for count in (1, 3, 5) for metric in ("psnr", "ssim")]
    assert all(list(row) == names for row in results.values())
    printed = capsys.readouterr().out
    assert "no scores for 7 sources: an object has 6 views, 1 of them targets" in printed
    assert "no scores for 9 sources" in printed
    written = json.loads((posed_workdir / "evaluation_00000003.json").read_text())
    assert written["results"]["SODA"]["novel_view1/psnr"] == dataclasses.asdict(results["SODA"]["novel_view1/psnr"])
    assert written["num_images"] == {"novel_view": 3}
    config.seed = 1
    redrawn = evaluate(config, str(posed_workdir))
    assert redrawn["nearest source"] == results["nearest source"]
    assert all(redrawn["SODA"][name] != figure for name, figure in results["SODA"].items())
    # All training views count alike, to within the error of drawing them at random.
    mean = train.images.reshape(-1, 8, 8, 3).mean(axis=0) / 255
    labels = [batch["target"] for batch in eval_batches(test, build.view_spec(config), batch_size=3, limit=3)]
    psnr = -10 * np.log10(np.mean((labels[0] / 255 - mean) ** 2, axis=(1, 2, 3))).mean()
    np.testing.assert_allclose(results["mean training image"]["novel_view3/psnr"].value, psnr, atol=0.03)
    without = evaluate(tiny.posed_config(**settings, eval__baselines=False), str(posed_workdir))
    assert without == {"SODA": results["SODA"]}


def test_an_export_has_the_figures_of_its_run(workdir, scenes, tmp_path):
    config = get_config(scenes, eval__evaluators=("knn", "reconstruction"), eval__baselines=False)
    model = soda_jax.load(workdir)
    exports.write(tmp_path / "handed on", export.export_of(model), "float32", "")
    ours, theirs = tmp_path / "ours", str(tmp_path / "handed on")
    results = evaluate(config, str(ours), weights=given_weights(theirs, config, str(ours)))
    expected = evaluate(config, str(workdir))["SODA"]
    assert results["SODA"] == {name: value for name, value in expected.items() if "online" not in name}
    record = json.loads((ours / "evaluation_00000007.json").read_text())
    assert record["weights"] == model.weights_digest
    other = get_config(scenes, model__latent_dim=24, eval__evaluators=("knn",))
    with pytest.raises(ValueError, match=r"(?s)--model=.* holds another model .* config.model.latent_dim: 16 -> 24"):
        given_weights(theirs, other, str(ours))
    for folder in (str(workdir), theirs):
        with pytest.raises(ValueError, match="holds a model of its own"):
            given_weights(theirs, config, folder)


def test_an_exports_rounded_weights_are_not_taken_for_the_runs(workdir, scenes, tmp_path):
    config = get_config(scenes, eval__evaluators=("knn",), eval__baselines=False)
    exports.write(tmp_path / "float16", export.export_of(soda_jax.load(workdir)), "float16", "")
    ours = str(tmp_path / "ours")
    evaluate(config, ours, weights=given_weights(str(workdir), config, ours))
    path = tmp_path / "ours" / "evaluation_00000007.json"
    assert json.loads(path.read_text())["rounded"] is False
    other = get_config(scenes, eval__evaluators=("linear_probe",), eval__baselines=False, eval__probe_epochs=1)
    evaluate(other, ours, weights=given_weights(str(tmp_path / "float16"), config, ours))
    record = json.loads(path.read_text())
    assert record["rounded"] is True and not any(name.startswith("knn") for name in record["results"]["SODA"])


def test_diversity_of_samples(workdir, scenes):
    config = get_config(scenes, eval__evaluators=("diversity",), eval__diversity_seeds=2)
    row = evaluate(config, str(workdir))["SODA"]
    assert list(row) == ["diversity/std", "diversity/psnr", "diversity/ssim"]
    assert row["diversity/std"].low > 0


def test_the_noise_of_samples_follows_the_runs_seed(workdir, scenes):
    def figures(seed):
        config = get_config(
            scenes, eval__evaluators=("diversity", "reconstruction"), eval__diversity_seeds=2, eval__baselines=False
        )
        config.seed = seed
        return {name: figure.value for name, figure in evaluate(config, str(workdir))["SODA"].items()}

    first, second = figures(0), figures(1)
    assert figures(1) == second
    assert {name for name in first if first[name] == second[name]} == set()
