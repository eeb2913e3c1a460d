"""From the batch's uint8 images to what the networks take; runs on the device."""

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalise_source(images: jax.Array) -> jax.Array:
    """uint8 [..., 3] -> float32, by ImageNet's mean and standard deviation (SODA Appendix D.2)."""
    return (images.astype(jnp.float32) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD


def normalise_target(images: jax.Array) -> jax.Array:
    """uint8 [..., 3] in 0..255 -> float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """float [..., 3] in [-1, 1] -> uint8 in 0..255."""
    return np.clip(np.rint((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)
