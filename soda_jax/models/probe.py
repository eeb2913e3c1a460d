"""Linear probe on the latent (SODA Appendix E.1): parameter-free BatchNorm, dropout, one softmax head a target."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from soda_jax.models.layers import Dropout


class LinearProbe(nn.Module):
    """Linear classifier of several targets.

    Attributes:
      sizes: number of classes of each target; a binary attribute is a target of two.
      dropout: rate on the normalised features.
      init_scale: standard deviation of the initial weights.
      bias_init: initial bias (-10 for ImageNet).
    """

    sizes: tuple[int, ...]
    dropout: float = 0.1
    init_scale: float = 0.02
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, features: jax.Array, train_ids: jax.Array | None = None) -> list[jax.Array]:
        """Maps features [B, d] to one array of logits [B, size] for each target."""
        norm = nn.BatchNorm(
            use_running_average=train_ids is None,
            momentum=0.99,
            use_scale=False,
            use_bias=False,
            name="norm",
        )
        x = Dropout(self.dropout, name="dropout")(norm(features), train_ids)
        logits = nn.Dense(
            sum(self.sizes),
            kernel_init=nn.initializers.normal(self.init_scale),
            bias_init=nn.initializers.constant(self.bias_init),
            name="head",
        )(x)
        bounds = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        return jnp.split(logits, bounds, axis=-1)


def probe_loss(logits: list[jax.Array], targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy averaged over the heads, [B].

    Args:
      logits: for each head [B, size].
      targets: int [B, heads].
      label_smoothing: share of the target mass spread evenly.
    """
    losses = []
    for head, head_logits in enumerate(logits):
        labels = optax.smooth_labels(jax.nn.one_hot(targets[:, head], head_logits.shape[-1]), label_smoothing)
        losses.append(optax.softmax_cross_entropy(head_logits, labels))
    return jnp.stack(losses).mean(axis=0)


def probe_hits(logits: list[jax.Array], targets: jax.Array) -> jax.Array:
    """Whether each head's top class is right: bool [B, heads]."""
    return jnp.stack([head.argmax(axis=-1) == targets[:, i] for i, head in enumerate(logits)], axis=1)


def probe_targets(batch: dict[str, jax.Array], kind: str) -> jax.Array:
    """The targets [B, heads] of a batch, for kind "label", "attributes" or "factors"."""
    targets = batch[kind]
    return targets[:, None] if targets.ndim == 1 else targets
