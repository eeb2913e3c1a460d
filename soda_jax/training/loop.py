"""The training loop. Its order is fixed: log, evaluate, save, stop if asked to, take a batch, step."""

import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tabulate import tabulate
from tqdm import tqdm

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.data.pipeline import iterate, train_batches
from soda_jax.data.read_ahead import ReadAhead
from soda_jax.inference.engine import Inference
from soda_jax.inference.grids import GridWriter
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import Trainer, module_names
from soda_jax.parallel import distributed, sharding
from soda_jax.training import health
from soda_jax.training.online import OnlineEvaluator
from soda_jax.training.profiling import StepTrace, region
from soda_jax.training.step_timer import StepTimer
from soda_jax.training.stopping import Interrupted, StopSignals
from soda_jax.workdir.checkpoint import (
    Checkpointer,
    CheckpointWriteError,
    check_same_labels,
    check_same_model,
    latest_step,
)
from soda_jax.workdir.lock import training_lock
from soda_jax.workdir.run_record import RunRecord, ask_for_steps
from soda_jax.workdir.writers import MetricWriter

STEPS_AHEAD = 2  # that the host may queue: each holds its batch on the device
# That several processes read early: those of the steps that the others are ahead, and some to spare.
BATCHES_AHEAD = STEPS_AHEAD + 4


def train(config: ConfigDict, workdir: str, profile_steps: int = 0) -> dict[str, float]:
    """Trains `config` in `workdir`, resuming from its last checkpoint; returns the last evaluation's metrics.

    SIGTERM and SIGINT save and end it; the next call goes on from there.

    The first process writes a trace of `profile_steps` steps (`profiling.StepTrace`).

    Raises:
      ConfigError: a config that cannot run.
      ValueError: the workdir holds another model, or the data is missing.
      NonFiniteLossError: training diverged.
      WorkdirInUseError: another run trains in the workdir.
      CheckpointWriteError, OSError: the disk is full or cannot be written.
    """
    mesh = sharding.make_mesh(fsdp=config.train.fsdp)
    config_lib.validate(config, mesh.size)
    with training_lock(workdir), StopSignals() as stop:
        if jax.process_index() == 0:
            ask_for_steps(workdir, config.train.num_steps)
        return _train(config, workdir, mesh, stop, profile_steps)


