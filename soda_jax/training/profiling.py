"""A trace of some steps of a run, and the names of its regions."""

import pathlib
from typing import Any

import jax

WARM_UP = 5  # steps before the trace: the first one compiles, the next ones fill the queues
FOLDER = "profile"

# A part of the loop in the host's rows of a trace: with region("input"): ...
region = jax.profiler.TraceAnnotation


class StepTrace:
    """Traces `steps` steps of a run into WORKDIR/profile, for XProf, TensorBoard or ui.perfetto.dev.

    The host's rows show each step and within it "input", "dispatch", "wait", "log", "evaluate" and "save"; the
    device's operations carry the modules' names and the scopes of `train_step` ("optimizer", "ema", "probe", ...).

    Args:
      workdir: the run's folder.
      start: the run's first step; the trace begins `WARM_UP` steps later.
      steps: to trace; 0 traces nothing.
      active: False (processes other than the first) traces nothing.
    """

    def __init__(self, workdir: str, start: int, steps: int, active: bool = True):
        self._path = pathlib.Path(workdir) / FOLDER
        self._first = start + WARM_UP
        self._end = self._first + steps if active else self._first
        self._running = False

    def before_step(self, step: int, queued: Any) -> None:
        """Starts the trace or ends it; `queued` are arrays of the steps that the device may still compute."""
        if step == self._first < self._end:
            jax.block_until_ready(queued)
            jax.profiler.start_trace(self._path, create_perfetto_trace=True)
            self._running = True
        elif step == self._end and self._running:
            jax.block_until_ready(queued)
            self.close()

    def step(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """The region of one step."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def close(self) -> None:
        """Ends the trace if it is running; a run that ends earlier keeps what was traced."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            print(f"trace in {self._path}: open its perfetto_trace.json.gz at https://ui.perfetto.dev")
