"""What a run does when its data, its time or one of its processes ends: it saves, and says how to go on."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

from soda_jax.data.read_ahead import ReadAhead
from soda_jax.objectives.state import TrainState
from soda_jax.parallel import distributed
from soda_jax.training.health import NonFiniteLossError
from soda_jax.training.saving import Saver
from soda_jax.training.stopping import StopSignals
from soda_jax.workdir.checkpoint import CheckpointWriteError

STEPS_AHEAD = 2  # that the host may queue: each holds its batch on the device


def batches_ahead() -> int:
    """How many batches a process reads before it needs them.

    One of several processes whose data fail takes part in the steps that the others have begun (`STEPS_AHEAD`), with
    batches that it has already, and some to spare. One process alone has nobody to go on with.
    """
    return STEPS_AHEAD + 4 if distributed.is_several() else 0


class Recovery:
    """Ends a run in good order.

    Args:
      workdir: the run's folder.
      num_steps: that the run was asked for.
      save: saves the state after so many steps, once its metrics are written.
      saver: what `save` saves with.
      say: prints a line without breaking the progress bar.
      is_main: whether this is the first process.
    """

    def __init__(
        self,
        workdir: str,
        num_steps: int,
        stop: StopSignals,
        save: Callable[[int, TrainState], None],
        saver: Saver,
        say: Callable[[str], None],
        is_main: bool,
    ):
        self._workdir, self._num_steps, self._stop = workdir, num_steps, stop
        self._save, self._saver, self._say, self._is_main = save, saver, say, is_main
        self._data_error: Exception | None = None  # of this process, where it is one of several

    def next_batch(self, batches: ReadAhead, step: int, state: TrainState) -> dict[str, Any]:
        """The next batch. Data that cannot be read any more end the run, and the steps that were taken are saved.

        One process saves at once. Of several the others may have got their batches, so that this one takes part in
        further steps, with those that it has read ahead, until all stop together.
        """
        try:
            batch = next(batches)
        except Exception:
            if jax.process_count() == 1:
                self.save_for_lost_data(step, state)
            raise
        if batches.error is not None and self._data_error is None:
            self._data_error = batches.error
            self._stop.request_all()
        return batch

    def save_for_lost_data(self, step: int, state: TrainState) -> None:
        """Saves, if that is needed and possible; the error that follows is of the data."""
        if step == self._saver.saved:
            return
        try:
            self._save(step, state)
            self._saver.verify()
            self._say(f"the data failed; step {step} is saved")
        except (NonFiniteLossError, OSError) as error:
            logging.warning("the data failed, and step %d could not be saved: %s", step, error)

    def end_early(self, step: int, state: TrainState, signal: str) -> None:
        """Saves, unless that has happened at this very step, and says how to go on.

        Raises:
          SharedError: the reason is that a process could not read its data.
        """
        try:
            if step != self._saver.saved:
                self._save(step, state)
            self._saver.verify()
        except OSError as error:
            if self._data_error is not None:  # what fails first is what is to be mended first
                raise self._data_error from error
            raise
        distributed.share(self._data_error, f"step {step} is saved in {self._workdir}")
        if not self._is_main:
            return
        saved = f"after step {step} of {self._num_steps}, which is saved in {self._workdir}; "
        where = saved + "the same command goes on from there" if step else "before the first step"
        print(f"{signal}: stopped {where}", flush=True)


@contextlib.contextmanager
def leaving_lost_peers(workdir: str) -> Iterator[None]:
    """Ends this process with a message, where what runs in it fails because another process of the run is gone."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, CheckpointWriteError) as error:  # the processes write checkpoints together
        if distributed.is_several() and distributed.lost_peer(error):
            distributed.leave(error, workdir)  # closing the checkpointer would wait for the process that is gone
        raise
