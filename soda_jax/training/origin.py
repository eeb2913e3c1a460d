"""What a new run starts from with --init_from: the averaged weights of a trained model, to train them on.

They are read once. Optimiser, step and order of the data are a new run's; from its first checkpoint on nothing opens
the origin again. (`frozen.py` is of a run that takes an encoder alone, and keeps it as it is.)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax.config import ConfigError
from soda_jax.data.datasets import Labels
from soda_jax.given import given_model
from soda_jax.inference.classification import Head
from soda_jax.objectives.objective import MAIN, by_role
from soda_jax.objectives.probe import OnlineProbe
from soda_jax.objectives.state import ProbeState, TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.parallel.processes import decided_by_first
from soda_jax.sharing import places
from soda_jax.workdir.checkpoint import latest_step
from soda_jax.workdir.meta import DamagedCheckpointError

FLAG = "--init_from"


@dataclasses.dataclass(frozen=True)
class Origin:
    """A trained model on the host.

    Attributes:
      place: as the user names it.
      step: of its checkpoint.
      weights_digest: of its weights.
      variables: `params` and `batch_stats`, the averages.
      probe: its online probe; None without one, or where the new run's labels are others.
    """

    place: str
    step: int
    weights_digest: str
    variables: dict[str, Any]
    probe: Head | None

    @property
    def record(self) -> dict[str, Any]:
        """What the run keeps of where it came from: JSON data."""
        return {"place": places.shown(self.place), "step": self.step, "weights_digest": self.weights_digest}


def find_origin(config: ConfigDict, workdir: str, init_from: str) -> Origin | None:
    """The model that `init_from` names; None where nothing is named, or the run has a checkpoint to go on from.

    Of a run's folder it is the best checkpoint where one was watched for (`config.train.monitor`), else the newest. Of
    several processes all must call this.

    Raises:
      ConfigError: it is another model than `config` describes.
      FileNotFoundError, ValueError, OSError: there is no such model, it is damaged, or cannot be fetched.
    """
    if not init_from:
        return None
    reached = decided_by_first(lambda: latest_step(workdir))
    if reached is not None:
        print(f"{FLAG}={init_from} is left out: {workdir} has a checkpoint of step {reached}, and goes on from there")
        return None
    model = given_model(init_from, config, FLAG, best_first=True)
    try:
        probe = model.head
    except DamagedCheckpointError as error:
        print(f"{FLAG}={init_from}: without its online probe ({error})")
        probe = None
    except ValueError:  # it was trained without one
        probe = None
    host = jax.tree.map(np.asarray, jax.device_get(model.variables))
    return Origin(init_from, model.step, model.weights_digest, host, probe)


def started(
    state: TrainState, origin: Origin, train_step: TrainStep, labels: Mapping[str, Labels], mesh: Mesh
) -> TrainState:
    """A new run's state with the origin's weights, as what is trained and as their average, and with its probe where
    this was taught the same labels; optimiser and step stay new.

    Args:
      labels: of the run's dataset.

    Raises:
      ConfigError: the origin's arrays are not those of the state, as of an encoder for images of another size.
    """
    params, stats = origin.variables["params"], origin.variables["batch_stats"]
    for made, given in ((state.ema_params, params), (state.ema_batch_stats, stats)):
        if wrong := _differing(made, given):
            raise ConfigError(
                f"{FLAG}={origin.place}: {len(wrong)} arrays are not of the model that this config describes (there -> "
                f"here: {wrong[0]})"
            )
    print(f"starting from {origin.place} at step {origin.step}: its averaged weights, with a new optimiser")
    if state.adversary is not None:
        print("the adversary starts anew: a model's averages do not have it")
    return state.replace(
        params=_put(by_role(params, train_step.objective.roles)[MAIN], state.params, mesh),
        batch_stats=_put(stats, state.batch_stats, mesh),
        ema_params=_put(params, state.ema_params, mesh),
        ema_batch_stats=_put(stats, state.ema_batch_stats, mesh),
        probe=_with_probe(state.probe, origin.probe, train_step.probe, labels, mesh),
    )


def _with_probe(
    state: ProbeState | None,
    found: Head | None,
    probe: OnlineProbe | None,
    labels: Mapping[str, Labels],
    mesh: Mesh,
) -> ProbeState | None:
    """The probes' state with that of the latent taken over, if it tells the same labels."""
    if state is None or probe is None:
        return state
    if found is None:
        print("the online probe starts anew: there is none beside these weights")
        return state
    task = probe.task
    classes = labels[task.kind].classes if task.kind in labels else ()
    named = classes != found.classes and bool(classes) and bool(found.classes)  # earlier releases kept no names
    if (found.kind, found.sizes, found.names) != (task.kind, task.sizes, task.names) or named:
        print(
            f"the online probe starts anew: these weights were taught {_told(found.names, found.sizes)}, and this "
            f"dataset has {_told(task.names, task.sizes)}" + (", of other names" if named else "")
        )
        return state
    ours = {"params": state.params["latent"], "batch_stats": state.batch_stats["latent"]}
    if wrong := _differing(ours, found.variables):
        print(f"the online probe starts anew: it reads other features here (there -> here: {wrong[0]})")
        return state
    put = _put(found.variables, ours, mesh)
    return state.replace(
        params=state.params | {"latent": put["params"]}, batch_stats=state.batch_stats | {"latent": put["batch_stats"]}
    )


def _told(names: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    shown = ", ".join(f"{name} of {size} classes" for name, size in list(zip(names, sizes, strict=True))[:3])
    return shown + (", ..." if len(names) > 3 else "")


def _differing(made: Any, given: Any) -> list[str]:
    """Arrays of one tree that the other lacks, or has in another shape."""
    here, there = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (made, given)
    )
    names = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    return [f"{name} {there.get(name, 'missing')} -> {here.get(name, 'missing')}" for name in names]


def _put(given: Any, made: Any, mesh: Mesh) -> Any:
    """The given arrays in the place of those that were made; copies, since a step gives its own arrays away."""
    host = jax.tree.map(lambda here, there: np.array(there, here.dtype), made, given)
    return sharding.put_state(host, mesh)
