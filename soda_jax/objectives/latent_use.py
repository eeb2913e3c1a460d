"""What the latent is worth to the denoiser: the loss with an image's own latent, with another image's, with none.

The noised images are the same each time, so that nothing but the latent differs.
"""

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.metrics.latent_use import level_edges
from soda_jax.models.capabilities import GUIDANCE, can
from soda_jax.objectives.objective import Batch, Objective, Variables
from soda_jax.objectives.soda import SodaObjective, noised_target
from soda_jax.rngs import Draws


def has_latent_use(objective: Objective) -> bool:
    """Whether the objective is the denoising loss of a model that does with a latent and without: `SodaObjective`."""
    return can(objective.model, GUIDANCE)


def losses_by_latent(
    objective: SodaObjective, variables: Variables, batch: Batch, draw: Draws
) -> tuple[jax.Array, jax.Array]:
    """The denoising loss of an evaluation's batch, by noise level and latent.

    At each level the timestep is uniform within it, by a draw that all levels and latents share, as they share the
    noise. Without a latent means zeros, as in guidance. Cameras stay those of the target.

    Args:
      objective: one that `has_latent_use`.
      batch: as `evaluate` takes it, with `mask`.

    Returns:
      (losses float32 [levels, 3, B] with the own, another's and no latent, whether an example counts, bool [B]).
    """
    z, _, _ = objective.guide(variables, batch, draw, train=False)
    other, counts = partners(batch["mask"])
    edges = level_edges(objective.diffusion.num_steps)
    place = draw("place_in_level", jax.random.uniform)
    seen = objective.whole_latent(batch)
    # In the order of `metrics.latent_use.LATENTS`. Hiding every section is what guidance does, and at random training.
    own = jnp.arange(len(other))
    whose = jnp.stack([own, other, own])
    seen = jnp.stack([seen, seen, jnp.zeros_like(seen)])

    def loss(case: tuple[jax.Array, ...]) -> jax.Array:
        low, high, example, mask = case
        t = jnp.minimum(low + 1 + jnp.floor(place * (high - low)).astype(jnp.int32), high)
        noised = noised_target(objective.diffusion, batch, draw, t)
        return objective.error(variables, batch, noised, z[example], mask)

    def by_latent(level: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax.lax.map(lambda case: loss((*level, *case)), (whose, seen))

    # In loops, so that the denoiser is compiled once, and needs the memory of one batch.
    levels = tuple(np.asarray(ends, np.int32) for ends in (edges[:-1], edges[1:]))
    return jax.lax.map(by_latent, levels), counts


def partners(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which example's latent each takes as another image's: the one that is half of the real examples further on.

    Neighbours in a sorted split are alike, those are not. Padding is no example's partner, so that it does not matter
    how much of it there is, and with it the number of devices.

    Args:
      mask: bool [B], the real examples.

    Returns:
      (int32 [B], bool [B] the examples that have a partner).
    """
    count = mask.sum()
    real_first = jnp.argsort(~mask, stable=True)
    rank = jnp.cumsum(mask) - 1
    partner = real_first[(rank + count // 2) % jnp.maximum(count, 1)]
    return partner, mask & (count > 1)
