"""Aggregation of several source views' latents into one (SODA section 3.3 "Cardinality", Table 12)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax import rngs
from soda_jax.models.layers import Dtype, TransformerBlock


def masked_mean(z: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `z` [B, n, d] over the views that `mask` [B, n] marks as present; zeros where none is."""
    # A step of training shows all examples as many sources; what users encode may have different numbers of them.
    weights = mask.astype(z.dtype)[..., None]
    return (z * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1.0)


class MeanAggregator(nn.Module):
    """z = mean of the present views' latents."""

    @nn.compact
    def __call__(self, z: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps latents [B, n, d] and presence [B, n] (bool) to [B, d]."""
        return masked_mean(z, mask)


class TransformerAggregator(nn.Module):
    """A shallow transformer over the set of latents, then the mean of its outputs (depth 2, 4 heads, MLP x4).

    No position is added: the result does not depend on the order of the views.
    """

    depth: int = 2
    num_heads: int = 4
    mlp_multiplier: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps latents [B, n, d] and presence [B, n] (bool) to [B, d]."""
        mask = mask.astype(bool)
        # Absent views are hidden from attention here and from the mean below, so padding changes nothing. A row without
        # any present view would have a softmax over nothing; it attends to its zeros instead.
        token_mask = mask | ~mask.any(axis=1, keepdims=True)
        x = jnp.where(mask[..., None], z, 0.0)
        for index in range(self.depth):
            block = TransformerBlock(self.num_heads, self.mlp_multiplier, dtype=self.dtype, name=f"block{index + 1}")
            x = block(x, token_mask=token_mask)
        return masked_mean(nn.LayerNorm(dtype=self.dtype, name="norm_final")(x).astype(jnp.float32), mask)


class StochasticAggregator(nn.Module):
    """Stochastic conditioning (3DiM; Table 5): training sees one random source, sampling one at random each step.

    So all latents are kept, [B, n, d], an absent source's as zeros, by which `pick_present` knows it.
    """

    def choose(self, mask: jax.Array, train_ids: jax.Array) -> jax.Array:
        """A present source of each example at random, int [B], by presence [B, n] and ids [B]."""
        shape = mask.shape[1:]
        draws = rngs.per_example(self.make_rng("dropout"), train_ids, lambda key: jax.random.uniform(key, shape))
        # The largest of uniform draws is any of the present ones with equal probability; -1 lies below every draw.
        return jnp.where(mask, draws, -1.0).argmax(axis=1)

    def __call__(self, z: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps latents [B, n, d] and presence [B, n] (bool) to [B, n, d] with zeros for absent sources."""
        return jnp.where(mask.astype(bool)[..., None], z, 0.0)


def pick_present(z: jax.Array, draws: jax.Array) -> jax.Array:
    """One latent of each example, [B, d]: the present one of z [B, n, d] with the largest of `draws` [B, n], in [0, 1).

    Latents of zeros only are absent; where all are, zeros come out.
    """
    present = (z != 0).any(axis=-1)
    return take_source(z, jnp.where(present, draws, -1.0).argmax(axis=1))


def take_source(tree: Any, choice: jax.Array) -> Any:
    """Of every array [B, n, ...] in `tree` the source `choice` [B] of each example, [B, ...].

    Each example is indexed by itself. One index of the whole array, over examples and sources, would make devices
    exchange images, as the compiler could not tell that each needs its own alone.
    """
    return jax.tree.map(lambda x: jax.vmap(lambda views, i: views[i])(jnp.asarray(x), choice), tree)
