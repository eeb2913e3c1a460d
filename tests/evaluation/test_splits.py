"""Whole evaluations of splits in memory: batches, padding and devices change no figure; bad splits are named."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from soda_jax import build
from soda_jax.data.datasets import Labels
from soda_jax.evaluation import features as evaluate_features
from soda_jax.evaluation import frechet
from soda_jax.evaluation import images as evaluate_images
from soda_jax.evaluation.evaluate import evaluate
from soda_jax.evaluation.evaluators import disentanglement, few_shot
from soda_jax.evaluation.evaluators.disentanglement import Disentanglement
from soda_jax.metrics.disentanglement import boosting
from tests import tiny, tiny_checkpoint

NAMES, SIZES = ("hue", "light"), (3, 2)


class Split:
    """Images of one colour and noise, with hue and brightness as factors."""

    labels = {"factors": Labels(SIZES, NAMES)}

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.factors = np.stack([rng.integers(0, size, count) for size in SIZES], axis=1).astype(np.int32)
        colours = np.eye(3)[self.factors[:, 0]] * (0.4 + 0.5 * self.factors[:, 1:])
        noise = rng.normal(0, 0.1, (count, 8, 8, 3))
        self.images = (255 * np.clip(colours[:, None, None] + noise, 0, 1)).astype(np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "factors": self.factors[index]}


def get_config(**overrides):
    settings = {
        "eval__evaluators": ("knn", "linear_probe", "few_shot", "reconstruction", "diversity"),
        "eval__image_metrics": ("psnr", "psnr_pooled", "ssim"),
        "eval__knn_k": (5,),
        "eval__probe_epochs": 20,
        "eval__probe_learning_rates": (1e-2,),
        "eval__few_shot_shares": (0.5,),
        "eval__few_shot_seeds": 1,
        "eval__reconstruction_examples": 9,
        "eval__diversity_seeds": 2,
        "data__augment_source": False,
        "data__augment_target": False,
    }
    return tiny.get_config(**(settings | overrides))


@pytest.fixture
def splits(monkeypatch):
    """The splits, which a test may replace."""
    found = {"train": Split(90, 0), "test": Split(25, 1)}
    monkeypatch.setattr(build, "dataset", lambda config, split: found[split])
    monkeypatch.setattr(evaluate_features, "CALIBRATION_BATCHES", 1)
    monkeypatch.setattr(evaluate_images, "MEAN_TARGETS", 64)
    monkeypatch.setattr(few_shot, "MIN_STEPS", 20)
    monkeypatch.setattr(boosting, "ROUNDS", 5)
    monkeypatch.setattr(disentanglement, "Disentanglement", functools.partial(Disentanglement, jobs=1))
    return found


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(folder, get_config(), 3)
    return folder


@pytest.fixture(scope="module")
def reference():
    """Filled by the first of the following tests."""
    return {}


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "baselines"), [(64, 1, True), (1, 1, False), (7, 1, False), (7, 4, True)]
)
def test_batches_padding_and_devices_change_no_figure(splits, workdir, reference, batch_size, num_devices, baselines):
    """25 test images leave padding in batches of 7 (8 on four devices) and 64; so do the 9 that are sampled."""
    config = get_config(eval__batch_size=batch_size, sampling__batch_size=batch_size, eval__baselines=baselines)
    results = evaluate(config, str(workdir), devices=jax.devices()[:num_devices])
    found = {
        f"{row} {name} {field}": value
        for row, figures in results.items()
        for name, figure in figures.items()
        for field, value in (dataclasses.asdict(figure) if dataclasses.is_dataclass(figure) else {"": figure}).items()
        if field != "over"
    }
    assert len(found) > (100 if baselines else 40)
    expected = reference.setdefault("figures", found)
    assert set(found) == set(expected) if baselines else set(found) < set(expected)
    worst = max(found, key=lambda name: abs(found[name] - expected[name]) / (1 + abs(expected[name])))
    np.testing.assert_allclose(found[worst], expected[worst], rtol=1e-5, atol=1e-5, err_msg=worst)


def test_an_empty_split(splits, workdir):
    splits["test"] = Split(0, 1)
    with pytest.raises(ValueError, match="the split is empty: choose another split"):
        evaluate(get_config(eval__evaluators=("knn",), eval__baselines=False), str(workdir))
    with pytest.raises(ValueError, match="the split is empty: choose another split"):
        evaluate(get_config(eval__evaluators=("reconstruction",), eval__baselines=False), str(workdir))


@pytest.mark.parametrize("evaluator", ["knn", "linear_probe", "few_shot"])
def test_a_single_class(splits, workdir, evaluator):
    splits["train"].factors[:] = 1
    with pytest.raises(ValueError, match="all 90 training examples are of one class.*eval.train_examples"):
        evaluate(get_config(eval__evaluators=(evaluator,), eval__baselines=False), str(workdir))


def test_factors_that_never_change(splits, workdir):
    splits["train"].factors[:, 1] = 0
    with pytest.raises(ValueError, match="one value"):
        evaluate(get_config(eval__evaluators=("disentanglement",), eval__baselines=False), str(workdir))


def test_weights_that_diverged(splits, tmp_path, monkeypatch):
    drawn = tiny_checkpoint.random_variables

    def damaged(config, seed):
        variables = drawn(config, seed)
        variables["params"]["encoder"]["stem"]["kernel"][0, 0, 0, 0] = np.nan
        return variables

    monkeypatch.setattr(tiny_checkpoint, "random_variables", damaged)
    tiny_checkpoint.write(tmp_path, get_config(), 3)
    with pytest.raises(ValueError, match="the features of example 0 of 90 are not finite: the weights diverged"):
        evaluate(get_config(eval__evaluators=("knn",), eval__baselines=False), str(tmp_path))
    with pytest.raises(ValueError, match="9 of 9 values are not finite"):
        evaluate(get_config(eval__evaluators=("reconstruction",), eval__baselines=False), str(tmp_path))


def test_disentanglement_by_section_beside_pixels(splits, workdir, monkeypatch):
    monkeypatch.setattr(disentanglement, "PIXELS_SIDE", 2)
    settings = {"eval__dci_train": 80, "eval__dci_test": 20, "eval__dci_repeats": 2}
    config = get_config(eval__evaluators=("disentanglement",), **settings)
    results = evaluate(config, str(workdir))
    assert list(results) == ["SODA", "untrained encoder", "raw pixels, 16 x 16"]
    for name, row in results.items():
        sections = {metric.split("/")[1] for metric in row if "section" in metric}
        assert sections == (set() if name == "raw pixels, 16 x 16" else {f"section_{i}" for i in range(3)})
        for metric in ("d", "c", "i", "dci", "mig", "sap", "factor_vae", "i/hue", "i/light"):
            assert 0 <= float(row[f"disentanglement/{metric}"]) <= 1
    trained, pixels = results["SODA"], results["raw pixels, 16 x 16"]
    assert trained["disentanglement/d"].over == "random halves" and isinstance(pixels["disentanglement/d"], float)
    assert float(pixels["disentanglement/i/hue"]) > 0.8
    assert np.load(workdir / "dci_importance.npy").shape == (16, 2)
    written = json.loads((workdir / "evaluation_00000003.json").read_text())
    assert written["num_images"] == {"dci_train": 80, "dci_test": 20}


def test_no_sections_of_what_is_no_latent(splits, workdir):
    for change in ({"eval__feature": "pooled"}, {"eval__dci_sections": False}):
        config = get_config(eval__evaluators=("disentanglement",), eval__baselines=False, eval__dci_repeats=0, **change)
        assert not [name for name in evaluate(config, str(workdir))["SODA"] if "section" in name]


def test_no_sections_where_they_are_too_narrow(splits, tmp_path, capsys):
    """A latent as wide as its sections trains; completeness needs two codes."""
    settings = {"eval__evaluators": ("disentanglement",), "eval__baselines": False, "eval__dci_repeats": 0}
    config = get_config(model__latent_dim=4, **settings)
    tiny_checkpoint.write(tmp_path, config, 3)
    row = evaluate(config, str(tmp_path))["SODA"]
    assert "disentanglement/d" in row and not [name for name in row if "section" in name]
    assert "no DCI by section: 4 codes in 3 sections" in capsys.readouterr().out


def test_frechet_distances_of_a_run(splits, workdir, tmp_path, monkeypatch):
    """From the samples to the file of reference statistics; a second run reads that."""

    def means(images):
        return images.mean(axis=(1, 2))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("soda_jax.metrics.registry.load_backbone", lambda network, folder: means)
    config = get_config(eval__evaluators=("reconstruction",), eval__image_metrics=("frechet_alexnet",))
    first = evaluate(config, str(workdir))
    assert list(first) == ["SODA", "mean training image"] and list(first["SODA"]) == ["reconstruction/frechet_alexnet"]
    files = list(tmp_path.rglob("frechet_alexnet_synthetic_test_8px.npz"))
    assert len(files) == 1 and files[0].parent.name == "frechet"
    monkeypatch.setattr(frechet, "_write", None)
    assert evaluate(config, str(workdir)) == first
