"""Metrics of the steps: kept on the device as they come, fetched and written together."""

from typing import Any

import jax
import numpy as np
import optax

from soda_jax.objectives.norms import module_names
from soda_jax.training import health
from soda_jax.training.saving import LastGood
from soda_jax.training.step_timer import StepTimer
from soda_jax.workdir.writers import MetricWriter


class StepLog:
    """What the steps since the last writing measured.

    Args:
      writer: of metrics.jsonl.
      schedule: the learning rate by step.
      batch_size: images of a step.
      last_good: tells, for the message of a run that diverged, what is saved.

    Attributes:
      pending: metrics of the steps since the last writing, still on the device.
      timer: of the steps; what is no training pauses it.
    """

    def __init__(self, writer: MetricWriter, schedule: optax.Schedule, batch_size: int, last_good: LastGood):
        self._writer, self._schedule, self._batch_size, self._last_good = writer, schedule, batch_size, last_good
        self._encoder_watch = health.EncoderWatch()
        self.pending: list[dict[str, jax.Array]] = []
        self.timer = StepTimer()

    def write(self, step: int, params: Any) -> dict[str, str]:
        """Fetches and writes the means of the pending metrics; returns the few that a progress bar shows.

        Raises:
          NonFiniteLossError: a step's loss or gradient is not a number.
        """
        if not self.pending:
            return {}
        count = len(self.pending)
        rows = jax.device_get(self.pending)
        seconds = self.timer.interval(count)
        self.pending.clear()
        health.check_steps(step - count, rows, module_names(params), self._last_good)
        self._encoder_watch.update([row["grad_norm/encoder"] for row in rows if "grad_norm/encoder" in row])
        scalars = {key: np.mean([row[key] for row in rows]) for key in rows[0] if key != "grad_norms"}
        scalars["learning_rate"] = float(self._schedule(step - 1))
        if seconds is not None:
            scalars["images_per_second"] = self._batch_size / seconds
        self._writer.scalars(step, scalars)
        shown = {
            "loss": f"{scalars['loss']:.4f}",
            "img/s": f"{scalars.get('images_per_second', float('nan')):.0f}",
        }
        if "probe/accuracy" in scalars:
            shown["probe"] = f"{scalars['probe/accuracy']:.3f}"
        return shown
