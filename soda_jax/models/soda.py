"""SODA: encoder, bottleneck and denoiser as one module; no loss, no sampling (SODA section 3, Figure 2)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax.models.aggregation import StochasticAggregator, masked_mean, take_source
from soda_jax.models.layers import Dropout
from soda_jax.models.pose import Camera, EncodedCamera, PoseEncoding


class SODA(nn.Module):
    """z = E(x'), eps = D(x_t, t, z).

    Attributes:
      encoder: maps images [B, h, w, 3] to (z, out).
      denoiser: a UNet. Where it takes poses, so does the encoder.
      aggregator: maps latents [B, n, d] and presence [B, n] to [B, d], or keeps them apart (`StochasticAggregator`).
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

    @property
    def pose(self) -> PoseEncoding | None:
        """How cameras condition the model; None where they do not."""
        return self.denoiser.pose

    @property
    def keeps_sources(self) -> bool:
        """Whether `encode` gives one latent for each source in evaluation: z is [B, n, d] there."""
        return isinstance(self.aggregator, StochasticAggregator)

    def __call__(
        self,
        source: jax.Array,
        source_mask: jax.Array,
        x_t: jax.Array,
        t: jax.Array,
        section_mask: jax.Array,
    ) -> jax.Array:
        """Encodes and denoises in evaluation mode, without poses; initialises every parameter. Returns eps."""
        z, _ = self.encode(source, source_mask)
        z = z[:, 0] if self.keeps_sources else z
        return self.denoise(x_t, t, z, section_mask)[0]

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
            choice = self.aggregator.choose(source_mask, train_ids)
            chosen = take_source((source, source_mask, pose), choice)
            source, source_mask, pose = jax.tree.map(lambda x: x[:, None], chosen)
        batch, views = source.shape[:2]
        flat, pose = jax.tree.map(lambda x: x.reshape(batch * views, *x.shape[2:]), (source, pose))
        ids = None if train_ids is None else (train_ids[:, None] * views + jnp.arange(views)).reshape(-1)
        z, out = self._equalised_encoder(flat, ids, *pose)
        z = z.astype(jnp.float32)
        out["pooled"] = masked_mean(out["pooled"].reshape(batch, views, -1), source_mask)
        if z.ndim == 2:
            z = out["latent"] = self.aggregator(z.reshape(batch, views, -1), source_mask)
            if self.keeps_sources:
                out["latent"] = masked_mean(z, source_mask)
                z = z if train_ids is None else out["latent"]  # in training of the one source
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
        *,
        target_camera: Camera | EncodedCamera | None = None,
        pose_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `UNet.__call__`; `target_camera` and `pose_mask` are its `camera` and `pose_mask`."""
        if target_camera is not None and self.pose is None:
            raise ValueError("target_camera is given, but this model takes no poses; leave it out")
        return self.denoiser(x_t, t, z, section_mask, train_ids, target_camera, pose_mask)

    def _equalised_encoder(self, x: jax.Array, ids: jax.Array | None, *pose: Any) -> tuple[jax.Array, dict[str, Any]]:
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
