"""The training loop. Its order is fixed: log, evaluate, save, stop if asked to or at the end, take a batch, step.

The step is `objectives/step.py`, and the loss in it `objectives/soda.py`.
"""

import itertools
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.data.datasets import Labels
from soda_jax.data.pipeline import iterate, train_batches
from soda_jax.data.read_ahead import ReadAhead
from soda_jax.inference.engine import Inference
from soda_jax.inference.grids import GridWriter
from soda_jax.metrics.latent_use import settled_at
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import distributed, sharding
from soda_jax.parallel.processes import number_of_first
from soda_jax.paths import run_folder
from soda_jax.training.latent_use import remark
from soda_jax.training.monitor import Monitor
from soda_jax.training.online import OnlineEvaluator, check_monitor
from soda_jax.training.origin import Origin, find_origin
from soda_jax.training.profiling import StepTrace, region
from soda_jax.training.programs import step_of_any
from soda_jax.training.recovery import STEPS_AHEAD, Recovery, batches_ahead, leaving_lost_peers
from soda_jax.training.report import ended_early, report
from soda_jax.training.saving import Saver, last_good
from soda_jax.training.start import initial_state
from soda_jax.training.step_log import StepLog
from soda_jax.training.stopping import Interrupted, StopSignals
from soda_jax.workdir.checkpoint import Checkpointer
from soda_jax.workdir.lock import training_lock
from soda_jax.workdir.meta import labels_meta
from soda_jax.workdir.run_record import LAST_STEP, NO_IMPROVEMENT, RunRecord, ask_for_length
from soda_jax.workdir.writers import MetricWriter


def train(config: ConfigDict, workdir: str, profile_steps: int = 0, init_from: str = "") -> dict[str, float]:
    """Trains `config` in `workdir`, resuming from its last checkpoint; returns the last evaluation's metrics.

    It ends after `config.train.num_steps`, or once `config.train.monitor` has not improved for `config.train.patience`
    steps. SIGTERM and SIGINT save and end it; the next call goes on from there.

    The first process writes a trace of `profile_steps` steps (`profiling.StepTrace`). A new run starts from the weights
    of the model that `init_from` names (`origin.find_origin`).

    Raises:
      ConfigError: a config that cannot run, or `init_from` holds another model.
      ValueError: the workdir holds another model, or the data is missing.
      NonFiniteLossError: training diverged.
      WorkdirInUseError: another run trains in the workdir.
      CheckpointWriteError, OSError: the disk is full or cannot be written.
    """
    workdir = run_folder(workdir)
    mesh = sharding.make_mesh(fsdp=config.train.fsdp)
    config_lib.validate(config, mesh.size)
    with training_lock(workdir), StopSignals() as stop:
        if jax.process_index() == 0:
            ask_for_length(workdir, config.train)
        origin = find_origin(config, workdir, init_from)
        return _train(config, workdir, mesh, stop, profile_steps, origin)


