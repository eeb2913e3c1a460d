"""Checkpoints of random weights, for tests of what reads them: nothing is trained and nothing compiled."""

import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from soda_jax.inference.engine import Inference
from soda_jax.objectives.state import TrainState
from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer


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


def write(workdir: pathlib.Path, config: ConfigDict, *steps: int) -> None:
    """Writes a checkpoint for each of `steps`, with the weights of `random_variables(config, seed=step)`."""
    with Checkpointer(str(workdir), keep_every=1) as checkpointer:
        for step in steps:
            variables, other = random_variables(config, seed=step), {"w": np.zeros(1, np.float32)}
            state = TrainState(
                step=np.int32(step),
                params=other,
                batch_stats=other,
                opt_state=other,
                ema_params=variables["params"],
                ema_batch_stats=variables["batch_stats"],
                probe=None,
            )
            meta = {"config": config.to_dict(), "targets": {}, "data_position": step}
            checkpointer.save(sharding.put_replicated(state, sharding.make_mesh()), meta)
