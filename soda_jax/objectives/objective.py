"""What every objective offers, and the part that all those with an encoder share."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn
import jax
import optax
from flax import traverse_util

from soda_jax import inputs
from soda_jax.models.encoding import EncodingModel
from soda_jax.rngs import Draws

Batch = dict[str, jax.Array]
Variables = dict[str, Any]


# The roles of parameters. Main ones are optimised. Frozen ones are neither optimised nor decayed nor averaged. Those of
# an adversary minimise a loss of their own, by an optimiser of their own, and are not averaged.
MAIN, FROZEN, ADVERSARY = "main", "frozen", "adversary"


class Loss(NamedTuple):
    """What an objective finds on a batch. Training minimises `per_example.mean() + whole`, and `adversary` apart.

    Under gradient accumulation each microbatch is such a batch, and the gradients' mean is taken. A mean over examples
    is then exactly that of the whole batch. `whole` and `adversary` are not: each is the mean of what the microbatches
    give by themselves, since a covariance or a permutation within a part of the batch is another one than within all.

    Attributes:
      per_example: float32 [B]; training minimises the mean, an evaluation averages the examples that are real.
      features: what probes read, by name, [B, ...]: the latent, and the pixels that it was made of. Empty where the
        model has no latent.
      batch_stats: the model's running statistics after the batch; in evaluation those that came in.
      whole: a term of the batch as a whole, a scalar; None without one. Only of an objective with `whole_batch`.
        Evaluations leave it out: their batches have padding, and a sum over batches would not be the split's.
      adversary: the adversary's loss, a scalar; None without an adversary. Only of an objective with `whole_batch`; it
        stops this gradient at all but the adversary's parameters, and that of the other terms at these.
      metrics: further scalars for the log of training, means over the batch.
    """

    per_example: jax.Array
    features: dict[str, jax.Array]
    batch_stats: Any
    whole: jax.Array | None = None
    adversary: jax.Array | None = None
    metrics: dict[str, jax.Array] = {}


class Objective(Protocol):
    """What is optimised: a model, and the loss of a batch (keys as `soda_jax.data` lists them).

    Training and the evaluation within training call the same `loss`.

    Attributes:
      model: that is trained. An adversary is no part of it, and users of the model never see it.
      roles: `FROZEN` or `ADVERSARY` by the path of the parameters, a part ("discriminator") or what lies within one
        ("encoder/tower"); all other parameters are `MAIN`.
      adversary_optimizer: of the parameters of role `ADVERSARY`; None where there are none.
      whole_batch: whether `loss` must see all examples of a batch at once, as `Loss.whole` and `Loss.adversary` do.
        Without it each device computes the mean over its own examples, and the mean of these is taken once a step.
    """

    model: nn.Module
    roles: ClassVar[Mapping[str, str]] = MappingProxyType({})
    adversary_optimizer: optax.GradientTransformation | None = None
    whole_batch: bool = False

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """The first `params`, of every role, and `batch_stats`, from a batch of any size, whose values do not matter.

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


def by_role(params: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of each role, {MAIN: tree, FROZEN: tree, ADVERSARY: tree}, as `Objective.roles` assigns them."""
    if not roles:
        return {MAIN: params, FROZEN: {}, ADVERSARY: {}}
    found: dict[str, dict[tuple[str, ...], Any]] = {MAIN: {}, FROZEN: {}, ADVERSARY: {}}
    for path, leaf in traverse_util.flatten_dict(params).items():
        place = "/".join(path) + "/"
        role = next((role for prefix, role in roles.items() if place.startswith(f"{prefix}/")), MAIN)
        found[role][path] = leaf
    return {role: traverse_util.unflatten_dict(leaves) for role, leaves in found.items()}


def merged(*trees: Mapping[str, Any]) -> Any:
    """The inverse of `by_role`: one tree of trees that have no leaf in common."""
    trees = tuple(tree for tree in trees if tree)
    if len(trees) == 1:
        return trees[0]
    flat: dict[tuple[str, ...], Any] = {}
    for tree in trees:
        flat |= traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(flat)


def initial_variables(model: nn.Module, key: jax.Array, batch: Batch) -> Variables:
    """`Objective.init` of a model that makes a target of its sources."""
    inputs.check_pose_keys(batch, model.pose)
    source, target = inputs.normalise_source(batch["source"][:1]), inputs.normalise_target(batch["target"][:1])
    variables = model.init(key, source, batch["source_mask"][:1], target)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def sources(batch: Batch, draw: Draws, train: bool, source_noise: float) -> jax.Array:
    """The normalised sources [B, n, h, w, 3], in training with Gaussian noise of standard deviation `source_noise`
    (Table 10)."""
    source = inputs.normalise_source(batch["source"])
    if train and source_noise > 0:
        source += source_noise * draw("source_noise", lambda key: jax.random.normal(key, source.shape[1:]))
    return source


def encode_sources(
    model: EncodingModel, variables: Variables, batch: Batch, draw: Draws, train: bool, *, source_noise: float
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """z = E(x') (section 3.2): (z, features, batch_stats), the latter two as `Loss` has them.

    Args:
      source_noise: std of the Gaussian noise on the normalised sources, in training only (Table 10).
    """
    z, out, pixels, batch_stats = run_encoder(model, variables, batch, draw, train, source_noise=source_noise)
    return z, {"latent": out["latent"], "pixels": pixels}, batch_stats


def run_encoder(
    model: EncodingModel, variables: Variables, batch: Batch, draw: Draws, train: bool, *, source_noise: float
) -> tuple[jax.Array, dict[str, Any], jax.Array, Any]:
    """As `encode_sources`: (z, what `encode` names, the first source's pixels as it saw them, batch_stats)."""
    source = sources(batch, draw, train, source_noise)
    conditions = inputs.source_conditions(batch, model.pose)
    if not train:
        z, out = model.apply(variables, source, batch["source_mask"], **conditions, method="encode")
        return z, out, source[:, 0], variables["batch_stats"]
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
    return z, out, source[:, 0], updated.get("batch_stats", {})
