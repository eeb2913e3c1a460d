"""Style mixing: inner sections of one latent, outer sections of another (SODA 3.2.1, 4.3.1)."""

import numpy as np

from soda_jax.inference.direction_walks import place
from soda_jax.inference.grids import image_grid, stacked
from soda_jax.inference.held_out import draw, held_out, origin
from soda_jax.inference.pictures import Picture, PictureContext
from soda_jax.inference.resampling import ranges_of
from soda_jax.inference.series import num_sections
from soda_jax.latents.sections import dims_of, parse_range, range_name
from soda_jax.latents.walks import take_dims


def picture(context: PictureContext) -> Picture | None:
    """For each cut a matrix: structure of the rows' images, style of the columns', the images on the margins.

    The cuts are where ranges of sections start. On the diagonals both come from one image. None of fewer than two.
    """
    sections = num_sections(context.inference)
    shown = held_out(context, context.settings.num_images)
    count, width = shown.z.shape
    if count < 2:
        return None
    own, other = np.repeat(shown.z, count, axis=0), np.tile(shown.z, (count, 1))
    styles = [range_name(cut, sections - 1) for cut in cuts(ranges_of(context), sections)]
    mixed = [take_dims(own, other, dims_of(style, width, sections)).reshape(count, count, width) for style in styles]
    images = np.split(draw(context, shown, np.concatenate(mixed, axis=1)), len(styles), axis=1)
    blank = np.full_like(shown.sources[0], 255)
    rows = ["", *(f"structure {i + 1}" for i in range(count))]
    parts = []
    for style, matrix in zip(styles, images, strict=True):
        structure = range_name(0, parse_range(style, sections)[0] - 1)
        columns = {"source": [blank, *shown.sources]}
        columns |= {f"style {i + 1}": [shown.sources[i], *matrix[:, i]] for i in range(count)}
        title = f"Structure, {place(structure)}, of the rows; style, {place(style)}, of the columns; {origin(context)}"
        parts.append(image_grid(columns, rows=rows, title=title))
    return Picture(stacked(parts))


def cuts(ranges: tuple[str, ...], num_sections: int) -> list[int]:
    """The sections at which ranges "a-b" start, but for the innermost; the middle where there is none."""
    starts = {parse_range(text, num_sections)[0] for text in ranges} - {0}
    return sorted(starts) or [num_sections // 2]
