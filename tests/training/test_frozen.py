"""A run around a frozen encoder: of a checkpoint of our own, and of published weights of a tiny size."""

import json
import os
import shutil
import struct

import jax
import numpy as np
import pytest

import soda_jax
from soda_jax.config import ConfigError
from soda_jax.models import clip
from soda_jax.parallel import sharding
from soda_jax.sharing import shipped
from soda_jax.training import loop
from soda_jax.training.frozen import pretrained_encoder
from soda_jax.training.loop import train
from soda_jax.training.start import initial_state
from soda_jax.workdir.checkpoint import Checkpointer, read_arrays
from tests import tiny, tiny_checkpoint, tiny_exports
from tests.models import clip_reference

MESH = sharding.make_mesh(jax.devices()[:1])
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def tiny_variant(monkeypatch):
    monkeypatch.setitem(clip.VARIANTS, "tiny", clip_reference.TINY)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The folder of a run whose encoder is to be frozen, with BatchNorm and equalised learning rates."""
    workdir = tmp_path_factory.mktemp("source")
    tiny_checkpoint.write(workdir, tiny.get_config(model__encoder__lr_multiplier=2.0), 3)
    return workdir


def get_config(path, **overrides):
    return tiny.get_config(model__family="frozen", model__frozen__path=str(path), **overrides)


def clip_config(path, **overrides):
    return get_config(path, model__encoder__name="clip_tiny", **overrides)


def published(path, weights):
    """Writes float32 arrays as a .safetensors file."""
    header, data = {}, b""
    for name, array in weights.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": place}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def start(config, workdir, train_step=None):
    """(train step, new state) of a run."""
    train_step = tiny.train_step(config) if train_step is None else train_step
    with Checkpointer(str(workdir), keep_every=1) as checkpointer:
        return train_step, initial_state(config, str(workdir), train_step, tiny.batch(), checkpointer, MESH)[0]


def save(workdir, config, state):
    with Checkpointer(str(workdir), keep_every=1) as checkpointer:
        meta = {"config": config.to_dict(), "targets": {}, "data_position": int(state.step)}
        checkpointer.save(sharding.put_replicated(state, MESH), meta)


def test_a_step_leaves_the_encoder_as_it_was(source, tmp_path):
    """One step with every random part on, then a checkpoint that needs neither the source nor its path."""
    config = get_config(source)
    original = soda_jax.load(source)
    train_step, state = start(config, tmp_path / "run")
    before = jax.device_get(state)
    assert "encoder" not in before.params and "encoder" in before.ema_params
    expected = jax.tree.map(lambda x: 2.0 * np.asarray(x), original.variables["params"]["encoder"])
    tiny.assert_equal(before.ema_params["encoder"], expected)
    # Off the start, where the output layer's zeros stop all gradients.
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), before.params)
    before = before.replace(params=moved)
    step, mesh = tiny.stepper(train_step)
    after, rows = tiny.run(step, mesh, before, [tiny.batch(seed=1)])
    assert np.isfinite(rows[0]["loss"]) and "grad_norm/encoder" not in rows[0]
    tiny.assert_equal(after.ema_params["encoder"], before.ema_params["encoder"])
    tiny.assert_equal(after.batch_stats, before.batch_stats)
    tiny.assert_equal(after.ema_batch_stats, before.ema_batch_stats)
    assert after.params.keys() == {"denoiser", "projection"}
    assert "encoder" not in str(jax.tree.structure(after.opt_state))
    for part in after.params:
        change = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params[part], before.params[part])
        assert max(jax.tree.leaves(change)) > 1e-4, part

    save(tmp_path / "run", config, after)
    model = soda_jax.load(tmp_path / "run")
    np.testing.assert_allclose(model.encode(IMAGES), original.encode(IMAGES), atol=1e-4, rtol=1e-4)
    assert model.reconstruct(IMAGES).shape == (3, 8, 8, 3)
    with pytest.raises(ValueError, match="section_mask needs a model with latents in sections.*unCLIP, offers"):
        model.sample(np.zeros((1, 16), np.float32), section_mask=np.ones(model.num_sections))


def test_the_encoder_of_a_model_that_comes_along(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    export = tiny_exports.write(tmp_path / "ours")
    found = pretrained_encoder(get_config("ours"))
    tiny.assert_equal(found.params, export.variables["params"]["encoder"])
    assert found.origin == "ours at step 7"


@pytest.mark.slow
def test_published_weights_encode_as_published(tmp_path):
    weights = clip_reference.weights()
    path = published(tmp_path / "model.safetensors", weights)
    config = clip_config(path, model__latent_dim=20)
    train_step, state = start(config, tmp_path / "run")
    step, mesh = tiny.stepper(train_step)
    after, _ = tiny.run(step, mesh, jax.device_get(state), [tiny.batch(seed=1)])
    save(tmp_path / "run", config, after)
    path.unlink()
    model = soda_jax.load(tmp_path / "run")
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), np.uint8)
    pixels = np.asarray(clip.preprocess(images / np.float32(255.0), 12))
    z = model.encode(images)
    np.testing.assert_allclose(z, clip_reference.vector(weights, pixels, "quick_gelu"), atol=1e-4)
    assert model.latent_dim == 24 and after.params["projection"]["kernel"].shape == (24, 20)
    assert model.sample(z).shape == (3, 8, 8, 3)
    # A run of ours that holds a published encoder is a source like any other, once its file is gone.
    again = pretrained_encoder(clip_config(tmp_path / "run", model__latent_dim=16))
    tiny.assert_equal(again.params, after.ema_params["encoder"])


@pytest.mark.slow
def test_it_resumes_bit_by_bit_without_its_source(source, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.sharding, "make_mesh", lambda *_, **__: MESH)
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    settings = {"model__family": "frozen", "model__frozen__path": str(copy), "model__denoiser__multipliers": (1,)}
    short = {"train__batch_size": 4, "train__checkpoint_every": 2, "train__eval_every": 4, "eval__num_examples": 8}
    config = tiny.scenes_config(str(tmp_path / "geometry"), train__num_steps=4, **settings, **short)
    half = config.copy_and_resolve_references()
    half.train.num_steps = 2
    train(config, str(tmp_path / "whole"))
    train(half, str(tmp_path / "halves"))
    shutil.rmtree(copy)
    train(config, str(tmp_path / "halves"))
    whole, resumed = (read_arrays(str(tmp_path / name), 4) for name in ("whole", "halves"))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    moved = config.copy_and_resolve_references()
    moved.model.frozen.path = str(source)
    moved.train.num_steps = 6
    with pytest.raises(ValueError, match=r"config.model.frozen.path: '.*copy' -> '.*source"):
        train(moved, str(tmp_path / "halves"))


def test_what_is_no_encoder_is_named(source, tmp_path):
    weights = clip_reference.weights()
    path = published(tmp_path / "model.safetensors", weights)
    fewer = published(tmp_path / "fewer.safetensors", {k: v for k, v in weights.items() if "ln_post" not in k})
    other = published(tmp_path / "other.safetensors", {"fc.weight": np.ones((2, 2), np.float32)})
    (tmp_path / "empty").mkdir()
    for config, error, named in (
        (get_config(""), ConfigError, r"config.model.frozen.path='': name the folder of a run"),
        (get_config(tmp_path / "absent"), ConfigError, "is neither folder nor file, and .*name='resnet6'"),
        (get_config(path), ConfigError, "is a file, but config.model.encoder.name='resnet6'"),
        (get_config(tmp_path / "empty"), FileNotFoundError, "holds no checkpoint"),
        (clip_config(tmp_path / "absent.safetensors"), ConfigError, "absent.safetensors is no file"),
        (clip_config(fewer), ConfigError, "visual.ln_post.weight is missing"),
        (clip_config(other), ConfigError, "there is no CLIP vision transformer"),
        (clip_config(os.devnull), ConfigError, "is no file"),
        (get_config(path, model__encoder__name="clip_vit_l14"), ConfigError, "holds clip_tiny: use that"),
        (clip_config(source), ConfigError, r"config.model.encoder.name: 'resnet6' -> 'clip_tiny'"),
        (get_config(source, model__latent_dim=24), ConfigError, r"config.model.latent_dim: 16 -> 24"),
    ):
        with pytest.raises(error, match=named):
            pretrained_encoder(config)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", '{"vision_config": {"hidden_act": "gelu"}}', "gelu"),
        ("config.json", '{"hidden_act": "gelu"}', "gelu"),
        ("open_clip_config.json", '{"model_cfg": {"embed_dim": 512}}', "gelu"),
        ("open_clip_config.json", '{"model_cfg": {"quick_gelu": true}}', "quick_gelu"),
        ("config.json", '{"vision_config": 3}', None),
        ("config.json", "[" * 100_000, None),
        ("config.json", "[1]", None),
    ],
)
def test_the_publishers_description_settles_the_activation(tmp_path, name, text, said):
    path = published(tmp_path / "model.safetensors", clip_reference.weights())
    (tmp_path / name).write_text(text)
    for activation in clip.ACTIVATIONS:
        config = clip_config(path, model__frozen__activation=activation)
        if said in (None, activation):
            assert pretrained_encoder(config).batch_stats == {}
        else:
            with pytest.raises(ConfigError, match=f"frozen.activation='{activation}', but .* says '{said}'"):
                pretrained_encoder(config)


def test_settings_that_it_cannot_take(tmp_path):
    for overrides, named in (
        ({"model__aggregation__name": "transformer"}, "config.model.aggregation.name='transformer'"),
        ({"model__bottleneck": False, "model__modulation__kind": "cross_attention"}, "config.model.bottleneck=False"),
        ({"model__pose__grid": "xy"}, "config.model.pose.grid='xy'"),
        ({"model__frozen__activation": "relu"}, "config.model.frozen.activation='relu'"),
        ({"model__family": "soda", "model__encoder__name": "clip_vit_b32"}, "use config.model.family='frozen'"),
    ):
        with pytest.raises(ConfigError, match=named):
            train(tiny.get_config(**({"model__family": "frozen"} | overrides)), str(tmp_path / "run"))
