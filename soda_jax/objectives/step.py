"""One training step as pure functions: gradients over microbatches, optimiser, EMA and the online probe.

It knows no model: an `Objective` says what the loss of a batch is, and which parameters are frozen or an adversary's.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh, PartitionSpec

from soda_jax import rngs
from soda_jax.objectives import norms
from soda_jax.objectives.objective import ADVERSARY, FROZEN, MAIN, Batch, Objective, Variables, by_role, merged
from soda_jax.objectives.probe import OnlineProbe
from soda_jax.objectives.state import AdversaryState, ProbeState, TrainState, ema_decay_at, ema_update
from soda_jax.parallel import exchange, sharding


class Trained(NamedTuple):
    """What a step moves, or its gradients: the model's parameters, the probes' and the adversary's (None without)."""

    params: Any
    probe: Any
    adversary: Any


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The constants of a run's training step.

    Attributes:
      objective: what is optimised.
      root: the run's random key.
      microbatches: N; each holds every N-th example, so that a sharded batch splits without moving.
      ema_decay, ema_warmup: see `ema_decay_at`.
      probe: the online probe, or None.
      devices: that split the batch between them, and maybe the state (`sharding.state_sharding`); None for one.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    root: jax.Array
    microbatches: int = 1
    ema_decay: float = 0.9999
    ema_warmup: bool = True
    probe: OnlineProbe | None = None
    devices: Mesh | None = None

    @property
    def state_mesh(self) -> Mesh | None:
        """The devices, where they split the state between them; None where each holds all of it."""
        return self.devices if self.devices is not None and sharding.fsdp_size(self.devices) > 1 else None

    def init(self, batch: Batch) -> TrainState:
        """The initial state, from a batch of any size (its values do not matter). Call under jit.

        Raises:
          ValueError: the batch lacks what the objective's model needs.
        """
        variables = self.objective.init(rngs.stream(self.root, "init", 0), batch)
        roles, batch_stats = by_role(variables["params"], self.objective.roles), variables["batch_stats"]
        params, adversary = roles[MAIN], roles[ADVERSARY]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=self.optimizer.init(params),
            ema_params=merged(params, roles[FROZEN]),
            ema_batch_stats=batch_stats,
            probe=self._init_probe(variables, batch),
            adversary=AdversaryState(adversary, self.objective.adversary_optimizer.init(adversary))
            if adversary
            else None,
        )

    def _init_probe(self, variables: Any, batch: Batch) -> ProbeState | None:
        if self.probe is None:
            return None
        draw = rngs.Draws(self.root, 0, batch["id"])
        features = jax.eval_shape(lambda: self.objective.loss(variables, batch, draw, train=False).features)
        return self.probe.init(rngs.stream(self.root, "probe", 0), features)

    def jit_step(self, state: TrainState, mesh: Mesh) -> Any:
        """`step`, compiled when first called, which keeps the placement of `state`, arrays or shapes, and takes it."""
        placement = jax.tree.map(lambda x: x.sharding, state)
        return jax.jit(self.step, donate_argnums=0, out_shardings=(placement, sharding.replicated(mesh)))

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """One step on a global batch; returns the new state and scalar metrics (`grad_norms` is a vector)."""
        grads, batch_stats, probe_stats, metrics = self.gradients(state, batch)
        model_grads, probe_grads, _ = grads
        moved = self.apply(state, grads).replace(batch_stats=batch_stats)
        probe = state.probe
        if probe is not None:
            with jax.named_scope("probe_optimizer"):
                probe_updates, probe_opt = self.probe.optimizer.update(probe_grads, probe.opt_state, probe.params)
                probe = ProbeState(optax.apply_updates(probe.params, probe_updates), probe_stats, probe_opt)
        with jax.named_scope("gradient_norms"):
            metrics |= norms.gradient_norms(model_grads)
        with jax.named_scope("ema"):
            decay = ema_decay_at(state.step, self.ema_decay, self.ema_warmup)
            averaged = by_role(state.ema_params, self.objective.roles)
            ema_params = merged(ema_update(averaged[MAIN], moved.params, decay), averaged[FROZEN])
            ema_batch_stats = ema_update(state.ema_batch_stats, batch_stats, decay)
        return moved.replace(ema_params=ema_params, ema_batch_stats=ema_batch_stats, probe=probe), metrics

    def apply(self, state: TrainState, grads: Trained) -> TrainState:
        """The state one step on, with the model's and the adversary's parameters moved and all else as it was."""
        with jax.named_scope("optimizer"):
            updates, opt_state = self.optimizer.update(grads.params, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        adversary = state.adversary
        if adversary is not None:
            with jax.named_scope("adversary_optimizer"):
                updates, adversary_opt = self.objective.adversary_optimizer.update(
                    grads.adversary, adversary.opt_state, adversary.params
                )
                adversary = AdversaryState(optax.apply_updates(adversary.params, updates), adversary_opt)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, adversary=adversary)

    def frozen(self, state: TrainState) -> Any:
        """The parameters that no step moves; {} without any."""
        return by_role(state.ema_params, self.objective.roles)[FROZEN]

    def gradients(self, state: TrainState, batch: Batch) -> tuple[Trained, Any, Any, dict[str, jax.Array]]:
        """(gradients, batch statistics of model and probe, metrics): means over the microbatches."""
        trained = Trained(
            state.params,
            None if state.probe is None else state.probe.params,
            None if state.adversary is None else state.adversary.params,
        )
        held = trained, self.frozen(state)
        stats = (state.batch_stats, None if state.probe is None else state.probe.batch_stats)
        apart = self.devices is not None and self.devices.size > 1 and not self.objective.whole_batch
        if not apart and self.state_mesh is not None:
            # Once a step, not once a microbatch; only the gradients' sum is kept, each device's part of it.
            held = sharding.gather(held, self.state_mesh)
        accumulated = self._accumulated_apart if apart else self._accumulated
        grads, stats, metrics = accumulated(held, stats, batch, state.step)
        if not apart and self.state_mesh is None:
            grads = norms.in_rows(grads)
        return grads, *stats, metrics

    def _accumulated_apart(self, held: Any, stats: Any, batch: Batch, step: jax.Array) -> tuple[Trained, Any, Any]:
        """`_accumulated` on each device by itself; what it found is exchanged once.

        A device's microbatch is its part of the batch's, since both hold every N-th example.
        """
        mesh, whole = self.devices, PartitionSpec()
        specs = sharding.state_specs(held, mesh)

        def on_device(parts: Any, stats: Any, batch: Batch, step: jax.Array) -> tuple[Trained, Any, Any]:
            with jax.named_scope("gather_parameters"):
                held = exchange.gather(parts, specs)
            grads, stats, metrics = self._accumulated(held, stats, batch, step)
            with jax.named_scope("reduce_gradients"):
                grads = exchange.mean(norms.in_rows(grads), specs[0], mesh)
                return grads, stats, jax.lax.pmean(metrics, mesh.axis_names)

        in_specs = (specs, whole, sharding.batch_sharding(mesh).spec, whole)
        return exchange.on_each_device(on_device, mesh, in_specs, (specs[0], whole, whole))(held, stats, batch, step)

    def _accumulated(self, held: Any, stats: Any, batch: Batch, step: jax.Array) -> tuple[Trained, Any, Any]:
        """(gradients, statistics, metrics): means over the microbatches, in a scan, of (trained, frozen) parameters."""
        grad_fn = jax.value_and_grad(self._loss, has_aux=True)

        def of_microbatch(stats: Any, microbatch: Batch) -> tuple[Any, Any]:
            (_, (new_stats, metrics)), grads = grad_fn(*held, *stats, microbatch, step)
            if self.objective.whole_batch and self.state_mesh is not None:
                grads = sharding.scatter(grads, self.state_mesh)
            return new_stats, (grads, metrics)

        if self.microbatches == 1:
            stats, (grads, metrics) = of_microbatch(stats, batch)
            return grads, stats, metrics
        count = self.microbatches
        split = {key: rearrange(value, "(b n) ... -> n b ...", n=count) for key, value in batch.items()}
        shapes = jax.eval_shape(of_microbatch, stats, jax.tree.map(lambda x: x[0], split))[1]
        total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def accumulate(carry: Any, microbatch: Batch) -> tuple[Any, None]:
            stats, total = carry
            stats, result = of_microbatch(stats, microbatch)
            return (stats, jax.tree.map(jnp.add, total, result)), None

        (stats, total), _ = jax.lax.scan(accumulate, (stats, total), split)
        grads, metrics = jax.tree.map(lambda x: x / count, total)
        return grads, stats, metrics

    def _loss(
        self, trained: Trained, frozen: Any, batch_stats: Any, probe_stats: Any, batch: Batch, step: jax.Array
    ) -> tuple[jax.Array, Any]:
        """What is differentiated: the objective's loss and, behind stop-gradients, the probes' and the adversary's.

        Raises:
          ValueError: the objective gives a term of the whole batch without saying so.
        """
        draw = rngs.Draws(self.root, step, batch["id"])
        params = merged(trained.params, frozen, trained.adversary)
        found = self.objective.loss({"params": params, "batch_stats": batch_stats}, batch, draw, train=True)
        if not self.objective.whole_batch and (found.whole is not None or found.adversary is not None):
            name = type(self.objective).__name__
            raise ValueError(f"{name} gives Loss.whole or Loss.adversary, which need {name}.whole_batch=True")
        total = found.per_example.mean()
        if found.whole is not None:
            total += found.whole
        metrics = {"loss": total} | found.metrics
        if self.probe is not None:
            with jax.named_scope("probe"):
                probe_total, probe_stats, probe_metrics = self.probe.loss(
                    trained.probe, probe_stats, found.features, batch, draw
                )
            total += probe_total
            metrics |= probe_metrics
        if found.adversary is not None:
            total += found.adversary
            metrics["adversary/loss"] = found.adversary
        return total, ((found.batch_stats, probe_stats), metrics)

    def evaluate(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the real examples of an evaluation's batch, with the averaged weights.

        Timestep and noise are fixed by the example's place in the split.

        Returns:
          `count`, `loss`, and the right predictions of each label, int [labels], by what the probe reads.
        """
        mask = batch["mask"]
        draw = rngs.Draws(self.root, 0, batch["index"], prefix="eval_")
        found = self.objective.loss(self._averages(state), batch, draw, train=False)
        sums = {"count": mask.sum(), "loss": jnp.sum(found.per_example * mask)}
        if self.probe is None:
            return sums
        hits = self.probe.hits(state.probe, found.features, batch)
        return sums | {name: jnp.sum(right & mask[:, None], axis=0) for name, right in hits.items()}

    @staticmethod
    def _averages(state: TrainState) -> Variables:
        """What an evaluation computes with: the averaged weights, and the adversary as it is."""
        variables = state.ema_variables
        if state.adversary is None:
            return variables
        return variables | {"params": merged(variables["params"], state.adversary.params)}
