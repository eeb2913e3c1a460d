"""Models that SODA is held against, built of its own parts (SODA F.1)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import repeat

from soda_jax.models import capabilities
from soda_jax.models.encoding import EncodingModel
from soda_jax.models.layout import BlockSpec
from soda_jax.models.modulation import mask_latent
from soda_jax.models.unet import ModulatedBlocks


class Decoder(ModulatedBlocks):
    """The UNet's middle and up path alone: from a learned constant at the lowest resolution to an image.

    It has neither skip connections nor a timestep; every block is modulated by its section of z. A dense map from z to
    the first grid would have 149M parameters with the ImageNet encoder where the paper prints 118M; the constant has
    116.6M.
    """

    def layout(self) -> list[BlockSpec]:
        return [spec for spec in super().layout() if spec.path != "down"]

    @nn.compact
    def __call__(
        self, z: jax.Array, section_mask: jax.Array, train_ids: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Makes an image of each latent.

        Args:
          z: [B, d] latents.
          section_mask: [B, num_sections] 0/1; dropped sections are zeroed.
          train_ids: [B] ids in training, None in evaluation.

        Returns:
          (images [B, H, W, 3] float32, out): `out` names every block's output, and `middle`.
        """
        z = mask_latent(z, section_mask)
        side = self.layout()[0].resolution
        shape = (side, side, self.channels * self.multipliers[-1])
        constant = self.param("constant", nn.initializers.normal(1.0), shape)
        h = repeat(constant.astype(self.dtype), "h w c -> b h w c", b=z.shape[0])
        z_parts, out = self.latent_parts(z), {}
        for spec in self.layout():
            h = out[spec.name] = self.block(spec, h, z_parts, train_ids)
        out["middle"] = out["middle_1"]
        return self.image(h, 3), out


