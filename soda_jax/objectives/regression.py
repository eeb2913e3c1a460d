"""The loss of an encoder-decoder (F.1 "EncDec"): the target from its sources' latent, by mean squared error.

    z = E(x'),  L = E || x_0 - D(z) ||^2

It is SODA without diffusion: no noise, no timestep, no masking, and the same encoder. With
`config.data.view_policy="same"` it is a plain autoencoder.
"""

import dataclasses

import jax
import jax.numpy as jnp

from soda_jax import inputs
from soda_jax.models.baselines import EncoderDecoder
from soda_jax.objectives.objective import Batch, Loss, Objective, Variables, encode_sources, initial_variables
from soda_jax.rngs import Draws


@dataclasses.dataclass(frozen=True)
class RegressionObjective(Objective):
    """The squared error of a target that is decoded from the latent of its sources.

    Attributes:
      source_noise: std of the noise on the normalised sources.
    """

    model: EncoderDecoder
    source_noise: float = 0.0

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """See `Objective.init`."""
        return initial_variables(self.model, key, batch)

    def loss(self, variables: Variables, batch: Batch, draw: Draws, train: bool) -> Loss:
        """See `Objective.loss`."""
        z, features, batch_stats = encode_sources(
            self.model, variables, batch, draw, train, source_noise=self.source_noise
        )
        x_0 = inputs.normalise_target(batch["target"])
        predicted, _ = self.model.apply(
            variables,
            z,
            jnp.ones((x_0.shape[0], self.model.num_sections)),
            draw.ids if train else None,
            method="decode",
            rngs={"dropout": draw.stream("decoder_dropout")} if train else None,
        )
        with jax.named_scope("loss"):
            return Loss(jnp.square(predicted - x_0).mean(axis=(1, 2, 3)), features, batch_stats)
