"""Training with cameras: which poses are hidden, what a batch must hold, microbatches and random sources."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from soda_jax import build, rngs
from soda_jax.diffusion import Diffusion
from soda_jax.models.pose import PoseEncoding
from soda_jax.objectives import state as train_state
from soda_jax.objectives.soda import SodaObjective
from soda_jax.objectives.step import TrainStep
from tests import tiny

COUNT, VIEWS, SECTIONS = 4000, 3, 2
ABSOLUTE = PoseEncoding(vector="absolute", encoding_dim=24)


class Recorder:
    """Stands for a model: keeps what each call is told of cameras and masks."""

    denoiser = types.SimpleNamespace(modulation="full")
    num_sections, pose = SECTIONS, ABSOLUTE

    def apply(self, variables, *arguments, method, mutable=None, rngs, **options):
        setattr(self, method, types.SimpleNamespace(arguments=arguments, **options))
        weight = variables["params"]["part"]["weight"]
        if method == "encode":
            z = jnp.ones((COUNT, SECTIONS)) * weight
            return (z, {"latent": z}), {}
        return jnp.zeros_like(arguments[0]) * weight, {}


def recorded(step=0, ids=None, **rates):
    """What one step of training on tiny images tells the model."""
    rng = np.random.default_rng(0)
    batch = {
        "source": np.zeros((COUNT, VIEWS, 1, 1, 3), np.uint8),
        "source_mask": rng.integers(0, 2, (COUNT, VIEWS)).astype(bool) | (np.arange(VIEWS) == VIEWS - 1),
        "target": np.zeros((COUNT, 1, 1, 3), np.uint8),
        "id": np.arange(COUNT) if ids is None else ids,
    }
    for view, shape in (("source", (COUNT, VIEWS)), ("target", (COUNT,))):
        batch[f"{view}_pose"] = np.zeros((*shape, 4, 4), np.float32)
        batch[f"{view}_intrinsics"] = np.ones((*shape, 4), np.float32)
    optimizer, params, model = optax.sgd(0.1), {"part": {"weight": jnp.ones(())}}, Recorder()
    diffusion = Diffusion.create("inverted", 10)
    train_step = TrainStep(SodaObjective(model, diffusion, **rates), optimizer, jax.random.key(0))
    state = train_state.TrainState(step, params, {}, optimizer.init(params), params, {}, None)
    train_step.step(state, batch)
    shown = {
        "latent": np.asarray(model.denoise.arguments[3])[:, 0],
        "target": np.asarray(model.denoise.pose_mask),
        **{f"source {i}": np.asarray(model.encode.source_pose_mask)[:, i] for i in range(VIEWS)},
    }
    return shown, model, batch


def test_latent_target_and_each_source_are_hidden_independently():
    shown, _, _ = recorded(latent_mask_rate=0.3, pose_mask_rate=0.2)
    hidden = {name: 1 - mask.astype(float) for name, mask in shown.items()}
    tolerance = 4 * np.sqrt(0.25 / COUNT)
    for name, values in hidden.items():
        assert abs(values.mean() - (0.3 if name == "latent" else 0.2)) < tolerance, name
    correlations = np.corrcoef(np.stack(list(hidden.values())))
    assert np.abs(correlations - np.eye(len(hidden))).max() < 4 / np.sqrt(COUNT)


@pytest.mark.parametrize(
    ("rates", "always_shown"),
    [
        ({"latent_mask_rate": 0.5, "pose_mask_rate": 0.0}, {"target", "source 0", "source 1", "source 2"}),
        ({"latent_mask_rate": 0.0, "pose_mask_rate": 0.5}, {"latent"}),
        ({"latent_mask_rate": 0.5, "pose_mask_rate": 0.5}, set()),
    ],
    ids=["latent", "pose", "latent and pose"],
)
def test_a_rate_of_zero_turns_a_mask_off(rates, always_shown):
    shown, _, _ = recorded(**rates)
    assert {name for name, mask in shown.items() if mask.all()} == always_shown


def test_masks_follow_the_example_and_the_step():
    rates = {"latent_mask_rate": 0.5, "pose_mask_rate": 0.5}
    order = np.random.default_rng(1).permutation(COUNT)
    first, moved, later = (recorded(**rates, **changes)[0] for changes in ({}, {"ids": order}, {"step": 1}))
    for name, mask in first.items():
        np.testing.assert_array_equal(moved[name], mask[order], err_msg=name)
        assert 0.4 < (later[name] != mask).mean() < 0.6, name


def test_a_hidden_source_is_hidden_from_the_denoiser_too():
    """An absolute vector tells the denoiser where the first present source stood, unless that is hidden."""
    shown, model, batch = recorded(pose_mask_rate=0.5)
    first = batch["source_mask"].argmax(1)
    of_sources = np.stack([shown[f"source {i}"] for i in range(VIEWS)], 1)
    np.testing.assert_array_equal(model.denoise.target_camera.reference_mask, of_sources[np.arange(COUNT), first])
    assert 0.4 < np.asarray(model.denoise.target_camera.reference_mask).mean() < 0.6


@pytest.mark.slow
def test_four_microbatches_equal_one_batch_with_cameras_and_random_sources():
    """Masks, dropout, noise and the choice of source are on; GroupNorm, as BatchNorm sees a microbatch by itself."""
    config = tiny.posed_config(
        model__encoder__norm="group",
        model__pose__vector="absolute",
        model__pose__relative=True,
        model__aggregation__name="stochastic",
        diffusion__pose_mask_rate=0.4,
        probe__kind="none",
    )
    train_step = tiny.train_step(config, optimizer=tiny.either_optimizer(0.02))
    start = tiny.initial(train_step)
    batches = []
    for seed in range(2):
        batch = tiny.posed_batch(seed=seed)
        batch["source_mask"][::3, seed] = False
        batches.append(batch)
    whole, rows = tiny.run(*tiny.stepper(train_step), start, batches)
    split, split_rows = tiny.run(*tiny.stepper(dataclasses.replace(train_step, microbatches=4), 2), start, batches)
    for key in rows[0]:
        np.testing.assert_allclose([r[key] for r in split_rows], [r[key] for r in rows], atol=1e-5, err_msg=key)
    tiny.assert_close(split.opt_state.grads, whole.opt_state.grads, atol=1e-5)
    tiny.assert_close(split.params, whole.params, atol=1e-6)
    norms = {key: value for key, value in rows[0].items() if key.startswith("grad_norm/")}
    assert set(norms) == {"grad_norm/encoder", "grad_norm/denoiser"} and min(norms.values()) > 1e-3


@pytest.mark.parametrize(
    ("config", "missing", "remedy"),
    [
        (tiny.posed_config(), "source_pose", "view_policy='camera' on a set with cameras"),
        (tiny.posed_config(), "target_intrinsics", "view_policy='camera' on a set with cameras"),
        (tiny.get_config(model__pose__grid="xy"), "target_window", "view_policy other than 'camera'"),
    ],
    ids=["source_pose", "target_intrinsics", "target_window"],
)
def test_a_batch_without_what_the_poses_need_is_refused_before_anything_compiles(config, missing, remedy):
    train_step = build.train_step(config, {})
    batch = tiny.posed_batch(2)
    del batch[missing]
    variables = jax.eval_shape(train_step.init, tiny.posed_batch(2)).ema_variables

    def loss(batch):
        draw = rngs.Draws(jax.random.key(0), 0, batch["id"])
        return jax.eval_shape(lambda v: train_step.objective.loss(v, batch, draw, train=True), variables)

    for function in (train_step.init, loss):
        with pytest.raises(ValueError, match=f"the batch has no {missing}, which this model's poses need.*{remedy}"):
            jax.eval_shape(function, batch)
