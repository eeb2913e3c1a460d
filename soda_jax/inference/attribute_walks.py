"""The labels' directions in the latent, walked (SODA Appendix E.3: rows of the linear probe)."""

import numpy as np

from soda_jax.inference.direction_walks import place, walk_along
from soda_jax.inference.held_out import SECONDS, origin
from soda_jax.inference.pictures import Picture, PictureContext

PER_ROW = 8  # of the animation


def picture(context: PictureContext) -> Picture | None:
    """A label's direction a row, a sigma a column, of at most `config.sampling.num_attributes` directions.

    None where the labels do not vary.
    """
    found = context.found().of_kind("standardised")
    if not found:
        return None
    number = min(context.settings.num_attributes, len(found))
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, number).round().astype(int)]
    walk = walk_along(context, chosen)
    rows = range(number)
    captions = [f"{line.name}\n{place(line.sections)}" for line in chosen]
    title = f"{number} of {len(found)} label directions, whole latent, {origin(context)}"
    tiles = [
        ("whole latent, from z alone", {chosen[row].name: row for row in rows[start : start + PER_ROW]})
        for start in range(0, number, PER_ROW)
    ]
    return Picture(walk.strip(rows, captions, title), walk.frames(tiles), SECONDS)
