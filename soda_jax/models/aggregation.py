"""Aggregation of several source views' latents into one (SODA section 3.3 "Cardinality", Table 12)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax.models.layers import Dtype, TransformerBlock


def masked_mean(z: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `z` [B, n, d] over the views that `mask` [B, n] marks as present; zeros where none is."""
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
        # A row without any present view would soften over nothing; it attends to its zeros instead.
        attend = mask | ~mask.any(axis=1, keepdims=True)
        x = jnp.where(mask[..., None], z, 0.0)
        for index in range(self.depth):
            block = TransformerBlock(self.num_heads, self.mlp_multiplier, dtype=self.dtype, name=f"block{index + 1}")
            x = block(x, token_mask=attend)
        return masked_mean(nn.LayerNorm(dtype=self.dtype, name="norm_final")(x).astype(jnp.float32), mask)
