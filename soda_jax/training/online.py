"""The evaluation that training runs as it goes: held-out loss and the online probe, with EMA weights."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from soda_jax.config import ConfigError
from soda_jax.data.datasets import Dataset
from soda_jax.data.datasets.base import Example
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.objectives.latent_use import has_latent_use
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.parallel.distributed import SharedError, share
from soda_jax.training.latent_use import EXAMPLES, LatentUse


def check_monitor(metric: str, train_step: TrainStep) -> None:
    """Raises ConfigError where the run's evaluations have no such metric as `config.train.monitor` names."""
    names, probe = ["eval/loss"], train_step.probe
    if probe is not None:
        for prefix in map(_prefix, probe.inputs):
            names += [f"{prefix}/{name}" for name in ("mean", *probe.task.names)]
    if metric and metric not in names:
        listed = ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
        labels = "" if probe is not None else " (no probe is trained, as the dataset has no labels)"
        raise ConfigError(f"config.train.monitor={metric!r}: no evaluation gives that{labels}; use one of {listed}")


def _prefix(features: str) -> str:
    """Of the metrics of the probe that reads them."""
    return "probe" if features == "latent" else f"probe_{features}"


class OnlineEvaluator:
    """Counts every example of the held-out split once.

    Args:
      train_step: the run's constants, whose `evaluate` scores a batch.
      dataset, spec: the held-out split and its views.
      batch_size: global; rounded up to a multiple of the devices.
      limit: examples to use; None is all.
    """

    def __init__(
        self,
        train_step: TrainStep,
        dataset: Dataset,
        spec: ViewSpec,
        mesh: Mesh,
        *,
        batch_size: int,
        limit: int | None,
    ):
        self._probe = train_step.probe
        self._dataset, self._spec, self._mesh = dataset, spec, mesh
        self._batch_size = sharding.round_up(batch_size, mesh)
        self._total = len(dataset) if limit is None else min(limit, len(dataset))
        # Of one of several processes whose data fail; one alone has nobody to go on with.
        self._spare = next(self._read(self._total, self._batch_size)) if jax.process_count() > 1 else None
        self._step = jax.jit(train_step.evaluate, out_shardings=sharding.replicated(mesh))
        self._latent_use = LatentUse(train_step, mesh) if has_latent_use(train_step.objective) else None
        self._few = min(self._total, EXAMPLES), sharding.round_up(min(batch_size, EXAMPLES), mesh)

    def run(self, state: TrainState, between: Callable[[], None] | None = None) -> dict[str, float]:
        """Metrics: `eval/loss`, `probe/NAME` for each label, `probe/mean`, and the same with `probe_pixels`.

        Of a denoiser that a latent guides also `latent_use/NAME`, as `metrics.latent_use.figures` has them.

        Args:
          between: called before every batch, on all processes alike; what it raises ends the evaluation.

        Raises:
          SharedError: a process could not read its part of the split. Several processes find that out at the end, so
            that none waits for one that has left.
        """
        totals: Any = None
        for batch in self._batches(self._total, self._batch_size):
            if between is not None:
                between()
            sums = self._step(state, sharding.put_batch(batch, self._mesh))
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        diagnosis = {}
        if self._latent_use is not None:
            diagnosis = self._latent_use.run(state, self._batches(*self._few), between)
        totals = jax.tree.map(np.asarray, totals)
        count = totals.pop("count")
        metrics = {"eval/loss": float(totals.pop("loss") / count)}
        for name, hits in totals.items():
            prefix = _prefix(name)
            accuracy = hits / count
            metrics |= {f"{prefix}/{t}": float(a) for t, a in zip(self._probe.task.names, accuracy, strict=True)}
            metrics[f"{prefix}/mean"] = float(accuracy.mean())
        return metrics | diagnosis

    def _batches(self, count: int, batch_size: int) -> Iterator[Example]:
        """`count` examples, spread evenly over the split. At the end every process learns whether one could not read.

        Args:
          batch_size: global, at most that of the whole evaluation.

        Raises:
          SharedError: see `run`.
        """
        spare = self._spare
        if spare is not None:
            spare = {key: value[: batch_size // jax.process_count()] for key, value in spare.items()}
        batches = _Unbroken(self._read(count, batch_size), spare)
        for _ in range(-(-count // batch_size)):
            yield next(batches)
        batches.check()

    def _read(self, count: int, batch_size: int) -> Iterator[Example]:
        return eval_batches(
            self._dataset,
            self._spec,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            limit=count,
        )


class _Unbroken:
    """An evaluation's batches. Where one of several processes cannot read on, it gives padding until `check`.

    Args:
      spare: a batch to make padding of; None for a process that is alone.
    """

    def __init__(self, batches: Iterator[Example], spare: Example | None):
        self._batches, self._spare = batches, spare
        self._error: Exception | None = None

    def __next__(self) -> Example:
        if self._error is None:
            try:
                return next(self._batches)
            except Exception as error:
                if self._spare is None:
                    raise SharedError(str(error)) from error
                self._error = error
        return self._spare | {"mask": np.zeros_like(self._spare["mask"])}

    def check(self) -> None:
        """Raises SharedError, in every process, if any could not read on."""
        share(self._error, "in an evaluation")
