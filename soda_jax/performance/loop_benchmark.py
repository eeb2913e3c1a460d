"""What training costs beside its steps: the real loop on the real data, and the same steps on a batch that stays."""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import iterate, train_batches
from soda_jax.data.read_ahead import ReadAhead
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.performance.step_benchmark import initial_state
from soda_jax.performance.timing import Timing, in_turn, share
from soda_jax.training.loop import Loop
from soda_jax.training.profiling import StepTrace
from soda_jax.training.stopping import StopSignals
from soda_jax.workdir.checkpoint import Checkpointer
from soda_jax.workdir.writers import MetricWriter

_NEVER = 1 << 30
_SETTLE = 3  # steps of a run of the loop before its clock starts: the queue fills


class _EndOfRun(BaseException):
    """Ends the loop from within its data, without counting as their failure."""


class _Clocked:
    """The loop's batches: ends it after `count` of them, and notes when each was asked for and how long it took."""

    def __init__(self, batches: Iterator[Any], count: int):
        self._batches, self._count = batches, count
        self.asked: list[float] = []
        self.waited: list[float] = []

    def __next__(self) -> Any:
        self.asked.append(time.perf_counter())
        if len(self.asked) > self._count:
            raise _EndOfRun
        batch = next(self._batches)
        self.waited.append(time.perf_counter() - self.asked[-1])
        return batch


class _NotedStep:
    """A `TrainStep` whose compiled step is made once, and notes the state and the metrics that came out last."""

    def __init__(self, train_step: TrainStep, state: TrainState, mesh: Mesh):
        self._train_step, self._step = train_step, train_step.jit_step(state, mesh)
        self.state, self.metrics = state, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._train_step, name)

    def jit_step(self, state: TrainState, mesh: Mesh) -> Any:
        return self.step

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        self.state, self.metrics = self._step(state, batch)
        return self.state, self.metrics


class LoopBench:
    """The training loop of a config, in a folder that vanishes, started again and again for a number of steps.

    Args:
      config: the run's. Its steps, logging and checkpoints are as it says, its evaluations are left out.
      dataset: its training split.
      writer: of the folder's metrics.
    """

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        mesh: Mesh,
        workdir: str,
        checkpointer: Checkpointer,
        writer: MetricWriter,
    ):
        self.config = config.copy_and_resolve_references()
        with self.config.unlocked():
            self.config.train.num_steps = self.config.train.eval_every = self.config.train.checkpoint_every = _NEVER
            self.config.data.min_sources = 0  # all steps alike, so that those of the loop compare with the resident one
        train_step = build.train_step(self.config, dataset.labels, mesh)
        batches = train_batches(
            dataset,
            build.view_spec(self.config),
            batch_size=config.train.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self._batches = iterate(batches, num_workers=config.data.num_workers)
        self._resident = sharding.put_batch(next(self._batches), mesh)
        self.noted = _NotedStep(train_step, initial_state(train_step, mesh, next(self._batches)), mesh)
        self.loop = Loop(
            self.config,
            workdir,
            mesh,
            self.noted,
            start=1,
            stop=StopSignals(),
            checkpointer=checkpointer,
            writer=writer,
            trace=StepTrace(workdir, 1, 0),
            labels={},
            show_progress=False,
        )
        self.waits: list[float] = []

    def in_loop(self, count: int) -> float:
        """Seconds of `count` steps of the loop; notes the share of them that it waited for data."""
        self.loop.step_log.pending.clear()
        clock = _Clocked(self._batches, _SETTLE + count)
        try:
            self.loop.run(self.noted.state, ReadAhead(clock, 0))
        except _EndOfRun:
            jax.block_until_ready(self.noted.state)
        seconds = clock.asked[-1] - clock.asked[_SETTLE]
        self.waits.append(sum(clock.waited[_SETTLE:]) / seconds)
        return seconds

    def resident(self, count: int) -> float:
        """Seconds of `count` steps on a batch that is on the device already."""
        begin = time.perf_counter()
        for _ in range(count):
            self.noted.step(self.noted.state, self._resident)
        jax.block_until_ready(self.noted.state)
        return time.perf_counter() - begin

    def logging_seconds(self) -> float:
        """Seconds that logging takes after `config.train.log_every` steps."""
        count = self.config.train.log_every
        # Copies: an array that has been fetched once is not fetched again.
        rows = [jax.tree.map(lambda x: x + 0, self.noted.metrics) for _ in range(count)]
        self.loop.step_log.pending.extend(jax.block_until_ready(rows))
        begin = time.perf_counter()
        self.loop.log(count, self.noted.state)
        return time.perf_counter() - begin

    def checkpoint_seconds(self, save: Callable[[TrainState], None], wait: Callable[[], None]) -> tuple[float, float]:
        """(seconds until training may go on, seconds that training loses until the checkpoint is on disk)."""
        self.resident(1)
        step_seconds = self.resident(2) / 2
        begin, steps = time.perf_counter(), 0
        save(self.noted.state)
        blocked = time.perf_counter() - begin
        writing = threading.Thread(target=wait)
        writing.start()
        while writing.is_alive():
            self.resident(1)
            steps += 1
        return blocked, max(time.perf_counter() - begin - steps * step_seconds, blocked)


def measure(config: ConfigDict, dataset: Dataset, repeats: int, min_seconds: float) -> dict[str, Any]:
    """Runs the loop and resident steps in turn.

    Returns:
      `loop` and `resident` (Timings of a step), and shares of a step: `input_wait` (the loop waits in the data
      pipeline), `loop_overhead` (all that the loop adds to resident steps), `logging` and `checkpoints` (spread over
      the steps between them); and of one each `logging_seconds`, `checkpoint_blocked_seconds`, `checkpoint_seconds`.
    """
    mesh = sharding.make_mesh(fsdp=config.train.fsdp)
    with tempfile.TemporaryDirectory() as workdir, Checkpointer(workdir, _NEVER) as checkpointer:
        writer = MetricWriter(workdir, resume_step=1)
        try:
            loop = LoopBench(config, dataset, mesh, workdir, checkpointer, writer)
            loop.resident(1)
            timings = in_turn({"loop": loop.in_loop, "resident": loop.resident}, repeats, min_seconds)
            waits = loop.waits[-repeats:]
            logged = statistics.median(loop.logging_seconds() for _ in range(repeats))

            def save(state: TrainState) -> None:
                checkpointer.save(state, {"config": config.to_dict(), "targets": {}, "data_position": 0})

            saved = [loop.checkpoint_seconds(save, checkpointer.wait) for _ in range(min(repeats, 3))]
        finally:
            writer.close()
    return _shares(config, timings, waits, logged, saved)


def _shares(
    config: ConfigDict,
    timings: dict[str, Timing],
    waits: list[float],
    logged: float,
    saved: list[tuple[float, float]],
) -> dict[str, Any]:
    step = timings["resident"].median
    blocked, lost = (statistics.median(values) for values in zip(*saved, strict=True))
    return {
        **timings,
        "input_wait": statistics.median(waits),
        "loop_overhead": share(timings["resident"], timings["loop"]),
        "logging": logged / (config.train.log_every * step),
        "logging_seconds": logged,
        "checkpoints": lost / (config.train.checkpoint_every * step),
        "checkpoint_blocked_seconds": blocked,
        "checkpoint_seconds": lost,
    }
