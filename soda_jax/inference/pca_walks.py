"""The top principal components of the latent and of ranges of its sections, walked (SODA 4.3, Appendix E.3)."""

from soda_jax.inference.direction_walks import place, walk_along
from soda_jax.inference.grids import stacked
from soda_jax.inference.held_out import SECONDS, origin
from soda_jax.inference.pictures import Picture, PictureContext


def picture(context: PictureContext) -> Picture:
    """A strip for the whole latent and for each range, a component a row by falling variance, a sigma a column."""
    walk = walk_along(context, context.found().of_kind("pca"))
    groups: dict[str | None, list[int]] = {}
    for row, direction in enumerate(walk.directions):
        groups.setdefault(direction.sections, []).append(row)
    count = len(context.found().codes)
    blocks, tiles = [], []
    for sections, rows in groups.items():
        where = place(sections)
        captions = [f"component {i + 1}\n{where}\n{walk.directions[row].source}" for i, row in enumerate(rows)]
        title = f"Principal components, {where} ({count} training images), {origin(context)}"
        blocks.append(walk.strip(rows, captions, title))
        tiles.append((f"{where}, from z alone", {f"component {i + 1}": row for i, row in enumerate(rows)}))
    return Picture(stacked(blocks), walk.frames(tiles), SECONDS)
