"""SODA: encoder, bottleneck and denoiser as one module; no loss, no sampling (SODA section 3, Figure 2)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.models import capabilities
from soda_jax.models.encoding import EncodingModel
from soda_jax.models.pose import Camera, EncodedCamera, PoseEncoding


class SODA(EncodingModel, kw_only=True):
    """z = E(x'), eps = D(x_t, t, z).

    Attributes:
      denoiser: a UNet. Where it takes poses, so does the encoder.
      title: the model's name in tables and messages.
    """

    denoiser: nn.Module
    title: str = "SODA"

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {
            capabilities.LATENT,
            capabilities.SECTIONS,
            capabilities.SOURCE,
            capabilities.NOISE,
            capabilities.UNCONDITIONAL,
            capabilities.GUIDANCE,
            capabilities.DENOISER,
        }
    )

    @property
    def pose(self) -> PoseEncoding | None:
        return self.denoiser.pose

    @property
    def generator(self) -> nn.Module:
        """What makes images: the network whose blocks the latent's sections drive."""
        return self.denoiser

    def latent_projection(self, params: Mapping[str, Any], latent_dim: int) -> np.ndarray:
        """See `ModulatedBlocks.latent_projection`; `params` are the whole model's."""
        return self.denoiser.latent_projection(params["denoiser"], latent_dim)

    @nn.nowrap
    def fix_camera(self, params: Mapping[str, Any], camera: EncodedCamera) -> EncodedCamera:
        """See `UNet.fix_camera`; `params` are the whole model's."""
        return self.denoiser.fix_camera(params["denoiser"], camera)

    @property
    def num_sections(self) -> int:
        return self.denoiser.num_sections

    def __call__(self, source: jax.Array, source_mask: jax.Array, target: jax.Array) -> jax.Array:
        """Initialises every parameter: `encode` and `denoise` in evaluation mode, without poses. Returns eps."""
        z, _ = self.encode(source, source_mask)
        z = z[:, 0] if self.keeps_sources else z
        count = target.shape[0]
        return self.denoise(target, jnp.ones((count,), jnp.int32), z, jnp.ones((count, self.num_sections)))[0]

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
