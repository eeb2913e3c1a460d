"""One latent under several noises: what it leaves open (SODA 4.3)."""

from soda_jax import inputs
from soda_jax.inference.grids import image_grid
from soda_jax.inference.held_out import held_out
from soda_jax.inference.pictures import Picture, PictureContext


def picture(context: PictureContext) -> Picture:
    """An image a row: the source, and what its latent gives under `config.sampling.num_seeds` noises."""
    shown = held_out(context, context.settings.num_images)
    columns = {"source": shown.sources}
    for seed in range(context.seed, context.seed + context.settings.num_seeds):
        sampled = context.inference.sample(context.variables, shown.z, seed=seed, **shown.conditions)
        columns[f"noise {seed}"] = inputs.to_uint8(sampled["images"])
    return Picture(image_grid(columns, title="One latent a row, whole, under noises of several seeds: from z alone"))
