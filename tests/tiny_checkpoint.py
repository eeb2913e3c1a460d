"""Checkpoints of random weights, for tests of what reads them: nothing is trained and nothing compiled."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.data.datasets import Labels
from soda_jax.inference.engine import Inference
from soda_jax.objectives.state import ProbeState, TrainState
from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer
from soda_jax.workdir.meta import labels_meta


def random_variables(config: ConfigDict, seed: int = 0) -> dict[str, Any]:
    """Weights of `config`'s model on the host: none is zero, scales and variances are near 1."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key in ("scale", "var"):
            return np.abs(1.0 + 0.1 * values)
        if len(leaf.shape) < 2:
            return 0.1 * values
        return values / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))

    return jax.tree_util.tree_map_with_path(draw, Inference(config).abstract_variables())


def random_probe(width: int, classes: int, seed: int = 0) -> dict[str, Any]:
    """`params` and `batch_stats` of an online probe that reads `width` numbers, on the host."""
    rng = np.random.default_rng(seed)
    kernel, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((width, classes), (classes,)))
    mean, var = rng.standard_normal((2, width)).astype(np.float32)
    return {
        "params": {"head": {"kernel": kernel, "bias": bias}},
        "batch_stats": {"norm": {"mean": 0.1 * mean, "var": 1.0 + 0.1 * np.abs(var)}},
    }


def write(workdir: pathlib.Path, config: ConfigDict, *steps: int, labels: Mapping[str, Labels] | None = None) -> None:
    """Writes a checkpoint for each of `steps`, with the weights of `random_variables(config, seed=step)`.

    Args:
      labels: that the dataset has; with any, the probe of `random_probe(..., seed=step)`.
    """
    task = build.probe_task(config, labels) if labels else None
    with Checkpointer(str(workdir), keep_every=1) as checkpointer:
        for step in steps:
            variables, other = random_variables(config, seed=step), {"w": np.zeros(1, np.float32)}
            probe = None
            if task is not None:
                found = random_probe(config.model.latent_dim, sum(task.sizes), seed=step)
                probe = ProbeState({"latent": found["params"]}, {"latent": found["batch_stats"]}, other)
            state = TrainState(
                step=np.int32(step),
                params=other,
                batch_stats=other,
                opt_state=other,
                ema_params=variables["params"],
                ema_batch_stats=variables["batch_stats"],
                probe=probe,
            )
            meta = {"config": config.to_dict(), "data_position": step} | labels_meta(labels or {})
            checkpointer.save(sharding.put_replicated(state, sharding.make_mesh()), meta)
