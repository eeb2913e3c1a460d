"""Configs, training steps and batches small enough to compile in seconds, shared by the tests of training."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.configs import common
from soda_jax.data import cameras
from soda_jax.data.datasets import Labels
from soda_jax.models import resnet
from soda_jax.objectives.objective import merged
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding

# An encoder of one residual unit: compile time follows depth.
resnet.STAGE_SIZES.setdefault(6, (1,))

LABELS = {
    "label": Labels(sizes=(10,), names=("label",)),
    "attributes": Labels(sizes=(2, 2, 2), names=("hat", "beard", "smile")),
    "factors": Labels(sizes=(4, 3), names=("hue", "shape")),
}


def get_config(**overrides: Any) -> ConfigDict:
    """A config of an 8-pixel model with every random part on; `overrides` write `__` for the dot in a field's name."""
    settings = {
        "train.num_steps": 10,
        "train.batch_size": 16,
        "train.log_every": 5,
        "train.eval_every": 10,
        "train.checkpoint_every": 5,
        "train.keep_every": 1000,
        "optim.warmup_steps": 0,
        "optim.learning_rate": 1e-3,
        "model.latent_dim": 16,
        "model.encoder.name": "resnet6",
        "model.encoder.base_features": 8,
        "model.encoder.small_stem": True,
        "model.encoder.norm": "batch",
        "model.encoder.drop_path": 0.3,
        "model.denoiser.channels": 8,
        "model.denoiser.multipliers": (1,),
        "model.denoiser.num_res_blocks": 1,
        "model.denoiser.attention_resolutions": (),
        "model.denoiser.head_dim": 8,
        "model.denoiser.time_dim": 8,
        "model.denoiser.norm_groups": 4,
        "diffusion.num_timesteps": 100,
        "data.resolution": 8,
        "data.source_resolution": 8,
        "data.name": "synthetic",
        "data.eval_split": "test",
        "eval.batch_size": 16,
        "eval.num_examples": 16,
        "sampling.num_steps": 2,
        "sampling.num_images": 2,
        "sampling.batch_size": 8,
    }
    settings |= {name.replace("__", "."): value for name, value in overrides.items()}
    config = common.get_config()
    config.update_from_flattened_dict(settings)
    return config.lock()


def scenes_config(root: str, **overrides: Any) -> ConfigDict:
    """`get_config` on the `scenes` data at its smallest size, with the geometry cached in `root`."""
    settings = {"data__name": "scenes", "data__root": root, "data__resolution": 32, "data__source_resolution": 32}
    plain = {"data__augment_source": False, "data__augment_target": False, "model__denoiser__multipliers": (1, 1)}
    return get_config(**(settings | plain | {"model__denoiser__dropout": 0.0} | overrides))