class EncoderDecoder(EncodingModel, kw_only=True):
    """z = E(x'), x = D(z): the target from the source without noise and without denoising.

    Attributes:
      decoder: a `Decoder`.
      title: the model's name in tables and messages.
    """

    decoder: nn.Module
    title: str = "EncDec"

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {capabilities.LATENT, capabilities.SECTIONS, capabilities.SOURCE, capabilities.DECODE}
    )

    @property
    def generator(self) -> nn.Module:
        """What makes images: the network whose blocks the latent's sections drive."""
        return self.decoder

    def latent_projection(self, params: Mapping[str, Any], latent_dim: int) -> np.ndarray:
        """See `ModulatedBlocks.latent_projection`; `params` are the whole model's."""
        return self.decoder.latent_projection(params["decoder"], latent_dim)

    @property
    def num_sections(self) -> int:
        return self.decoder.num_sections

    def __call__(self, source: jax.Array, source_mask: jax.Array, target: jax.Array) -> jax.Array:
        """Initialises every parameter: `encode` and `decode` in evaluation mode. Returns images like `target`."""
        z, _ = self.encode(source, source_mask)
        return self.decode(z, jnp.ones((target.shape[0], self.num_sections)))[0]

    def decode(
        self, z: jax.Array, section_mask: jax.Array, train_ids: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Decoder.__call__`."""
        return self.decoder(z, section_mask, train_ids)


class VariationalAutoencoder(EncoderDecoder, kw_only=True):
    """q(z | x') = N(mean, exp(log-variance)), x = D(z) (F.5): SODA's encoder, which gives both, and the decoder.

    Attributes:
      bernoulli: whether the decoder gives logits of pixels in [0, 1], or these pixels themselves.
    """

    bernoulli: bool = False
    title: str = "VAE"

    def encode(self, *arguments: Any, **options: Any) -> tuple[jax.Array, dict[str, Any]]:
        """See `EncodingModel.encode`: z is the mean [B, d], without dropout; `out` has `log_variance` [B, d], too."""
        _, out = super().encode(*arguments, **options)
        # The encoder's latent is twice as wide as the model's: the mean, then the logarithm of the variance.
        mean, log_variance = jnp.split(out["latent"], 2, axis=-1)
        return mean, out | {"latent": mean, "log_variance": log_variance}

    def decode(
        self, z: jax.Array, section_mask: jax.Array, train_ids: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Decoder.__call__`: images in [-1, 1], the likelihood's mean; `out` names the Bernoulli's `logits`."""
        image, out = super().decode(z, section_mask, train_ids)
        if not self.bernoulli:
            return image, out
        return jnp.tanh(image / 2), out | {"logits": image}  # 2 sigmoid(logits) - 1


class Discriminator(nn.Module):
    """Tells codes of one density from those of another: six layers of `width` and two logits (Kim & Mnih 2018)."""

    width: int = 1000
    depth: int = 6

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Maps codes [B, d] to logits [B, 2]; their difference is the logarithm of the ratio of the densities."""
        for _ in range(self.depth):
            z = nn.leaky_relu(nn.Dense(self.width)(z), 0.2)
        return nn.Dense(2)(z)


class UnconditionalDiffusion(nn.Module):
    """eps = D(x_t, t): the denoiser alone, without encoder and latent (F.1 "Unconditional Diffusion"; DDAE).

    Attributes:
      denoiser: a UNet without poses; its blocks are modulated by the timestep only.
      title: the model's name in tables and messages.
    """

    denoiser: nn.Module
    title: str = "Uncond"

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {capabilities.NOISE, capabilities.UNCONDITIONAL, capabilities.DENOISER}
    )
    pose: ClassVar[None] = None
    keeps_sources: ClassVar[bool] = False

    @property
    def generator(self) -> nn.Module:
        """What makes images."""
        return self.denoiser

    @property
    def num_sections(self) -> int:
        return self.denoiser.num_sections

    def __call__(self, source: jax.Array, source_mask: jax.Array, target: jax.Array) -> jax.Array:
        """Initialises every parameter: `denoise` in evaluation mode. Returns eps."""
        return self.denoise(target, jnp.ones(target.shape[:1], jnp.int32), None, None)[0]

    def denoise(
        self,
        x_t: jax.Array,
        t: jax.Array,
        z: jax.Array | None,
        section_mask: jax.Array | None,
        train_ids: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `UNet.__call__`; `z` and `section_mask` are not read: there is no latent."""
        return self.denoiser(x_t, t, None, None, train_ids)


class Palette(UnconditionalDiffusion):
    """eps = D([x_t, x'], t): the denoiser sees the source beside the noised target (F.1; Saharia et al. 2022)."""

    title: str = "Palette"

    capabilities: ClassVar[frozenset[str]] = frozenset({capabilities.SOURCE, capabilities.NOISE, capabilities.DENOISER})

    def __call__(self, source: jax.Array, source_mask: jax.Array, target: jax.Array) -> jax.Array:
        """Initialises every parameter: `guide` and `denoise` in evaluation mode. Returns eps."""
        z = self.guide(source, source_mask)
        z = jnp.broadcast_to(z, target.shape)
        return self.denoise(target, jnp.ones(target.shape[:1], jnp.int32), z, None)[0]

    def guide(self, source: jax.Array, source_mask: jax.Array) -> jax.Array:
        """What `denoise` takes for these sources: the first view at the target's size, [B, H, W, 3].

        Args:
          source: [B, n, h, w, 3] ImageNet-normalised views.
          source_mask: [B, n], not read: the first view is always there.
        """
        size = (self.denoiser.resolution, self.denoiser.resolution)
        first = source[:, 0]
        # Antialiased where it shrinks; nothing happens at the same size.
        return jax.image.resize(first, (first.shape[0], *size, first.shape[-1]), "linear")

    def denoise(
        self,
        x_t: jax.Array,
        t: jax.Array,
        z: jax.Array,
        section_mask: jax.Array | None,
        train_ids: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `UNet.__call__`; `z` is what `guide` gives, and `section_mask` is not read."""
        return self.denoiser(x_t, t, None, None, train_ids, source=z)
