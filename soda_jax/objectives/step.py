"""One training step as pure functions: the loss, gradient accumulation, EMA, the online probe.

loss = E || eps - D(x_t, t, E(x')) ||^2, t uniform on 1..T, unweighted (SODA Appendix B); with prediction="v", of v.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from soda_jax import inputs, rngs
from soda_jax.diffusion.gaussian import Diffusion
from soda_jax.models.probe import LinearProbe, probe_hits, probe_labels, probe_loss
from soda_jax.models.soda import SODA
from soda_jax.objectives.state import ProbeState, TrainState, ema_decay_at, ema_update
from soda_jax.parallel import sharding

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ProbeTask:
    """What the online probe predicts: the batch's key, each label's classes and name, and how it is trained."""

    kind: str
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    module: LinearProbe
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    raw_pixels: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("latent", "pixels") if self.raw_pixels else ("latent",)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The constants of a run's training step.

    Attributes:
      root: the run's random key.
      source_noise: std of the noise on the normalised source.
      latent_mask_rate, layer_mask_rate: probabilities of zeroing the whole latent, and each section.
      pose_mask_rate: probability of hiding the target's pose, and each source's, independently of all else.
      microbatches: N; each holds every N-th example, so that a sharded batch splits without moving.
      mesh: devices that split the state between them (`sharding.state_sharding`); None where each holds all of it.
    """

    model: SODA
    diffusion: Diffusion
    optimizer: optax.GradientTransformation
    root: jax.Array
    source_noise: float = 0.0
    latent_mask_rate: float = 0.12
    layer_mask_rate: float = 0.15
    pose_mask_rate: float = 0.12
    microbatches: int = 1
    ema_decay: float = 0.9999
    ema_warmup: bool = True
    probe: ProbeTask | None = None
    mesh: Mesh | None = None

    def init(self, batch: Batch) -> TrainState:
        """The initial state, from a batch of any size (its values do not matter). Call under jit.

        Raises:
          ValueError: the batch lacks the cameras that the model needs.
        """
        inputs.check_pose_keys(batch, self.model.pose)
        source, target = (
            inputs.normalise_source(batch["source"][:1]),
            inputs.normalise_target(batch["target"][:1]),
        )
        sections = jnp.ones((1, self.model.denoiser.num_sections))
        variables = self.model.init(
            rngs.stream(self.root, "init", 0),
            source,
            batch["source_mask"][:1],
            target,
            jnp.ones((1,), jnp.int32),
            sections,
        )
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=self.optimizer.init(params),
            ema_params=params,
            ema_batch_stats=batch_stats,
            probe=self._init_probe(source),
        )

    def _init_probe(self, source: jax.Array) -> ProbeState | None:
        if self.probe is None:
            return None
        widths = {"pixels": source[0, 0].size, "latent": self._latent_width(source)}
        params, stats = {}, {}
        for name in self.probe.inputs:
            variables = self.probe.module.init(rngs.stream(self.root, "probe", 0), jnp.ones((1, widths[name])))
            params[name], stats[name] = variables["params"], variables["batch_stats"]
        return ProbeState(params, stats, self.probe.optimizer.init(params))

    def _latent_width(self, source: jax.Array) -> int:
        def latent(key: jax.Array) -> jax.Array:
            mask = jnp.ones(source.shape[:2], bool)
            return self.model.init_with_output(key, source, mask, method="encode")[0][1]["latent"]

        return jax.eval_shape(latent, self.root).shape[-1]

    def jit_step(self, state: TrainState, mesh: Mesh) -> Any:
        """`step`, compiled when first called, which keeps the placement of `state`, arrays or shapes, and takes it."""
        placement = jax.tree.map(lambda x: x.sharding, state)
        return jax.jit(
            self.step,
            donate_argnums=0,
            out_shardings=(placement, sharding.replicated(mesh)),
        )

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """One step on a global batch; returns the new state and scalar metrics (`grad_norms` is a vector)."""
        grads, batch_stats, probe_stats, metrics = self.gradients(state, batch)
        model_grads, probe_grads = grads
        with jax.named_scope("optimizer"):
            updates, opt_state = self.optimizer.update(model_grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        probe = state.probe
        if probe is not None:
            with jax.named_scope("probe_optimizer"):
                probe_updates, probe_opt = self.probe.optimizer.update(probe_grads, probe.opt_state, probe.params)
                probe = ProbeState(optax.apply_updates(probe.params, probe_updates), probe_stats, probe_opt)
        with jax.named_scope("gradient_norms"):
            metrics["grad_norm"] = optax.global_norm(model_grads)
            for name, subtree in model_grads.items():
                metrics[f"grad_norm/{name}"] = optax.global_norm(subtree)
            metrics["grad_norms"] = jnp.stack(list(module_norms(model_grads).values()))
        with jax.named_scope("ema"):
            decay = ema_decay_at(state.step, self.ema_decay, self.ema_warmup)
            ema_params = ema_update(state.ema_params, params, decay)
            ema_batch_stats = ema_update(state.ema_batch_stats, batch_stats, decay)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=ema_params,
            ema_batch_stats=ema_batch_stats,
            probe=probe,
        )
        return new_state, metrics

    def gradients(self, state: TrainState, batch: Batch) -> tuple[Any, Any, Any, dict[str, jax.Array]]:
        """(gradients of model and probe, batch statistics of each, metrics): means over the microbatches, in a scan."""
        trained = (state.params, None if state.probe is None else state.probe.params)
        if self.mesh is not None:
            # Once a step, not once a microbatch; only the gradients' sum is kept, each device's part of it.
            trained = sharding.gather(trained, self.mesh)
        grad_fn = jax.value_and_grad(self._loss, has_aux=True)
        stats = (state.batch_stats, None if state.probe is None else state.probe.batch_stats)

        def one(stats: Any, microbatch: Batch) -> tuple[Any, Any]:
            (_, (new_stats, metrics)), grads = grad_fn(trained, *stats, microbatch, state.step)
            if self.mesh is not None:
                grads = sharding.scatter(grads, self.mesh)
            return new_stats, (grads, metrics)

        if self.microbatches == 1:
            stats, (grads, metrics) = one(stats, batch)
            return grads, *stats, metrics
        count = self.microbatches
        split = {
            key: jnp.moveaxis(value.reshape(value.shape[0] // count, count, *value.shape[1:]), 1, 0)
            for key, value in batch.items()
        }
        shapes = jax.eval_shape(one, stats, jax.tree.map(lambda x: x[0], split))[1]
        total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def accumulate(carry: Any, microbatch: Batch) -> tuple[Any, None]:
            stats, total = carry
            stats, result = one(stats, microbatch)
            return (stats, jax.tree.map(jnp.add, total, result)), None

        (stats, total), _ = jax.lax.scan(accumulate, (stats, total), split)
        grads, metrics = jax.tree.map(lambda x: x / count, total)
        return grads, *stats, metrics

    def _loss(
        self, trained: Any, batch_stats: Any, probe_stats: Any, batch: Batch, step: jax.Array
    ) -> tuple[jax.Array, Any]:
        params, probe_params = trained
        ids = batch["id"]

        def draw(name: str, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
            with jax.named_scope(f"draw_{name}"):
                return rngs.per_example(rngs.stream(self.root, name, step), ids, function)

        variables = {"params": params, "batch_stats": batch_stats}
        source = inputs.normalise_source(batch["source"])
        if self.source_noise > 0:
            source += self.source_noise * draw("source_noise", lambda k: jax.random.normal(k, source.shape[1:]))
        source_conditions, target_conditions = self._cameras(batch, draw)
        (z, out), updated = self.model.apply(
            variables,
            source,
            batch["source_mask"],
            ids,
            **source_conditions,
            method="encode",
            mutable=["batch_stats"],
            rngs={"dropout": rngs.stream(self.root, "encoder_dropout", step)},
        )
        x_0 = inputs.normalise_target(batch["target"])
        steps = self.diffusion.num_steps
        t = draw("timestep", lambda k: jax.random.randint(k, (), 1, steps + 1))
        eps = draw("noise", lambda k: jax.random.normal(k, x_0.shape[1:]))
        predicted, _ = self.model.apply(
            variables,
            self.diffusion.q_sample(x_0, t, eps),
            t,
            z,
            self._section_mask(draw),
            ids,
            **target_conditions,
            method="denoise",
            rngs={"dropout": rngs.stream(self.root, "denoiser_dropout", step)},
        )
        with jax.named_scope("loss"):
            loss = jnp.mean(jnp.square(predicted - self.diffusion.target(x_0, t, eps)))
        metrics = {"loss": loss}
        probe_total = jnp.zeros(())
        if self.probe is not None:
            features = {"latent": out["latent"], "pixels": source[:, 0]}
            with jax.named_scope("probe"):
                found = self._probe_loss(probe_params, probe_stats, features, batch, step)
            probe_total, probe_stats, probe_metrics = found
            metrics |= probe_metrics
        return loss + probe_total, ((updated.get("batch_stats", {}), probe_stats), metrics)

    def _cameras(self, batch: Batch, draw: Callable[..., jax.Array]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(arguments of `encode`, arguments of `denoise`): cameras and which of them are shown; none without poses."""
        pose = self.model.pose
        if pose is None:
            return {}, {}
        keep_rate, views = 1 - self.pose_mask_rate, batch["source"].shape[1:2]
        of_sources = draw("source_pose_mask", lambda k: jax.random.bernoulli(k, keep_rate, views))
        of_target = draw("pose_mask", lambda k: jax.random.bernoulli(k, keep_rate))
        batch = batch | {"source_pose_mask": of_sources}
        return (
            {"source_camera": inputs.source_camera(batch, pose), "source_pose_mask": of_sources},
            {"target_camera": inputs.target_camera(batch, pose), "pose_mask": of_target},
        )

    def _section_mask(self, draw: Callable[..., jax.Array]) -> jax.Array:
        """Which sections the denoiser sees, [B, sections]: whole latents and, for `layer`, sections are dropped."""
        sections = self.model.denoiser.num_sections
        keep_latent = draw("latent_mask", lambda k: jax.random.bernoulli(k, 1 - self.latent_mask_rate, (1,)))
        if self.model.denoiser.modulation != "layer":
            return jnp.broadcast_to(keep_latent, (keep_latent.shape[0], sections))
        keep = draw("layer_mask", lambda k: jax.random.bernoulli(k, 1 - self.layer_mask_rate, (sections,)))
        return keep & keep_latent

    def _probe_loss(
        self, params: Any, stats: Any, features: dict[str, jax.Array], batch: Batch, step: jax.Array
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Losses of the probes; the stop-gradient keeps them out of the encoder."""
        task, ids = self.probe, batch["id"]
        labels = probe_labels(batch, task.kind)
        total, new_stats, metrics = jnp.zeros(()), {}, {}
        for name in task.inputs:
            x = jax.lax.stop_gradient(features[name]).reshape(ids.shape[0], -1).astype(jnp.float32)
            logits, updated = task.module.apply(
                {"params": params[name], "batch_stats": stats[name]},
                x,
                ids,
                mutable=["batch_stats"],
                rngs={"dropout": rngs.stream(self.root, f"probe_dropout_{name}", step)},
            )
            new_stats[name] = updated["batch_stats"]
            loss = probe_loss(logits, labels, task.label_smoothing).mean()
            total += loss
            prefix = "probe" if name == "latent" else f"probe_{name}"
            metrics[f"{prefix}/loss"] = loss
            metrics[f"{prefix}/accuracy"] = probe_hits(logits, labels).mean()
        return total, new_stats, metrics


def module_norms(grads: Any) -> dict[str, jax.Array]:
    """Gradient norms by module: the model's parts and their direct children, e.g. `encoder/stem`."""
    norms = {}
    for part, children in grads.items():
        for child, subtree in children.items():
            norms[f"{part}/{child}"] = optax.global_norm(subtree)
    return norms


def module_names(params: Any) -> list[str]:
    """Names of `module_norms`, in its order."""
    return [f"{part}/{child}" for part, children in params.items() for child in children]