def _train(config: ConfigDict, workdir: str, mesh: Mesh, stop: StopSignals, profile_steps: int) -> dict[str, float]:
    spec = build.view_spec(config)
    sources = [
        build.dataset(config, s, bad_files_path(workdir)) for s in (config.data.train_split, config.data.eval_split)
    ]
    dataset, held_out = sources
    trainer = build.trainer(config, dataset.labels, mesh)
    with Checkpointer(workdir, config.train.keep_every) as checkpointer:
        batches = train_batches(
            dataset,
            spec,
            batch_size=config.train.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        state, position = initial_state(config, workdir, trainer, batches[0], checkpointer, mesh)
        run = Run(config, workdir, trainer, mesh, checkpointer, start=position, stop=stop)
        run.trace = StepTrace(workdir, position, profile_steps, active=run.is_main)
        run.step_fn = trainer.jit_step(state, mesh)
        run.evaluator = OnlineEvaluator(
            trainer,
            held_out,
            spec,
            mesh,
            batch_size=config.eval.batch_size,
            limit=config.eval.num_examples or None,
        )
        run.grid = GridWriter(run.inference, held_out, spec, config.sampling.num_images)
        run.labels = {kind: list(found.sizes) for kind, found in dataset.labels.items()}
        batches = iterate(batches, position, num_workers=config.data.num_workers)
        batches = ReadAhead(
            itertools.islice(batches, config.train.num_steps - position),
            BATCHES_AHEAD if distributed.is_several() else 0,
        )
        try:
            return run.loop(state, batches)
        except (jax.errors.JaxRuntimeError, CheckpointWriteError) as error:  # the processes write checkpoints together
            if distributed.is_several() and distributed.lost_peer(error):
                distributed.leave(error, workdir)  # closing the checkpointer would wait for the process that is gone
            raise
        finally:
            run.trace.close()
            run.writer.close()
            for split in sources:
                if hasattr(split, "bad_files") and split.bad_files.names():
                    print(split.bad_files.summary())


def bad_files_path(workdir: str) -> str:
    """Where this process lists the image files that it could not read."""
    number = jax.process_index()
    return os.path.join(workdir, f"bad_files_{number}.txt" if number else "bad_files.txt")


def initial_state(
    config: ConfigDict,
    workdir: str,
    trainer: Trainer,
    batch: dict[str, np.ndarray],
    checkpointer: Checkpointer,
    mesh: Mesh,
) -> tuple[TrainState, int]:
    """(state, data position): the last checkpoint's, or a new run's."""
    example = {key: value[:1] for key, value in batch.items()}
    step, meta = checkpointer.step, checkpointer.meta
    if step is None:
        placement = sharding.replicated(mesh)
        if trainer.mesh is not None:
            placement = sharding.state_sharding(jax.eval_shape(trainer.init, example), mesh)
        init = jax.jit(trainer.init, out_shardings=placement, compiler_options=sharding.run_once_options())
        return init(example), 0
    check_same_model(workdir, meta, config, config_lib.STATE_FIELDS)
    if trainer.probe is not None:
        check_same_labels(workdir, meta, trainer.probe.kind, trainer.probe.sizes)
    if step > config.train.num_steps:
        raise ValueError(
            f"config.train.num_steps={config.train.num_steps}: {workdir} is already at step {step}; ask for more "
            "steps, or use another --workdir"
        )
    abstract = sharding.abstract_state(jax.eval_shape(trainer.init, example), mesh)
    print(f"resuming from step {step} of {workdir}")
    return checkpointer.restore(abstract, step), meta["data_position"]


class Run:
    """What the loop carries from step to step besides the state."""

    evaluator: OnlineEvaluator
    grid: GridWriter
    trace: StepTrace
    step_fn: Callable[[TrainState, dict[str, jax.Array]], Any]
    labels: dict[str, Any]

    def __init__(
        self,
        config: ConfigDict,
        workdir: str,
        trainer: Trainer,
        mesh: Mesh,
        checkpointer: Checkpointer,
        start: int,
        stop: StopSignals,
    ):
        self.config, self.workdir, self.trainer, self.mesh = config, workdir, trainer, mesh
        self.checkpointer = checkpointer
        self.start, self.stop = start, stop
        self.saved = start  # the step of the last save
        self.evaluation_due = checkpointer.meta.get("evaluation_due", False)  # broken off when the run was stopped
        self.is_main = jax.process_index() == 0
        self.writer = MetricWriter(workdir, resume_step=start, active=self.is_main)
        self.record = RunRecord(workdir, config, start, list(mesh.devices.flat), active=self.is_main)
        self.inference = Inference(config, mesh)
        self.schedule = build.schedule(config)
        self.gather = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
        self.params_finite = jax.jit(lambda params: jnp.isfinite(optax.global_norm(params)))
        self.data_error: Exception | None = None  # of this process, where it is one of several
        self.pending: list[dict[str, jax.Array]] = []  # metrics of the steps since the last log, still on the device
        self.encoder_watch = health.EncoderWatch()
        self.timer = StepTimer()
        self.progress: tqdm | None = None

    def loop(self, state: TrainState, batches: ReadAhead) -> dict[str, float]:
        train = self.config.train
        results: dict[str, float] = {}
        self.progress = tqdm(
            total=train.num_steps, initial=self.start, desc="training", unit="step", disable=not self.is_main,
            mininterval=2.0, dynamic_ncols=True,
        )  # fmt: skip
        with self.progress:
            for step in range(self.start, train.num_steps + 1):
                last = step == train.num_steps
                self.trace.before_step(step, self.pending)
                if last or (step > self.start and step % train.log_every == 0):
                    with region("log"):
                        self.log(step, state)
                if last or self.evaluation_due or (step > self.start and step % train.eval_every == 0):
                    with region("evaluate"):
                        results = self.evaluate(step, state)
                if step > self.start and (step % train.checkpoint_every == 0 or last):
                    with region("save"):
                        self.save(step, state)
                signal = self.stop.requested()
                if signal and (self.evaluation_due or not last):
                    self.end_early(step, state, signal)
                    return results
                if last:
                    break
                with self.trace.step(step):
                    with region("input"):
                        batch = sharding.put_batch(self.next_batch(batches, step, state), self.mesh)
                    with region("dispatch"):
                        state, metrics = self.step_fn(state, batch)
                    self.pending.append(metrics)
                    with region("wait"):
                        if len(self.pending) > STEPS_AHEAD:
                            jax.block_until_ready(self.pending[-1 - STEPS_AHEAD]["loss"])
                if step == self.start:
                    self.timer.first_step_done(metrics)
                    self.stop.begin()
                self.progress.update()
        self.checkpointer.wait()  # who finds the record finished will look for the last checkpoint
        self.record.finish(step)
        self.report(results)
        return results

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
        if batches.error is not None and self.data_error is None:
            self.data_error = batches.error
            self.stop.request_all()
        return batch

    def save_for_lost_data(self, step: int, state: TrainState) -> None:
        """Saves, if that is needed and possible; the error that follows is of the data."""
        if step == self.saved:
            return
        try:
            self.save(step, state)
            self.checkpointer.wait()
            self.progress.write(f"the data failed; step {step} is saved")
        except (health.NonFiniteLossError, OSError) as error:
            logging.warning("the data failed, and step %d could not be saved: %s", step, error)

    def end_early(self, step: int, state: TrainState, signal: str) -> None:
        """Saves, unless that has happened at this very step, and says how to go on.

        Raises:
          SharedError: the reason is that a process could not read its data.
        """
        try:
            if step != self.saved:
                self.save(step, state)
            self.checkpointer.wait()
        except OSError as error:
            if self.data_error is not None:  # what fails first is what is to be mended first
                raise self.data_error from error
            raise
        finally:
            self.progress.close()
        distributed.share(self.data_error, f"step {step} is saved in {self.workdir}")
        if not self.is_main:
            return
        saved = f"after step {step} of {self.config.train.num_steps}, which is saved in {self.workdir}; "
        where = saved + "the same command goes on from there" if step else "before the first step"
        print(f"{signal}: stopped {where}", flush=True)

    def log(self, step: int, state: TrainState) -> None:
        """Fetches and writes the means of the pending metrics."""
        if not self.pending:
            return
        count = len(self.pending)
        rows = jax.device_get(self.pending)
        seconds = self.timer.interval(count)
        self.pending.clear()
        first = step - count
        health.check_steps(first, rows, module_names(state.params), self._last_good)
        self.encoder_watch.update([row["grad_norm/encoder"] for row in rows])
        scalars = {key: np.mean([row[key] for row in rows]) for key in rows[0] if key != "grad_norms"}
        scalars["learning_rate"] = float(self.schedule(step - 1))
        if seconds is not None:
            scalars["images_per_second"] = self.config.train.batch_size / seconds
        self.writer.scalars(step, scalars)
        shown = {
            "loss": f"{scalars['loss']:.4f}",
            "img/s": f"{scalars.get('images_per_second', float('nan')):.0f}",
        }
        if "probe/accuracy" in scalars:
            shown["probe"] = f"{scalars['probe/accuracy']:.3f}"
        self.progress.set_postfix(shown, refresh=False)

    def _last_good(self) -> str:
        self.checkpointer.wait()  # the newest may still be on its way to the disk
        good = latest_step(self.workdir)
        return "no checkpoint was written yet" if good is None else f"the last good checkpoint is step {good}"

    def evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        jax.block_until_ready(state.step)  # the steps before it count as training time
        with self.timer.paused():
            trained = state
            if self.trainer.mesh is not None:
                whole = self.gather((state.ema_params, state.ema_batch_stats, state.probe))
                state = state.replace(ema_params=whole[0], ema_batch_stats=whole[1], probe=whole[2])
            try:
                with self.stop.interruptible():
                    metrics = self.evaluator.run(state, between=self.stop.check)
                    grid = self.grid.draw(state.ema_variables)
            except Interrupted:
                self.evaluation_due = True
                return {}
            except distributed.SharedError:  # the held-out data failed
                self.evaluation_due = True
                self.save_for_lost_data(step, trained)
                raise
            self.evaluation_due = False
            self.writer.scalars(step, metrics)
            path = self.writer.image(step, "reconstructions", grid)
            if path is not None:
                self.progress.write(f"step {step}: eval loss {metrics['eval/loss']:.4f}, images in {path}")
                self.last_grid = path
        return metrics

    def save(self, step: int, state: TrainState) -> None:
        """Starts an asynchronous save, after making sure that every step up to here was finite."""
        self.log(step, state)
        with self.timer.paused():
            if not self.params_finite(state.params):
                raise health.NonFiniteLossError(
                    f"the update of step {step} made the parameters overflow; nothing of it is saved, "
                    f"{self._last_good()}. {health.NON_FINITE_REMEDY}"
                )
            meta = {"config": self.config.to_dict(), "targets": self.labels, "data_position": step}
            self.checkpointer.save(state, meta | {"evaluation_due": self.evaluation_due})
            self.saved = step
            self.record.update(step)

    def report(self, results: dict[str, float]) -> None:
        """Prints the online probe's table and where the last grid is."""
        task = self.trainer.probe
        if not self.is_main:
            return
        if task is not None and "probe/mean" in results:
            rows = []
            for name, size in zip((*task.names, "mean"), (*task.sizes, None), strict=True):
                chance = 1 / size if size else np.mean([1 / s for s in task.sizes])
                row = [name, f"{chance:.3f}"]
                row += [f"{results[f'{p}/{name}']:.3f}" for p in ("probe_pixels", "probe") if f"{p}/{name}" in results]
                rows.append(row)
            headers = [
                "target",
                "chance",
                *(["raw pixels"] if task.raw_pixels else []),
                "SODA latent",
            ]
            print(f"\nOnline linear probe, accuracy on held-out '{self.config.data.eval_split}' examples:")
            print(tabulate(rows, headers=headers, disable_numparse=True))
        print(f"\nReconstructions: {getattr(self, 'last_grid', 'none drawn')}")
        print(f"Load the encoder with soda_jax.load({self.workdir!r})")
