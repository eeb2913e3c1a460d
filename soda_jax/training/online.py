"""The evaluation that training runs as it goes: held-out denoising loss and the online probe, with EMA weights."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from soda_jax import inputs, rngs
from soda_jax.data.datasets import Dataset
from soda_jax.data.datasets.base import Example
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.models.aggregation import pick_present
from soda_jax.models.probe import probe_hits, probe_labels
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import Trainer
from soda_jax.parallel import sharding
from soda_jax.parallel.distributed import SharedError, share


class OnlineEvaluator:
    """Counts every example of the held-out split once.

    Args:
      trainer: the run's constants.
      dataset, spec: the held-out split and its views.
      batch_size: global; rounded up to a multiple of the devices.
      limit: examples to use; None is all.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: Dataset,
        spec: ViewSpec,
        mesh: Mesh,
        *,
        batch_size: int,
        limit: int | None,
    ):
        self._trainer = trainer
        self._dataset, self._spec, self._mesh = dataset, spec, mesh
        self._batch_size = sharding.round_up(batch_size, mesh)
        self._limit = limit
        # Of one of several processes whose data fail; one alone has nobody to go on with.
        self._spare = next(self._read()) if jax.process_count() > 1 else None
        self._step = jax.jit(self._evaluate_batch, out_shardings=sharding.replicated(mesh))

    def run(self, state: TrainState, between: Callable[[], None] | None = None) -> dict[str, float]:
        """Metrics: `eval/loss`, `probe/NAME` for each label, `probe/mean`, and the same with `probe_pixels`.

        Args:
          between: called before every batch, on all processes alike; what it raises ends the evaluation.

        Raises:
          SharedError: a process could not read its part of the split. Several processes find that out at the end, so
            that none waits for one that has left.
        """
        totals: Any = None
        total = len(self._dataset) if self._limit is None else min(self._limit, len(self._dataset))
        batches = _Unbroken(self._read(), spare=self._spare)
        for _ in range(-(-total // self._batch_size)):
            batch = next(batches)
            if between is not None:
                between()
            sums = self._step(state, sharding.put_batch(batch, self._mesh))
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        batches.check()
        totals = jax.tree.map(np.asarray, totals)
        count = totals.pop("count")
        metrics = {"eval/loss": float(totals.pop("loss") / count)}
        for name, hits in totals.items():
            prefix = "probe" if name == "latent" else f"probe_{name}"
            accuracy = hits / count
            metrics |= {f"{prefix}/{t}": float(a) for t, a in zip(self._trainer.probe.names, accuracy, strict=True)}
            metrics[f"{prefix}/mean"] = float(accuracy.mean())
        return metrics

    def _read(self) -> Iterator[Example]:
        return eval_batches(
            self._dataset,
            self._spec,
            batch_size=self._batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            limit=self._limit,
        )

    def _evaluate_batch(self, state: TrainState, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        trainer = self._trainer
        mask = batch["mask"]
        source = inputs.normalise_source(batch["source"])
        pose = trainer.model.pose
        source_conditions = {} if pose is None else {"source_camera": inputs.source_camera(batch, pose)}
        z, out = trainer.model.apply(
            state.ema_variables, source, batch["source_mask"], **source_conditions, method="encode"
        )
        sums = {"count": mask.sum(), "loss": jnp.sum(self._denoising_loss(state, batch, z) * mask)}
        if trainer.probe is None:
            return sums
        labels = probe_labels(batch, trainer.probe.kind)
        features = {"latent": out["latent"], "pixels": source[:, 0]}
        for name in trainer.probe.inputs:
            logits = trainer.probe.module.apply(
                {"params": state.probe.params[name], "batch_stats": state.probe.batch_stats[name]},
                features[name].reshape(mask.shape[0], -1),
            )
            sums[name] = jnp.sum(probe_hits(logits, labels) & mask[:, None], axis=0)
        return sums

    def _denoising_loss(self, state: TrainState, batch: dict[str, jax.Array], z: jax.Array) -> jax.Array:
        """Mean squared error of the prediction, [B]; timestep and noise are fixed by the example's index."""
        trainer, index = self._trainer, batch["index"]

        def draw(name: str, function: Any) -> jax.Array:
            return rngs.per_example(rngs.stream(trainer.root, name, 0), index, function)

        x_0 = inputs.normalise_target(batch["target"])
        t = draw("eval_timestep", lambda k: jax.random.randint(k, (), 1, trainer.diffusion.num_steps + 1))
        eps = draw("eval_noise", lambda k: jax.random.normal(k, x_0.shape[1:]))
        if trainer.model.keeps_sources:
            z = pick_present(z, draw("eval_source", lambda k: jax.random.uniform(k, z.shape[1:2])))
        pose = trainer.model.pose
        target_conditions = {} if pose is None else {"target_camera": inputs.target_camera(batch, pose)}
        sections = jnp.ones((x_0.shape[0], trainer.model.denoiser.num_sections))
        predicted, _ = trainer.model.apply(
            state.ema_variables,
            trainer.diffusion.q_sample(x_0, t, eps),
            t,
            z,
            sections,
            **target_conditions,
            method="denoise",
        )
        return jnp.square(predicted - trainer.diffusion.target(x_0, t, eps)).mean(axis=(1, 2, 3))


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
