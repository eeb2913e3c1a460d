"""SODA with an encoder that was trained elsewhere and stays as it is, the paper's unCLIP row (F.1)."""

from typing import Any

import flax.linen as nn
import jax

from soda_jax.models import capabilities
from soda_jax.models.soda import SODA


class FrozenSODA(SODA, kw_only=True):
    """v = E(x') with E as it was found, z = W v + b, eps = D(x_t, t, z).

    The latent of this model is v, exactly what the encoder alone gives. It has no sections; those that drive the
    denoiser are of z, which the trained W makes of it.

    Attributes:
      latent_dim: width of z.
    """

    latent_dim: int

    capabilities = SODA.capabilities - {capabilities.SECTIONS}

    def setup(self) -> None:
        super().setup()
        self.projection = nn.Dense(self.latent_dim, kernel_init=nn.initializers.xavier_uniform())

    def denoise(
        self, x_t: jax.Array, t: jax.Array, z: jax.Array | None, *conditions: Any, **options: Any
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `SODA.denoise`; `z` are vectors of the encoder, [B, v]. A dropped section hides a part of W v + b."""
        return super().denoise(x_t, t, None if z is None else self.projection(z), *conditions, **options)

    def _equalised_encoder(self, x: jax.Array, ids: jax.Array | None, *pose: Any) -> tuple[jax.Array, dict[str, Any]]:
        # Always as in evaluation: no dropout, and BatchNorm's statistics stay those that the encoder came with.
        return jax.lax.stop_gradient(super()._equalised_encoder(x, None, *pose))
