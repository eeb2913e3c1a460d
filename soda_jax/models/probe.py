"""Linear probe on the latent (SODA Appendix E.1): parameter-free BatchNorm, dropout, one softmax head a label."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from soda_jax.models.layers import Dropout, batch_axes

_ABSENT = -1e30  # finite: the gradient of infinite logits is not a number


class LinearProbe(nn.Module):
    """Linear classifier of several labels.

    Attributes:
      sizes: number of classes of each label; a binary attribute is a label of two.
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
        """Maps features [B, d] to one array of logits [B, size] for each label."""
        # "un-parameterized batch normalization" (E.1): tracked mean and variance, no scale, no bias.
        norm = nn.BatchNorm(
            use_running_average=train_ids is None,
            momentum=0.99,
            use_scale=False,
            use_bias=False,
            axis_name=batch_axes(),
            name="norm",
        )
        x = Dropout(self.dropout, name="dropout")(norm(features), train_ids)
        # One product for all heads. Table 12's bias of -10 (ImageNet) is every class's, so the softmax ignores it.
        logits = nn.Dense(
            sum(self.sizes),
            kernel_init=nn.initializers.normal(self.init_scale),
            bias_init=nn.initializers.constant(self.bias_init),
            name="head",
        )(x)
        head_ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        return jnp.split(logits, head_ends, axis=-1)


def stack_heads(logits: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Logits of all heads side by side, [..., sum(sizes)], as [..., heads, max(sizes)].

    Classes that a head lacks get a logit far below all others, so that they take no probability.
    """
    heads, widest = len(sizes), max(sizes)
    if min(sizes) == widest:
        return rearrange(logits, "... (heads classes) -> ... heads classes", heads=heads)
    exists = np.arange(widest) < np.array(sizes)[:, None]
    first = np.cumsum((0, *sizes[:-1]))
    columns = np.where(exists, first[:, None] + np.arange(widest), 0)
    return jnp.where(exists, logits[..., columns], _ABSENT)


def head_losses(logits: jax.Array, labels: jax.Array, sizes: tuple[int, ...], label_smoothing: float) -> jax.Array:
    """Smoothed softmax cross-entropy of every head.

    Args:
      logits: [..., heads, C] of `stack_heads`.
      labels: int [..., heads], broadcast over the leading axes of `logits`.
      sizes: number of classes of each head.
      label_smoothing: share of the label mass spread evenly over a head's classes.

    Returns:
      [..., heads].
    """
    log_p = jax.nn.log_softmax(logits)
    labels = jnp.broadcast_to(labels, log_p.shape[:-1])
    # - log p(label): "softmax cross entropy" (E.1), a two-way softmax for a binary attribute.
    loss = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    if label_smoothing == 0:
        return loss
    sizes = np.array(sizes)
    exists = np.arange(log_p.shape[-1]) < sizes[:, None]
    # Smoothing s: the target is (1 - s) one-hot + s / C, over the classes that the head has (0.1 for ImageNet, E.1).
    uniform_loss = -jnp.where(exists, log_p, 0.0).sum(axis=-1) / sizes
    return (1 - label_smoothing) * loss + label_smoothing * uniform_loss


def probe_loss(logits: list[jax.Array], labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy averaged over the heads, [B].

    Args:
      logits: for each head [B, size].
      labels: int [B, heads].
      label_smoothing: share of the label mass spread evenly.
    """
    sizes = tuple(head.shape[-1] for head in logits)
    stacked = stack_heads(jnp.concatenate(logits, axis=-1), sizes)
    return head_losses(stacked, labels, sizes, label_smoothing).mean(axis=-1)


def probe_hits(logits: list[jax.Array], labels: jax.Array) -> jax.Array:
    """Whether each head's top class is right: bool [B, heads]."""
    return jnp.stack([head.argmax(axis=-1) == labels[:, i] for i, head in enumerate(logits)], axis=1)


def probe_labels(batch: dict[str, jax.Array], kind: str) -> jax.Array:
    """The labels [B, heads] of a batch, for kind "label", "attributes" or "factors"."""
    labels = batch[kind]
    return labels[:, None] if labels.ndim == 1 else labels