def _train(
    config: ConfigDict, workdir: str, mesh: Mesh, stop: StopSignals, profile_steps: int, origin: Origin | None
) -> dict[str, float]:
    """Opens what the loop works with, and closes it whatever happens."""
    spec = build.view_spec(config)
    dataset, held_out = (
        build.dataset(config, split, bad_files_path(workdir))
        for split in (config.data.train_split, config.data.eval_split)
    )
    train_step = build.train_step(config, dataset.labels, mesh)
    check_monitor(build.monitor(config), train_step)
    batches = train_batches(
        dataset,
        spec,
        batch_size=config.train.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    is_main = jax.process_index() == 0
    with Checkpointer(workdir, config.train.keep_every) as checkpointer:
        state, start = initial_state(
            config, workdir, train_step, batches[0], checkpointer, mesh, origin, dataset.labels
        )
        writer = MetricWriter(workdir, resume_step=start, active=is_main)
        trace = StepTrace(workdir, start, profile_steps, active=is_main)
        limit = config.eval.num_examples or None
        loop = Loop(
            config,
            workdir,
            mesh,
            train_step,
            start=start,
            stop=stop,
            checkpointer=checkpointer,
            writer=writer,
            trace=trace,
            labels=dataset.labels,
            init_from=None if origin is None else origin.record,
            evaluator=OnlineEvaluator(train_step, held_out, spec, mesh, batch_size=config.eval.batch_size, limit=limit),
            grid=GridWriter(Inference(config, mesh), held_out, spec, config.sampling.num_images),
        )
        stream = iterate(batches, start, num_workers=config.data.num_workers)
        ahead = ReadAhead(itertools.islice(stream, config.train.num_steps - start), batches_ahead())
        try:
            with leaving_lost_peers(workdir):
                return loop.run(state, ahead)
        finally:
            trace.close()
            writer.close()
            for split in (dataset, held_out):
                if hasattr(split, "bad_files") and split.bad_files.names():
                    print(split.bad_files.summary())


def bad_files_path(workdir: str) -> str:
    """Where this process lists the image files that it could not read."""
    number = jax.process_index()
    return os.path.join(workdir, f"bad_files_{number}.txt" if number else "bad_files.txt")


class Loop:
    """The loop of one session of training.

    Args:
      config: the run's.
      workdir: its folder.
      mesh: the devices that it trains on.
      train_step: what it repeats.
      start: the step that it starts or resumes from.
      stop: requests to stop.
      checkpointer, writer, trace: what it writes to; whoever opened them closes them.
      labels: of each kind that the dataset has, for the checkpoints.
      init_from: where the run's first weights came from; by default what the last checkpoint says.
      evaluator, grid: of the held-out split; None for a loop that is broken off before any evaluation is due.
      show_progress: on the first process.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: str,
        mesh: Mesh,
        train_step: TrainStep,
        *,
        start: int,
        stop: StopSignals,
        checkpointer: Checkpointer,
        writer: MetricWriter,
        trace: StepTrace,
        labels: Mapping[str, Labels],
        init_from: Mapping[str, Any] | None = None,
        evaluator: OnlineEvaluator | None = None,
        grid: GridWriter | None = None,
        show_progress: bool = True,
    ):
        self._config, self.workdir, self._mesh, self._train_step = config, workdir, mesh, train_step
        self._start, self._stop, self._writer, self._trace = start, stop, writer, trace
        self.evaluator, self._grid, self._last_grid = evaluator, grid, None
        self._evaluation_due = checkpointer.meta.get("evaluation_due", False)  # broken off when the run was stopped
        self._gather = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
        self._is_main = jax.process_index() == 0
        self._progress = tqdm(
            total=config.train.num_steps, initial=start, desc="training", unit="step",
            disable=not (self._is_main and show_progress), mininterval=2.0, dynamic_ncols=True,
        )  # fmt: skip
        tell = last_good(workdir, checkpointer)
        self.step_log = StepLog(writer, build.schedule(config), config.train.batch_size, tell)
        init_from = checkpointer.meta.get("init_from") if init_from is None else init_from
        record = RunRecord(workdir, config, start, list(mesh.devices.flat), self._is_main, init_from)
        meta = {"config": config.to_dict()} | labels_meta(labels)
        meta |= {} if init_from is None else {"init_from": dict(init_from)}
        self._monitor = Monitor.resumed(
            build.monitor(config), config.data.eval_split, config.train.patience, checkpointer.meta.get("monitor")
        )
        self._saver = Saver(workdir, checkpointer, record, meta, start, tell, self._monitor)
        self._recovery = Recovery(
            workdir, config.train.num_steps, stop, self.save, self._saver, self._progress.write, self._is_main
        )

    def run(self, state: TrainState, batches: ReadAhead) -> dict[str, float]:
        """Trains from `state` to its end, or until it is asked to stop; returns the last evaluation's metrics."""
        train, start, had_ended = self._config.train, self._start, self._monitor.exhausted
        counts = build.view_spec(self._config).source_counts
        step_fn = step_of_any(self._train_step.jit_step(state, self._mesh), counts, self._tell)
        results: dict[str, float] = {}
        with self._progress:
            for step in range(start, train.num_steps + 1):
                last = step == train.num_steps or self._monitor.exhausted
                self._trace.before_step(step, self.step_log.pending)
                if last or (step > start and step % train.log_every == 0):
                    with region("log"):
                        self.log(step, state)
                if last or self._evaluation_due or (step > start and step % train.eval_every == 0):
                    with region("evaluate"):
                        results = self.evaluate(step, state)
                    last = last or self._monitor.exhausted
                improved = self._monitor.best_step == step
                if step > start and (step % train.checkpoint_every == 0 or improved or last):
                    with region("save"):
                        self.save(step, state)
                signal = self._stop.requested()
                if signal and (self._evaluation_due or not last):
                    self._progress.close()
                    self._recovery.end_early(step, state, signal)
                    return results
                if last:
                    break
                with self._trace.step(step):
                    with region("input"):
                        batch = sharding.put_batch(self._recovery.next_batch(batches, step, state), self._mesh)
                    with region("dispatch"):
                        state, metrics = step_fn(state, batch)
                    self.step_log.pending.append(metrics)
                    with region("wait"):
                        if len(self.step_log.pending) > STEPS_AHEAD:
                            jax.block_until_ready(self.step_log.pending[-1 - STEPS_AHEAD]["loss"])
                if step == start:
                    self.step_log.timer.first_step_done(metrics)
                    self._stop.begin()
                self._progress.update()
        self._saver.finish(step, LAST_STEP if step == train.num_steps else NO_IMPROVEMENT)
        if self._is_main:
            if step < train.num_steps:
                print(ended_early(self._monitor, step, train.num_steps, had_ended), flush=True)
            split = self._config.data.eval_split
            report(self._train_step, results, split, self._monitor, self._last_grid, self.workdir)
        return results

    def _tell(self, line: str) -> None:
        """Prints a line of the first process, without breaking the progress bar."""
        if self._is_main:
            self._progress.write(line)

    def log(self, step: int, state: TrainState) -> None:
        """Writes what the steps since the last call measured."""
        shown = self.step_log.write(step, state.params)
        if shown:
            self._progress.set_postfix(shown, refresh=False)

    def evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        """Scores and draws held-out examples with the averaged weights; {} if a request to stop broke it off."""
        jax.block_until_ready(state.step)  # the steps before it count as training time
        with self.step_log.timer.paused():
            whole = self._averages(state)
            try:
                with self._stop.interruptible():
                    metrics = self.evaluator.run(whole, between=self._stop.check)
                    drawn = self._grid.draw(whole.ema_variables)
            except Interrupted:
                self._evaluation_due = True
                return {}
            except distributed.SharedError:  # the held-out data failed
                self._evaluation_due = True
                self._recovery.save_for_lost_data(step, state)
                raise
            # A finished run that is started again only shows what metrics.jsonl holds already.
            if not self._writer.has_evaluation(step):
                self._writer.scalars(step, metrics)
            self._evaluation_due = False
            self._watch(step, metrics)
            self._last_grid = self._writer.image(step, "reconstructions", drawn)
            if self._last_grid is not None:
                found = f"eval loss {metrics['eval/loss']:.4f}{self._latent_remark(step, metrics)}"
                self._progress.write(f"step {step}: {found}, images in {self._last_grid}")
        return metrics

    def _watch(self, step: int, metrics: dict[str, float]) -> None:
        """Tells the monitor what an evaluation found; of several processes all go by the first one's number."""
        if self._monitor.active and self._monitor.update(step, number_of_first(metrics[self._monitor.metric])):
            if step == self._start:  # its checkpoint was written before it was known to be the best
                self._saver.note_best()

    def _latent_remark(self, step: int, metrics: dict[str, float]) -> str:
        """What an evaluation found of the use of the latent; where it is ignored, a warning says so."""
        train, optim = self._config.train, self._config.optim
        settled = settled_at(train.num_steps, optim.warmup_steps, train.ema_decay, train.ema_warmup)
        return remark(metrics, step, settled, self._config.diffusion.latent_mask_rate)

    def _averages(self, state: TrainState) -> TrainState:
        """The state with EMA and probe whole on every device, where these share one copy of it."""
        if self._train_step.state_mesh is None:
            return state
        params, stats, probe = self._gather((state.ema_params, state.ema_batch_stats, state.probe))
        return state.replace(ema_params=params, ema_batch_stats=stats, probe=probe)

    def save(self, step: int, state: TrainState) -> None:
        """Starts an asynchronous save, after making sure that every step up to here was finite."""
        self.log(step, state)
        with self.step_log.timer.paused():
            self._saver.save(step, state, evaluation_due=self._evaluation_due)
