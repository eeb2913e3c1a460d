"""The training state: everything that a step changes."""

from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class ProbeState:
    """Online probes by the name of what they read ("latent", "pixels"): parameters, BatchNorm statistics, optimiser."""

    params: Any
    batch_stats: Any
    opt_state: Any


@flax.struct.dataclass
class AdversaryState:
    """What an objective trains against its model: parameters and optimiser."""

    params: Any
    opt_state: Any


@flax.struct.dataclass
class TrainState:
    """State of a run after `step` steps.

    Attributes:
      step: int32 scalar.
      params: the parameters that the optimiser moves (`encoder`, `denoiser`, and `aggregator` where it has any).
      batch_stats: running BatchNorm statistics of the encoder.
      opt_state: optimiser's state.
      ema_params, ema_batch_stats: exponential moving averages; what evaluation, sampling and users get. Frozen
        parameters stand here alone, as they are.
      probe: online probes, or None.
      adversary: of an objective that has one, or None; a checkpoint without it has no such item.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    ema_batch_stats: Any
    probe: ProbeState | None
    adversary: AdversaryState | None = None

    @property
    def ema_variables(self) -> dict[str, Any]:
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def ema_decay_at(step: jax.Array, decay: float, warmup: bool) -> jax.Array:
    """Decay of the average at `step`; the warm-up keeps the average over a tenth of a short run's steps."""
    decay = jnp.float32(decay)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else decay


def ema_update(average: Any, new: Any, decay: jax.Array) -> Any:
    """decay * average + (1 - decay) * new, leaf by leaf."""
    return jax.tree.map(lambda a, n: a + (1.0 - decay) * (n - a), average, new)
