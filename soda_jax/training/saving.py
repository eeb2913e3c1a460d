"""Checkpoints of a run as it goes: none of a state that is not finite; the best one is kept, and the record beside."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from soda_jax.objectives.state import TrainState
from soda_jax.training import health
from soda_jax.training.monitor import Monitor
from soda_jax.workdir import best
from soda_jax.workdir.checkpoint import Checkpointer, latest_step
from soda_jax.workdir.run_record import RunRecord

LastGood = Callable[[], str]


def last_good(workdir: str, checkpointer: Checkpointer) -> LastGood:
    """A function that says which checkpoint is the last good one, for messages."""

    def tell() -> str:
        checkpointer.wait()  # the newest may still be on its way to the disk
        good = latest_step(workdir)
        return "no checkpoint was written yet" if good is None else f"the last good checkpoint is step {good}"

    return tell


class Saver:
    """Starts asynchronous saves.

    Args:
      workdir: the run's folder.
      checkpointer: of the run.
      record: run.json, which says how far the run has come.
      meta: what is saved with every state: the config and the sizes of the labels.
      start: the step that the run starts or resumes from, which is saved already.
      monitor: whose best step's checkpoint is kept, and named in best.json as soon as it is on disk.

    Attributes:
      saved: the step of the last save.
    """

    def __init__(
        self,
        workdir: str,
        checkpointer: Checkpointer,
        record: RunRecord,
        meta: dict[str, Any],
        start: int,
        last_good: LastGood,
        monitor: Monitor,
    ):
        self._workdir, self._monitor = workdir, monitor
        self._checkpointer, self._record, self._meta, self._last_good = checkpointer, record, meta, last_good
        self._params_finite = jax.jit(lambda params: jnp.isfinite(optax.tree.norm(params)))
        self.saved = start
        checkpointer.keep(monitor.best_step)
        self.note_best()

    def save(self, step: int, state: TrainState, *, evaluation_due: bool) -> None:
        """Starts to save the state after `step` steps.

        Args:
          evaluation_due: the evaluation at this step was broken off, and comes first when the run goes on.

        Raises:
          NonFiniteLossError: the last update made the parameters overflow.
        """
        adversary = None if state.adversary is None else state.adversary.params
        if not self._params_finite((state.params, adversary)):
            raise health.NonFiniteLossError(
                f"the update of step {step} made the parameters overflow; nothing of it is saved, "
                f"{self._last_good()}. {health.NON_FINITE_REMEDY}"
            )
        found = self._monitor
        note = functools.partial(best.write, self._workdir, step, found.metric, found.best)
        self._checkpointer.keep(found.best_step)
        position = {"data_position": step, "evaluation_due": evaluation_due, "monitor": found.state()}
        self._checkpointer.save(state, self._meta | position, note if found.best_step == step else None)
        self.saved = step
        self._record.update(step)

    def verify(self) -> None:
        """Returns when every started save is on disk, and the last one has been read back.

        Raises:
          CheckpointWriteError: it is not what was written.
        """
        self._checkpointer.verify()

    def finish(self, step: int, reason: str) -> None:
        """Notes that the run is done, and why, after `verify`: who reads that will look for the last checkpoint."""
        self.verify()
        self._record.finish(step, reason)

    def note_best(self) -> None:
        """Writes best.json now, for a best step that is on disk; `save` does so for the one that it saves."""
        if jax.process_index() != 0:
            return
        if self._monitor.best_step is None:
            best.clear(self._workdir)
        else:
            best.write(self._workdir, self._monitor.best_step, self._monitor.metric, self._monitor.best)
