"""What every objective offers, and the part that all those with an encoder share."""

from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax

from soda_jax import inputs
from soda_jax.models.encoding import EncodingModel
from soda_jax.rngs import Draws

Batch = dict[str, jax.Array]
Variables = dict[str, Any]


class Loss(NamedTuple):
    """What an objective finds on a batch.

    Attributes:
      per_example: float32 [B]; training minimises the mean, an evaluation averages the examples that are real.
      features: what probes read, by name, [B, ...]: the latent, and the pixels that it was made of.
      batch_stats: the model's running statistics after the batch; in evaluation those that came in.
    """

    per_example: jax.Array
    features: dict[str, jax.Array]
    batch_stats: Any


class Objective(Protocol):
    """What is optimised: a model, and the loss of a batch (keys as `soda_jax.data` lists them).

    Training and the evaluation within training call the same `loss`.
    """

    model: nn.Module

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """The model's first `params` and `batch_stats`, from a batch of any size, whose values do not matter.

        Raises:
          ValueError: the batch lacks what the model needs.
        """
        ...

    def loss(self, variables: Variables, batch: Batch, draw: Draws, train: bool) -> Loss:
        """The loss of a batch.

        Args:
          draw: the batch's random numbers.
          train: with dropout, masking and source noise, as training sees the batch; without, as an evaluation does.
        """
        ...


def initial_variables(model: EncodingModel, key: jax.Array, batch: Batch) -> Variables:
    """`Objective.init` of a model that makes a target of its sources."""
    inputs.check_pose_keys(batch, model.pose)
    source, target = inputs.normalise_source(batch["source"][:1]), inputs.normalise_target(batch["target"][:1])
    variables = model.init(key, source, batch["source_mask"][:1], target)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def encode_sources(
    model: EncodingModel, variables: Variables, batch: Batch, draw: Draws, train: bool, *, source_noise: float
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """z = E(x') (section 3.2).

    Args:
      source_noise: std of the Gaussian noise on the normalised sources, in training only (Table 10).

    Returns:
      (z, features, batch_stats), the latter two as `Loss` has them.
    """
    source = inputs.normalise_source(batch["source"])
    conditions = inputs.source_conditions(batch, model.pose)
    if not train:
        z, out = model.apply(variables, source, batch["source_mask"], **conditions, method="encode")
        return z, {"latent": out["latent"], "pixels": source[:, 0]}, variables["batch_stats"]
    if source_noise > 0:
        source += source_noise * draw("source_noise", lambda key: jax.random.normal(key, source.shape[1:]))
    (z, out), updated = model.apply(
        variables,
        source,
        batch["source_mask"],
        draw.ids,
        **conditions,
        method="encode",
        mutable=["batch_stats"],
        rngs={"dropout": draw.stream("encoder_dropout")},
    )
    return z, {"latent": out["latent"], "pixels": source[:, 0]}, updated.get("batch_stats", {})
