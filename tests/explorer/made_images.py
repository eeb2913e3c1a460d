"""Random images, for tests of the explorer."""

import numpy as np

from soda_jax.explorer.images import Chosen

SIDE = 8


def random_images(count: int, seed: int, views: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, views, SIDE, SIDE, 3), np.uint8)


def chosen(seed: int) -> Chosen:
    return Chosen(random_images(1, seed)[0], None, f"image {seed}")
