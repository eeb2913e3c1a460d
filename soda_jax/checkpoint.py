"""Checkpoints: the training state, the data position and the config, written asynchronously and atomically.

Layout: WORKDIR/checkpoints/STEP/{ema,train,meta}. `ema` alone is what users of a trained model read; `meta` is JSON.
This is the only module that knows orbax.
"""

import json
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from soda_jax import config as config_lib
from soda_jax.train_state import TrainState
from soda_jax.version import __version__

FORMAT_VERSION = 1
EMA_FIELDS = ("ema_params", "ema_batch_stats")


def directory(workdir: str) -> pathlib.Path:
    return (pathlib.Path(workdir) / "checkpoints").resolve()


def latest_step(workdir: str) -> int | None:
    """The newest whole checkpoint's step; None where there is none."""
    path = directory(workdir)
    steps = [int(child.name) for child in path.glob("*") if child.name.isdigit() and (child / "meta").is_dir()]
    return max(steps, default=None)


def _set_aside_incomplete(workdir: str) -> None:
    """Renames step folders that are not whole: orbax would take an empty one for the latest and skip saves below it."""
    for child in directory(workdir).glob("*"):
        if child.name.isdigit() and not (child / "meta").is_dir():
            os.replace(child, child.with_name(f"{child.name}.incomplete"))


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    ema = {name: fields.pop(name) for name in EMA_FIELDS}
    return ema, fields


class Checkpointer:
    """Writes and restores the checkpoints of a run. Use as a context manager: leaving waits for pending writes.

    Args:
      workdir: the run's folder.
      keep_every: checkpoints at multiples of it are kept for good; of the others only the last.
    """

    def __init__(self, workdir: str, keep_every: int):
        if jax.process_index() == 0:
            _set_aside_incomplete(workdir)
        self._manager = ocp.CheckpointManager(
            directory(workdir),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(1), EveryNSteps(keep_every)]),
                cleanup_tmp_directories=True,
            ),
            item_names=("ema", "train", "meta"),
        )

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._manager.close()

    def wait(self) -> None:
        """Returns when every started save is on disk."""
        self._manager.wait_until_finished()

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts writing `state`; `meta` is JSON data (config, targets, data position)."""
        ema, train = _split(state)
        meta = {
            "format_version": FORMAT_VERSION,
            "soda_jax": __version__,
            "jax": jax.__version__,
        } | meta
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                ema=ocp.args.StandardSave(ema),
                train=ocp.args.StandardSave(train),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def restore(self, abstract_state: TrainState, step: int) -> TrainState:
        """The state of `step`, laid out as the shapes and shardings of `abstract_state` say."""
        ema, train = _split(abstract_state)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(ema=ocp.args.StandardRestore(ema), train=ocp.args.StandardRestore(train)),
        )
        return TrainState(**restored["ema"], **restored["train"])


def read_meta(workdir: str, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, meta) of a checkpoint, the newest by default; FileNotFoundError where there is none."""
    found = latest_step(workdir) if step is None else step
    path = directory(workdir) / str(found) / "meta" / "metadata"
    if found is None or not path.is_file():
        which = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise FileNotFoundError(
            f"{workdir} holds no {which.removeprefix('a ')}: train first with "
            f"python -m soda_jax.main --config=... --workdir={workdir}"
        )
    meta = json.loads(path.read_text())
    if meta["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path.parent.parent} has format {meta['format_version']}, this release reads up to {FORMAT_VERSION}: "
            f"install soda_jax {meta['soda_jax']} or newer"
        )
    return found, meta


def load_ema(workdir: str, step: int, abstract_variables: dict[str, Any]) -> dict[str, Any]:
    """The averaged `params` and `batch_stats` of a checkpoint, shaped and placed as `abstract_variables`."""
    target = {f"ema_{name}": value for name, value in abstract_variables.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(directory(workdir) / str(step) / "ema", target)
    return {name.removeprefix("ema_"): value for name, value in restored.items()}


def check_same_model(
    workdir: str,
    meta: dict[str, Any],
    config: ConfigDict,
    fields: tuple[str, ...] = config_lib.MODEL_FIELDS,
) -> None:
    """Raises ValueError if the checkpoint's model is not the one that `config` describes, naming the fields."""
    found = config_lib.differences(config_lib.from_dict(meta["config"]), config, fields)
    if found:
        raise ValueError(
            f"{workdir} holds a checkpoint of another model; differing fields (checkpoint -> now):\n  "
            + "\n  ".join(found)
            + "\nUse its values, or another --workdir."
        )
