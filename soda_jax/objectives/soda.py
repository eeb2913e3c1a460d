"""The loss of SODA: sections 3.1 to 3.4 of the paper as code, beside each line its equation.

    z = E(x'),  x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,  L = E || eps - D(x_t, t, z, c) ||^2

x' are the source views, x_0 is the target, c their cameras. Training and the evaluation within it both call `loss`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from soda_jax import inputs
from soda_jax.diffusion.gaussian import Diffusion
from soda_jax.models.aggregation import pick_present
from soda_jax.models.soda import SODA
from soda_jax.objectives.objective import Batch, Loss, Objective, Variables, encode_sources, initial_variables
from soda_jax.rngs import Draws


@dataclasses.dataclass(frozen=True)
class SodaObjective(Objective):
    """The denoising loss of a target, guided by the latent of its sources.

    Attributes:
      source_noise: std of the noise on the normalised sources.
      latent_mask_rate, layer_mask_rate: probabilities of zeroing the whole latent, and each section.
      pose_mask_rate: probability of hiding the target's pose, and each source's, independently of all else.
    """

    model: SODA
    diffusion: Diffusion
    source_noise: float = 0.0
    latent_mask_rate: float = 0.12
    layer_mask_rate: float = 0.15
    pose_mask_rate: float = 0.12

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """See `Objective.init`."""
        return initial_variables(self.model, key, batch)

    def loss(self, variables: Variables, batch: Batch, draw: Draws, train: bool) -> Loss:
        """See `Objective.loss`."""
        if train:
            batch = self._hide_poses(batch, draw)
        z, features, batch_stats = self.guide(variables, batch, draw, train)
        noised = noised_target(self.diffusion, batch, draw)
        mask = self._section_mask(draw) if train else self.whole_latent(batch)
        error = self.error(variables, batch, noised, z, mask, draw if train else None)
        return Loss(error, features, batch_stats)

    def guide(
        self, variables: Variables, batch: Batch, draw: Draws, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        """The latent that the denoiser is given of each example: (z, features, batch_stats), as `encode_sources`."""
        # 3.2: z = E(x'); `objective.encode_sources` has the lines, as every objective with an encoder begins so.
        z, features, batch_stats = encode_sources(
            self.model, variables, batch, draw, train, source_noise=self.source_noise
        )
        if not train and self.model.keeps_sources:
            # Table 5, stochastic conditioning: each sampling step sees one source at random, and so does this loss.
            z = pick_present(z, draw("source", lambda key: jax.random.uniform(key, z.shape[1:2])))
        return z, features, batch_stats

    def error(
        self,
        variables: Variables,
        batch: Batch,
        noised: tuple[jax.Array, ...],
        z: jax.Array,
        section_mask: jax.Array,
        draw: Draws | None = None,
    ) -> jax.Array:
        """The denoising loss of each example, [B].

        Args:
          batch: whose cameras the denoiser is told, where it takes any.
          noised: as `noised_target` gives it.
          z: the latents, as `guide` gives them, of these images or of others.
          section_mask: [B, sections], what the denoiser sees of them.
          draw: with dropout, as in training; None without.
        """
        x_t, t, x_0, eps = noised
        # 3.1: eps_theta = D(x_t, t, z, c), modulated by z's sections (3.2.1); 3.3: c is the target's camera.
        predicted, _ = self.model.apply(
            variables,
            x_t,
            t,
            z,
            section_mask,
            None if draw is None else draw.ids,
            **inputs.target_conditions(batch, self.model.pose),
            method="denoise",
            rngs=None if draw is None else {"dropout": draw.stream("denoiser_dropout")},
        )
        return denoising_error(self.diffusion, predicted, x_0, t, eps)

    def whole_latent(self, batch: Batch) -> jax.Array:
        """The mask that hides no section, [B, sections]."""
        return jnp.ones((batch["target"].shape[0], self.model.num_sections))

    def _section_mask(self, draw: Draws) -> jax.Array:
        """Which sections the denoiser sees, [B, sections]; what it does not see is zeros.

        Dropping whole latents gives guidance its unconditional prediction (3.3 "Guidance"). Dropping sections (3.2.1
        "layer masking") makes each level do without the others; it belongs to `layer` modulation.
        """
        sections = self.model.num_sections
        keep_latent = draw("latent_mask", lambda key: jax.random.bernoulli(key, 1 - self.latent_mask_rate, (1,)))
        if self.model.denoiser.modulation != "layer":
            return jnp.broadcast_to(keep_latent, (keep_latent.shape[0], sections))
        keep = draw("layer_mask", lambda key: jax.random.bernoulli(key, 1 - self.layer_mask_rate, (sections,)))
        return keep & keep_latent

    def _hide_poses(self, batch: Batch, draw: Draws) -> Batch:
        """The batch with `source_pose_mask` [B, n] and `pose_mask` [B] (3.3 "Guidance"): some poses are hidden.

        A model without poses needs neither.
        """
        if self.model.pose is None:
            return batch
        keep_rate, views = 1 - self.pose_mask_rate, batch["source"].shape[1:2]
        return batch | {
            "source_pose_mask": draw("source_pose_mask", lambda key: jax.random.bernoulli(key, keep_rate, views)),
            "pose_mask": draw("pose_mask", lambda key: jax.random.bernoulli(key, keep_rate)),
        }


def noised_target(diffusion: Diffusion, batch: Batch, draw: Draws, t: jax.Array | None = None) -> tuple[jax.Array, ...]:
    """(x_t, t, x_0, eps) of a batch's targets: what a denoiser is shown, and what it was made of.

    Args:
      t: int32 [B], the noise levels; drawn where None.
    """
    # 3.1: x_0 in [-1, 1]; t is uniform on 1..T and eps ~ N(0, I).
    x_0 = inputs.normalise_target(batch["target"])
    if t is None:
        t = draw("timestep", lambda key: jax.random.randint(key, (), 1, diffusion.num_steps + 1))
    eps = draw("noise", lambda key: jax.random.normal(key, x_0.shape[1:]))
    # 3.1: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, the sample of q(x_t | x_0).
    return diffusion.q_sample(x_0, t, eps), t, x_0, eps


def denoising_error(
    diffusion: Diffusion, predicted: jax.Array, x_0: jax.Array, t: jax.Array, eps: jax.Array
) -> jax.Array:
    """The loss of each example, [B], of what a denoiser predicted."""
    # 3.1, Appendix B: || eps - eps_theta ||^2, unweighted; with prediction="v" (our addition) that of v.
    with jax.named_scope("loss"):
        error = predicted - diffusion.target(x_0, t, eps)
        return jnp.square(error).mean(axis=(1, 2, 3))
