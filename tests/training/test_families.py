"""Runs of the other families, from training to their reports, through the same doors as SODA's."""

import json

import jax
import numpy as np
import pytest

import soda_jax
from soda_jax.config import ConfigError
from soda_jax.evaluation.evaluate import evaluate
from soda_jax.inference.sample import sample
from soda_jax.models.families import FAMILIES
from soda_jax.parallel import sharding
from soda_jax.reporting import page
from soda_jax.training import loop
from soda_jax.training.loop import train
from soda_jax.workdir.checkpoint import read_arrays
from tests import tiny

STEPS = 8
MESH = sharding.make_mesh(jax.devices()[:1])


def get_config(root, **overrides):
    settings = {
        "model__family": "encdec",
        "model__denoiser__multipliers": (1,),
        "train__num_steps": STEPS,
        "train__batch_size": 4,
        "train__log_every": 4,
        "train__eval_every": STEPS,
        "train__checkpoint_every": 4,
        "eval__batch_size": 8,
        "eval__num_examples": 8,
        "eval__train_examples": 40,
        "eval__test_examples": 16,
        "eval__evaluators": ("knn", "reconstruction"),
        "eval__knn_k": (3,),
        "eval__reconstruction_examples": 3,
        "eval__baselines": False,
    }
    return tiny.scenes_config(str(root), **(settings | overrides))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, workdir) of eight steps."""
    config, workdir = get_config(tmp_path_factory.mktemp("geometry")), tmp_path_factory.mktemp("encdec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.sharding, "make_mesh", lambda **_: MESH)
        train(config, str(workdir))
    return config, workdir


def test_it_resumes_bit_by_bit(run, tmp_path, monkeypatch):
    config, workdir = run
    monkeypatch.setattr(loop.sharding, "make_mesh", lambda **_: MESH)
    half = config.copy_and_resolve_references()
    half.train.num_steps = STEPS // 2
    train(half, str(tmp_path))
    train(config, str(tmp_path))
    whole, resumed = (read_arrays(str(folder), STEPS) for folder in (workdir, tmp_path))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_it_is_evaluated_and_reported_under_its_own_name(run):
    config, workdir = run
    results = evaluate(config, str(workdir))
    assert list(results) == ["EncDec"]
    assert {"knn3/mean", "reconstruction/psnr", "online_probe/mean"} <= set(results["EncDec"])
    assert json.loads((workdir / f"evaluation_{STEPS:08d}.json").read_text())["model"] == "EncDec"
    text = page.write(str(workdir))[1].read_text()
    assert "EncDec, resnet6" in text and "k-nearest neighbours" in text
    assert "latent_use/" not in (workdir / "metrics.jsonl").read_text() and "Use of the latent" not in text


def test_it_loads_encodes_and_decodes(run):
    _, workdir = run
    model = soda_jax.load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    z = model.encode(images)
    again = model.reconstruct(images)
    assert z.shape == (3, 16) and again.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(model.sample(z, seed=1), again)  # there is no noise to draw
    mixed = model.sample(z, section_choice=np.zeros((2, model.num_sections), int))
    np.testing.assert_array_equal(mixed[0], again[0])


def test_what_it_cannot_do_is_named_with_what_it_can(run):
    _, workdir = run
    model = soda_jax.load(workdir)
    z = np.zeros((1, 16), np.float32)
    for asked, wanted in (
        (lambda: model.sample(None, num_images=2), "unconditional sampling"),
        (lambda: model.sample(z, guidance_scale=2.0), "guidance_scale"),
        (lambda: model.sample(z, num_frames=3), "num_frames"),
        (lambda: model.sample(z, method="ddim"), "method"),
    ):
        with pytest.raises(ValueError, match=f"{wanted} needs a model with sampling from noise.*EncDec, offers"):
            asked()


def test_its_pictures_have_no_column_that_it_cannot_fill(run):
    config, workdir = run
    assert sample(config, str(workdir)).exists()


def test_settings_that_it_cannot_take(tmp_path):
    for overrides, named in (
        ({"model__modulation__kind": "cross_attention"}, "config.model.modulation.kind='cross_attention'"),
        ({"model__aggregation__name": "stochastic"}, "config.model.aggregation.name='stochastic'"),
        ({"model__pose__grid": "xy"}, "config.model.pose.grid='xy'"),
        ({"model__family": "nothing"}, "config.model.family='nothing': must be one of soda, encdec"),
        ({"model__family": "uncond", "model__pose__grid": "xy"}, "config.model.pose.grid='xy'"),
        ({"model__family": "palette", "data__num_sources": 2}, "config.data.num_sources=2"),
        ({"model__family": "autoenc", "data__view_policy": "class"}, "config.data.view_policy='class'"),
        ({"model__vae__likelihood": "laplace"}, "config.model.vae.likelihood='laplace'"),
        ({"eval__denoiser_levels": (0.1, 2.0)}, "config.eval.denoiser_levels"),
    ):
        with pytest.raises(ConfigError, match=named):
            train(get_config(tmp_path, **overrides), str(tmp_path / "run"))


def train_on_one_device(config, workdir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.sharding, "make_mesh", lambda **_: MESH)
        train(config, str(workdir))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["uncond", "palette"])
def test_a_denoiser_alone_from_training_to_its_report(family, tmp_path):
    settings = {"eval__evaluators": ("knn", "linear_probe", "few_shot", "reconstruction"), "eval__probe_epochs": 2}
    grid = {"eval__denoiser_blocks": ("middle",), "eval__denoiser_levels": (0.05, 0.2), "eval__denoiser_examples": 40}
    settings |= grid | {"model__family": family, "eval__few_shot_shares": (0.5,), "eval__few_shot_seeds": 1}
    config, workdir = get_config(tmp_path / "geometry", **settings), tmp_path / "run"
    train_on_one_device(config, workdir)
    title = FAMILIES[family].title
    with pytest.raises(ValueError, match=f"config.eval.feature='latent' needs .*{title}, offers.*feature='denoiser'"):
        evaluate(config, str(workdir))
    measured = config.copy_and_resolve_references()
    measured.eval.feature = "denoiser"
    results = evaluate(measured, str(workdir))
    assert list(results) == [title]
    assert {"knn3/mean", "linear_probe/mean", "denoiser/middle_0@0.05", "denoiser/level"} <= set(results[title])
    assert ("reconstruction/psnr" in results[title]) == (family == "palette")
    text = page.write(str(workdir))[1].read_text()
    assert title in text and "Blocks of the denoiser" in text
    assert sample(config, str(workdir)).exists()
    model = soda_jax.load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=f"encode needs a model with latents of images. This model, {title}"):
        model.encode(images)
    if family == "uncond":
        assert model.sample(None, num_images=2).shape == (2, 32, 32, 3)
        with pytest.raises(ValueError, match="an image of source views needs"):
            model.reconstruct(images)
    else:
        assert model.reconstruct(images).shape == (3, 32, 32, 3)
        with pytest.raises(ValueError, match="unconditional sampling needs"):
            model.sample(None, num_images=2)
    with pytest.raises(ValueError, match="z needs a model with latents"):
        model.sample(np.zeros((1, 16), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vae_factor", "vae_annealed"])
def test_a_vae_from_training_to_its_report_resumes_bit_by_bit(family, tmp_path):
    config = get_config(tmp_path / "geometry", model__family=family, model__vae__factor_width=8)
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train_on_one_device(config, whole)
    half = config.copy_and_resolve_references()
    half.train.num_steps = STEPS // 2
    train_on_one_device(half, halved)
    train_on_one_device(config, halved)
    arrays, resumed = (read_arrays(str(folder), STEPS) for folder in (whole, halved))
    assert arrays.keys() == resumed.keys()
    assert any("adversary" in name for name in arrays) == (family == "vae_factor")
    for name, value in arrays.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    title = FAMILIES[family].title
    results = evaluate(config, str(whole))
    assert {"knn3/mean", "reconstruction/psnr", "online_probe/mean"} <= set(results[title])
    assert title in page.write(str(whole))[1].read_text()
    model = soda_jax.load(whole)
    z = model.encode(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    assert z.shape == (3, 16) and model.sample(z).shape == (3, 32, 32, 3)
