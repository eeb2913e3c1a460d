"""Interpolation between held-out images: z = (1 - l) z1 + l z2 (SODA Appendix E.3)."""

import numpy as np

from soda_jax.inference.grids import image_grid
from soda_jax.inference.held_out import SECONDS, animation, draw, held_out, origin
from soda_jax.inference.pictures import Picture, PictureContext
from soda_jax.latents.walks import interpolate


def picture(context: PictureContext) -> Picture | None:
    """A pair of images a row: both at the ends, between them what their latents and those on the line give.

    None where fewer than two images can be read.
    """
    settings = context.settings
    shown = held_out(context, 2 * settings.num_images)
    pairs = len(shown) // 2
    if pairs == 0:
        return None
    first, second = (shown.take(slice(end, 2 * pairs, 2)) for end in (0, 1))
    every = settings.walk_between + 1
    steps = (settings.walk_frames - 1) * every + 1
    images = draw(context, first, interpolate(first.z, second.z, steps=steps))
    shares = [f"l = {share:.3g}" for share in np.linspace(0, 1, steps)]
    middle = {shares[frame]: images[:, frame] for frame in range(0, steps, every)}
    title = f"z = (1 - l) z1 + l z2, whole latent, {origin(context)}"
    still = image_grid({"source 1": first.sources} | middle | {"source 2": second.sources}, title=title)
    frames = [
        image_grid(
            {"source 1": first.sources, share: images[:, frame], "source 2": second.sources}, title="from z alone"
        )
        for frame, share in enumerate(shares)
    ]
    return Picture(still, animation(frames), SECONDS)
