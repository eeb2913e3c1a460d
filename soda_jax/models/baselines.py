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
from soda_jax.models.modulation import mask_latent
from soda_jax.models.unet import BlockSpec, ModulatedBlocks


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
        side = self.resolution // 2 ** (len(self.multipliers) - 1)
        shape = (side, side, self.channels * self.multipliers[-1])
        constant = self.param("constant", nn.initializers.normal(1.0), shape)
        h = repeat(constant.astype(self.dtype), "h w c -> b h w c", b=z.shape[0])
        out: dict[str, Any] = {}
        for spec in self.layout():
            h = out[spec.name] = self.block(spec, h, z, train_ids)
        out["middle"] = out["middle_1"]
        return self.image(h, 3), out


class EncoderDecoder(EncodingModel, kw_only=True):
    """z = E(x'), x = D(z): the target from the source without noise and without denoising.

    Attributes:
      decoder: a `Decoder`.
    """

    decoder: nn.Module

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {capabilities.LATENT, capabilities.SECTIONS, capabilities.DECODE}
    )
    title: ClassVar[str] = "EncDec"

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
