"""The online probe: linear classifiers of features, trained in tandem behind a stop-gradient (SODA E.1)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from soda_jax.models.probe import LinearProbe, probe_hits, probe_labels, probe_loss
from soda_jax.objectives.state import ProbeState
from soda_jax.rngs import Draws

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ProbeTask:
    """What probes predict.

    Attributes:
      kind: the batch's key, "label", "attributes" or "factors".
      sizes, names: number of classes and name of each label.
    """

    kind: str
    sizes: tuple[int, ...]
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OnlineProbe:
    """Classifiers of the latent and, as a baseline, of the source's pixels.

    Attributes:
      task: what they predict.
      module, optimizer, label_smoothing: how.
      raw_pixels: whether there is one of the pixels.
    """

    task: ProbeTask
    module: LinearProbe
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    raw_pixels: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The features that are read, by their names in `Loss.features`."""
        return ("latent", "pixels") if self.raw_pixels else ("latent",)

    def init(self, key: jax.Array, features: dict[str, jax.ShapeDtypeStruct]) -> ProbeState:
        """The first state, for features of these shapes."""
        params, stats = {}, {}
        for name in self.inputs:
            width = features[name].size // features[name].shape[0]
            variables = self.module.init(key, jnp.ones((1, width)))
            params[name], stats[name] = variables["params"], variables["batch_stats"]
        return ProbeState(params, stats, self.optimizer.init(params))

    def loss(
        self, params: Any, stats: Any, features: dict[str, jax.Array], batch: Batch, draw: Draws
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """(the probes' summed losses, new statistics, metrics); the stop-gradient keeps them out of the encoder."""
        labels = probe_labels(batch, self.task.kind)
        total, new_stats, metrics = jnp.zeros(()), {}, {}
        for name in self.inputs:
            x = rearrange(jax.lax.stop_gradient(features[name]), "b ... -> b (...)").astype(jnp.float32)
            logits, updated = self.module.apply(
                {"params": params[name], "batch_stats": stats[name]},
                x,
                draw.ids,
                mutable=["batch_stats"],
                rngs={"dropout": draw.stream(f"probe_dropout_{name}")},
            )
            new_stats[name] = updated["batch_stats"]
            loss = probe_loss(logits, labels, self.label_smoothing).mean()
            total += loss
            prefix = "probe" if name == "latent" else f"probe_{name}"
            metrics[f"{prefix}/loss"] = loss
            metrics[f"{prefix}/accuracy"] = probe_hits(logits, labels).mean()
        return total, new_stats, metrics

    def hits(self, state: ProbeState, features: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """Whether each prediction is right, bool [B, labels] by what is read."""
        labels = probe_labels(batch, self.task.kind)
        found = {}
        for name in self.inputs:
            variables = {"params": state.params[name], "batch_stats": state.batch_stats[name]}
            logits = self.module.apply(variables, rearrange(features[name], "b ... -> b (...)"))
            found[name] = probe_hits(logits, labels)
        return found
