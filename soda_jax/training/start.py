"""What a run starts from: its last checkpoint, or new weights."""

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import config as config_lib
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer
from soda_jax.workdir.meta import check_same_labels, check_same_model


def initial_state(
    config: ConfigDict,
    workdir: str,
    train_step: TrainStep,
    batch: dict[str, np.ndarray],
    checkpointer: Checkpointer,
    mesh: Mesh,
) -> tuple[TrainState, int]:
    """(state, data position): the last checkpoint's, or a new run's.

    Raises:
      ValueError: the checkpoint is of another model or other labels, or beyond `config.train.num_steps`.
    """
    example = {key: value[:1] for key, value in batch.items()}
    step, meta = checkpointer.step, checkpointer.meta
    if step is None:
        placement = sharding.replicated(mesh)
        if train_step.mesh is not None:
            placement = sharding.state_sharding(jax.eval_shape(train_step.init, example), mesh)
        init = jax.jit(train_step.init, out_shardings=placement, compiler_options=sharding.run_once_options())
        return init(example), 0
    check_same_model(workdir, meta, config, config_lib.STATE_FIELDS)
    if train_step.probe is not None:
        check_same_labels(workdir, meta, train_step.probe.task.kind, train_step.probe.task.sizes)
    if step > config.train.num_steps:
        raise ValueError(
            f"config.train.num_steps={config.train.num_steps}: {workdir} is already at step {step}; ask for more "
            "steps, or use another --workdir"
        )
    abstract = sharding.abstract_state(jax.eval_shape(train_step.init, example), mesh)
    print(f"resuming from step {step} of {workdir}")
    return checkpointer.restore(abstract, step), meta["data_position"]
