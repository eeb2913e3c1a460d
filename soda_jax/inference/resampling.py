"""Dropped sections: what they carry is drawn anew, and the rest is kept (SODA 4.3.1)."""

import numpy as np

from soda_jax.inference.direction_walks import place
from soda_jax.inference.grids import image_grid
from soda_jax.inference.held_out import draw, held_out
from soda_jax.inference.pictures import Picture, PictureContext
from soda_jax.inference.series import num_sections
from soda_jax.latents.sections import parse_range, thirds


def picture(context: PictureContext) -> Picture:
    """An image a row: source, all sections, and without each range in turn under `config.sampling.num_seeds` noises."""
    ranges, sections = ranges_of(context), num_sections(context.inference)
    shown = held_out(context, context.settings.num_images)
    mask = np.ones((1 + len(ranges), sections), np.float32)  # first everything, then without each range
    for row, text in enumerate(ranges, start=1):
        first, last = parse_range(text, sections)
        mask[row, first : last + 1] = 0
    seeds = [context.seed + i for i in range(context.settings.num_seeds)]
    z = np.repeat(shown.z[:, None], len(mask), axis=1)
    images = [draw(context, shown, z, section_mask=mask, seed=seed) for seed in seeds]
    columns = {"source": shown.sources, "all sections": images[0][:, 0]}
    for row, text in enumerate(ranges, start=1):
        dropped = f"no {place(text).replace('sections ', '').replace('section ', '')}"
        columns |= {f"{dropped}, seed {seed}": drawn[:, row] for seed, drawn in zip(seeds, images, strict=True)}
    title = (
        "One range of sections dropped at a time; the others from z alone (fresh noise, of a seed the same in a row)"
    )
    return Picture(image_grid(columns, title=title))


def ranges_of(context: PictureContext) -> tuple[str, ...]:
    """The ranges "a-b" of sections that pictures tell apart."""
    return tuple(context.settings.section_ranges) or thirds(num_sections(context.inference))
