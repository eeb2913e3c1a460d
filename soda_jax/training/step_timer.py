"""The time that a training step takes."""

import time
from typing import Any

import jax


class StepTimer:
    """Seconds a step, without the first (which compiles) and without evaluation and saving."""

    def __init__(self) -> None:
        self._mark: float | None = None
        self._skip = 0

    def first_step_done(self, metrics: Any) -> None:
        jax.block_until_ready(metrics)
        self._mark, self._skip = time.perf_counter(), 1

    def interval(self, steps: int) -> float | None:
        """Mean seconds of the last `steps` steps; None if only the compiling one is among them."""
        now = time.perf_counter()
        timed, elapsed = steps - self._skip, now - self._mark
        self._mark, self._skip = now, 0
        return elapsed / timed if timed > 0 else None

    def paused(self) -> "_Pause":
        return _Pause(self)

    def shift(self, seconds: float) -> None:
        if self._mark is not None:
            self._mark += seconds


class _Pause:
    def __init__(self, timer: StepTimer):
        self._timer = timer

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        self._timer.shift(time.perf_counter() - self._begin)