def batch(size: int = 16, seed: int = 0, views: int = 1) -> dict[str, np.ndarray]:
    """A training batch of random 8-pixel images with labels of every kind."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, size, views, 8, 8, 3), np.uint8)
    return {
        "source": images[0],
        "source_mask": np.ones((size, views), bool),
        "target": images[1, :, 0],
        "id": np.arange(size, dtype=np.int32),
        "label": rng.integers(0, 10, size).astype(np.int32),
        "attributes": rng.integers(0, 2, (size, 3)).astype(np.int32),
        "factors": np.stack([rng.integers(0, n, size) for n in (4, 3)], 1).astype(np.int32),
    }


def posed_config(**overrides: Any) -> ConfigDict:
    """`get_config` of a model that sees rays, narrowly encoded, of two sources and the target."""
    settings = {"model__pose__grid": "rays", "model__pose__encoding_dim": 24, "model__pose__scale": 0.1}
    data = {"data__view_policy": "camera", "data__num_sources": 2}
    plain = {"data__augment_source": False, "data__augment_target": False}
    return get_config(**(settings | data | plain | overrides))


def posed_batch(size: int = 16, seed: int = 0, views: int = 2) -> dict[str, np.ndarray]:
    """`batch` with cameras around the origin and with windows of crops, half of them mirrored."""
    rng = np.random.default_rng(seed + 100)
    shape = (size, views + 1)
    angles = rng.uniform(-np.pi, np.pi, shape), rng.uniform(0.1, 1.2, shape)
    poses = cameras.orbit(*angles, rng.uniform(2.5, 3.5, shape)).astype(np.float32)
    intrinsics = (np.array([9.0, 10.0, 4.2, 3.9]) + rng.uniform(-0.5, 0.5, (*shape, 4))).astype(np.float32)
    corners = rng.uniform((-1, -1, 0, 0), (0, 0, 1, 1), (*shape, 4)).astype(np.float32)
    mirrored = rng.integers(0, 2, shape).astype(bool)[..., None]
    windows = np.where(mirrored, corners[..., [2, 1, 0, 3]], corners)
    keys = {"pose": poses, "intrinsics": intrinsics, "window": windows}
    sources = {f"source_{name}": value[:, :views] for name, value in keys.items()}
    labels = {f"target_{name}": value[:, views] for name, value in keys.items()}
    return batch(size, seed, views) | sources | labels


def train_step(config: ConfigDict, **changes: Any) -> TrainStep:
    return dataclasses.replace(build.train_step(config, LABELS), **changes)


def initial(train_step: TrainStep) -> TrainState:
    """A state on the host, every parameter moved off its start: there the output layer's zeros stop all gradients."""
    state = jax.device_get(jax.jit(train_step.init)(posed_batch(2)))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(np.float32), state.params)
    return dataclasses.replace(state, params=params, ema_params=merged(params, train_step.frozen(state)))


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose first result serves every call: for runs of one config, since tracing it takes long."""
    found: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not found:
            found.append(function(*args, **kwargs))
        return found[0]

    return call


def stepper(train_step: TrainStep, num_devices: int = 1):
    """(step, mesh): the compiled step and the devices that it runs on."""
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    train_step = dataclasses.replace(train_step, devices=mesh)
    return jax.jit(train_step.step, donate_argnums=0, out_shardings=sharding.replicated(mesh)), mesh


def run(step, mesh, state: TrainState, batches) -> tuple[TrainState, list[dict[str, np.ndarray]]]:
    """The state after `batches` and each step's metrics, all on the host."""
    state, rows = sharding.put_replicated(state, mesh), []
    for one in batches:
        state, metrics = step(state, sharding.put_batch(one, mesh))
        rows.append(jax.device_get(metrics))
    return jax.device_get(state), rows


class EitherState(NamedTuple):
    use_adam: jax.Array
    adam: Any
    grads: Any


def either_optimizer(learning_rate: float) -> optax.GradientTransformation:
    """AdamW or plain SGD, chosen by a flag in the state so that one compilation serves both; keeps the gradients.

    Adam divides a gradient's scale away, so a wrong scale shows only with SGD.
    """
    adam, sgd = optax.adamw(learning_rate), optax.sgd(learning_rate)

    def init(params: Any) -> EitherState:
        return EitherState(jnp.zeros((), bool), adam.init(params), jax.tree.map(jnp.zeros_like, params))

    def update(grads: Any, state: EitherState, params: Any) -> tuple[Any, EitherState]:
        by_adam, adam_state = adam.update(grads, state.adam, params)
        by_sgd, _ = sgd.update(grads, sgd.init(params), params)
        updates = jax.tree.map(lambda a, s: jnp.where(state.use_adam, a, s), by_adam, by_sgd)
        return updates, EitherState(state.use_adam, adam_state, grads)

    return optax.GradientTransformation(init, update)


def assert_close(left: Any, right: Any, atol: float, rtol: float = 0.0) -> None:
    """Two trees have the same structure and, leaf by leaf, close values; the message names the leaf."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True)
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in pairs:
        np.testing.assert_allclose(a, b, atol=atol, rtol=rtol, err_msg=jax.tree_util.keystr(path))


def assert_equal(left: Any, right: Any) -> None:
    """Two trees are the same bit by bit."""
    assert_close(left, right, atol=0.0)
