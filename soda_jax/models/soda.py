"""SODA: encoder, bottleneck and denoiser as one module; no loss, no sampling (SODA section 3, Figure 2)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax.models.aggregation import masked_mean
from soda_jax.models.layers import Dropout


class SODA(nn.Module):
    """z = E(x'), eps = D(x_t, t, z).

    Attributes:
      encoder: maps images [B, h, w, 3] to (z, out).
      denoiser: a UNet.
      aggregator: maps latents [B, n, d] and presence [B, n] to [B, d].
      latent_dropout: dropout rate on z (the bottleneck's), in training.
      encoder_lr_multiplier: learning-rate equalisation (Appendix C "Learning Rates"): the encoder's parameters are
        stored divided by this and multiplied by it in the forward pass.
    """

    encoder: nn.Module
    denoiser: nn.Module
    aggregator: nn.Module
    latent_dropout: float = 0.1
    encoder_lr_multiplier: float = 1.0

    def setup(self) -> None:
        self.bottleneck_dropout = Dropout(self.latent_dropout)

    def __call__(
        self,
        source: jax.Array,
        source_mask: jax.Array,
        x_t: jax.Array,
        t: jax.Array,
        section_mask: jax.Array,
    ) -> jax.Array:
        """Encodes and denoises in evaluation mode; initialises every parameter. Returns eps."""
        z, _ = self.encode(source, source_mask)
        return self.denoise(x_t, t, z, section_mask)[0]

    def encode(
        self, source: jax.Array, source_mask: jax.Array, train_ids: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Encodes the source views.

        Args:
          source: [B, n, h, w, 3] ImageNet-normalised views.
          source_mask: [B, n] bool, the views that are present.
          train_ids: [B] ids in training, None in evaluation.

        Returns:
          (z, out): z as the denoiser takes it, the bottleneck's dropout applied; `out` holds the encoder's
          intermediates for the B * n views, `latent` [B, d] (aggregated, before dropout) and `pooled` [B, C].
        """
        batch, views = source.shape[:2]
        flat = source.reshape(batch * views, *source.shape[2:])
        ids = None if train_ids is None else (train_ids[:, None] * views + jnp.arange(views)).reshape(-1)
        z, out = self._equalised_encoder(flat, ids)
        z = z.astype(jnp.float32)
        out["pooled"] = masked_mean(out["pooled"].reshape(batch, views, -1), source_mask)
        if z.ndim == 2:
            z = out["latent"] = self.aggregator(z.reshape(batch, views, -1), source_mask)
        elif views == 1:  # no bottleneck: z stays the grid of tokens, and its mean stands for the latent
            out["latent"] = out["pooled"]
        else:
            raise ValueError(f"without a bottleneck the feature grid of one source is kept; got {views} sources")
        return self.bottleneck_dropout(z, train_ids), out

    def denoise(
        self,
        x_t: jax.Array,
        t: jax.Array,
        z: jax.Array,
        section_mask: jax.Array,
        train_ids: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `UNet.__call__`."""
        return self.denoiser(x_t, t, z, section_mask, train_ids)

    def _equalised_encoder(self, x: jax.Array, ids: jax.Array | None) -> tuple[jax.Array, dict[str, Any]]:
        multiplier = self.encoder_lr_multiplier
        if multiplier == 1.0:
            return self.encoder(x, ids)
        scaled = nn.map_variables(
            lambda encoder, *args: encoder(*args),
            "params",
            trans_in_fn=lambda params: jax.tree.map(lambda p: p * multiplier, params),
            trans_out_fn=lambda params: jax.tree.map(lambda p: p / multiplier, params),
            init=self.is_initializing(),
        )
        return scaled(self.encoder, x, ids)
