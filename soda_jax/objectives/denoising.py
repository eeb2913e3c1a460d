"""The loss of a denoiser without an encoder (F.1): unconditional diffusion, and Palette, which sees the source.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,  L = E || eps - D(x_t, t) ||^2, or with D([x_t, x'], t)

The noised target and the error are SODA's own: `noised_target` and `denoising_error` in `objectives/soda.py`.
"""

import dataclasses

import flax.linen as nn
import jax

from soda_jax.diffusion.gaussian import Diffusion
from soda_jax.models.capabilities import SOURCE, can
from soda_jax.objectives.objective import Batch, Loss, Objective, Variables, initial_variables, sources
from soda_jax.objectives.soda import denoising_error, noised_target
from soda_jax.rngs import Draws


@dataclasses.dataclass(frozen=True)
class DenoisingObjective(Objective):
    """The denoising loss of a target, without a latent.

    Attributes:
      source_noise: std of the noise on the normalised source, where the model sees one, in training only: the same
        source as SODA's encoder sees (Table 10).
    """

    model: nn.Module
    diffusion: Diffusion
    source_noise: float = 0.0

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """See `Objective.init`."""
        return initial_variables(self.model, key, batch)

    def loss(self, variables: Variables, batch: Batch, draw: Draws, train: bool) -> Loss:
        """See `Objective.loss`."""
        z = None
        if can(self.model, SOURCE):
            source = sources(batch, draw, train, self.source_noise)
            z = self.model.apply(variables, source, batch["source_mask"], method="guide")
        x_t, t, x_0, eps = noised_target(self.diffusion, batch, draw)
        predicted, _ = self.model.apply(
            variables,
            x_t,
            t,
            z,
            None,
            draw.ids if train else None,
            method="denoise",
            rngs={"dropout": draw.stream("denoiser_dropout")} if train else None,
        )
        return Loss(denoising_error(self.diffusion, predicted, x_0, t, eps), {}, variables["batch_stats"])
