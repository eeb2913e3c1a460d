"""z = E(x'): from source views to the latent, the part that every model with an encoder shares (SODA section 3.2)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from soda_jax.models.aggregation import StochasticAggregator, masked_mean, take_source
from soda_jax.models.layers import Dropout
from soda_jax.models.pose import Camera, PoseEncoding


class EncodingModel(nn.Module):
    """A model whose latent comes from an image encoder; what makes an image of the latent is its subclasses' matter.

    Attributes:
      encoder: maps images [B, h, w, 3] to (z, out).
      aggregator: maps latents [B, n, d] and presence [B, n] to [B, d], or keeps them apart (`StochasticAggregator`).
      latent_dropout: dropout rate on z (the bottleneck's), in training.
      encoder_lr_multiplier: learning-rate equalisation (Appendix C "Learning Rates"): the encoder's parameters are
        stored divided by this and multiplied by it in the forward pass.
    """

    encoder: nn.Module
    aggregator: nn.Module
    latent_dropout: float = 0.1
    encoder_lr_multiplier: float = 1.0

    def setup(self) -> None:
        self.bottleneck_dropout = Dropout(self.latent_dropout)

    @property
    def pose(self) -> PoseEncoding | None:
        """How cameras condition the model; None where they do not."""
        return self.encoder.pose

    @property
    def keeps_sources(self) -> bool:
        """Whether `encode` gives one latent for each source in evaluation: z is [B, n, d] there."""
        return isinstance(self.aggregator, StochasticAggregator)

    def encode(
        self,
        source: jax.Array,
        source_mask: jax.Array,
        train_ids: jax.Array | None = None,
        *,
        source_camera: Camera | None = None,
        source_pose_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Encodes the source views.

        Args:
          source: [B, n, h, w, 3] ImageNet-normalised views.
          source_mask: [B, n] bool, the views that are present.
          train_ids: [B] ids in training, None in evaluation.
          source_camera: of the views, leading axes [B, n]; None where no view's pose is known.
          source_pose_mask: [B, n] bool, False where a view's pose is hidden; None hides none.

        Returns:
          (z, out): z as the denoiser takes it, the bottleneck's dropout applied (one latent a source, [B, n, d], in
          evaluation under stochastic conditioning); `out` holds the encoder's intermediates for the B * n views,
          `latent` [B, d] (aggregated, before dropout) and `pooled` [B, C].
        """
        pose = () if source_camera is None else (source_camera, source_pose_mask)
        if pose and self.pose is None:
            raise ValueError("source_camera is given, but this model takes no poses; leave it out")
        if self.keeps_sources and train_ids is not None:
            # Stochastic conditioning (Table 5): a training step sees one source, so that only this one is encoded.
            choice = self.aggregator.choose(source_mask, train_ids)
            chosen = take_source((source, source_mask, pose), choice)
            source, source_mask, pose = jax.tree.map(lambda x: rearrange(x, "b ... -> b 1 ..."), chosen)
        views = source.shape[1]
        flat, pose = jax.tree.map(lambda x: rearrange(x, "b n ... -> (b n) ..."), (source, pose))
        ids = None if train_ids is None else rearrange(train_ids[:, None] * views + jnp.arange(views), "b n -> (b n)")
        z, out = self._equalised_encoder(flat, ids, *pose)
        z = z.astype(jnp.float32)
        out["pooled"] = masked_mean(rearrange(out["pooled"], "(b n) c -> b n c", n=views), source_mask)
        if z.ndim == 2:
            # 3.3 "Cardinality": the encoder is shared, and its latents are aggregated to one.
            z = out["latent"] = self.aggregator(rearrange(z, "(b n) d -> b n d", n=views), source_mask)
            if self.keeps_sources:
                out["latent"] = masked_mean(z, source_mask)
                z = z if train_ids is None else out["latent"]  # in training of the one source
        elif views == 1:  # no bottleneck: z stays the grid of tokens, and its mean stands for the latent
            out["latent"] = out["pooled"]
        else:
            raise ValueError(f"without a bottleneck the feature grid of one source is kept; got {views} sources")
        return self.bottleneck_dropout(z, train_ids), out

    def _equalised_encoder(self, x: jax.Array, ids: jax.Array | None, *pose: Any) -> tuple[jax.Array, dict[str, Any]]:
        """Appendix C: w / k is stored and k (w / k) used, so that Adam's step of fixed size moves w k times as far."""
        multiplier = self.encoder_lr_multiplier
        if multiplier == 1.0:
            return self.encoder(x, ids, *pose)
        scaled = nn.map_variables(
            lambda encoder, *args: encoder(*args),
            "params",
            trans_in_fn=lambda params: jax.tree.map(lambda p: p * multiplier, params),
            trans_out_fn=lambda params: jax.tree.map(lambda p: p / multiplier, params),
            init=self.is_initializing(),
        )
        return scaled(self.encoder, x, ids, *pose)
