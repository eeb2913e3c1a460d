"""What a run starts from: its last checkpoint, the weights of another model, or new ones."""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import config as config_lib
from soda_jax.data.datasets import Labels
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.training.frozen import installed, pretrained_encoder
from soda_jax.training.origin import Origin, started
from soda_jax.workdir.checkpoint import Checkpointer
from soda_jax.workdir.meta import check_same_labels, check_same_model


def initial_state(
    config: ConfigDict,
    workdir: str,
    train_step: TrainStep,
    batch: dict[str, np.ndarray],
    checkpointer: Checkpointer,
    mesh: Mesh,
    origin: Origin | None = None,
    labels: Mapping[str, Labels] = MappingProxyType({}),
) -> tuple[TrainState, int]:
    """(state, data position): the last checkpoint's, or a new run's.

    Args:
      origin: the weights that a new run starts from, its frozen encoder's too; new ones by default.
      labels: of the run's dataset, which the origin's probe is compared with.

    Raises:
      ValueError: the checkpoint is of another model or other labels, or beyond `config.train.num_steps`; or a new run
        is to freeze an encoder that is missing or another one.
    """
    example = {key: value[:1] for key, value in batch.items()}
    step, meta = checkpointer.step, checkpointer.meta
    if step is None:
        abstract, placement = jax.eval_shape(train_step.init, example), sharding.replicated(mesh)
        found = pretrained_encoder(config) if origin is None and train_step.frozen(abstract) else None
        if train_step.state_mesh is not None:
            placement = sharding.state_sharding(abstract, mesh)
        state = sharding.run_once(train_step.init, placement, example)
        if found is not None:
            print(f"the encoder is that of {found.origin}, and stays so")
            state = installed(state, found, mesh)
        return (state if origin is None else started(state, origin, train_step, labels, mesh)), 0
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
