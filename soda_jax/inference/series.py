"""Series of images: frames of different latents and the same noise, so that what changes is the latent alone."""

from typing import Any

import numpy as np
from einops import rearrange

from soda_jax.inference.engine import Inference, Variables
from soda_jax.models.capabilities import LATENT, NOISE, SECTIONS, can, require


def has_vector(inference: Inference) -> bool:
    """Whether the model's latent is one vector an image."""
    model = inference.model
    return can(model, LATENT) and not model.keeps_sources and len(inference.latent_shape) == 1


def require_vector(inference: Inference, wanted: str) -> None:
    """Raises ValueError unless the model's latent is one vector an image, which `wanted` needs."""
    require(inference.model, LATENT, wanted)
    if not has_vector(inference):
        kind = "one for each source view" if inference.model.keeps_sources else "a grid of tokens"
        raise ValueError(f"{wanted} needs a latent that is one vector, and this model's is {kind}")


def num_sections(inference: Inference) -> int:
    """Of a latent whose sections act apart; 0 where it has none."""
    model = inference.model
    if not can(model, SECTIONS) or not model.generator.sectioned:
        return 0
    return inference.num_sections if len(inference.latent_shape) == 1 else 0


def draw_series(
    inference: Inference,
    variables: Variables,
    z: np.ndarray,
    *,
    section_mask: np.ndarray | None = None,
    start: np.ndarray | None = None,
    seed: int = 0,
    first_index: int = 0,
    **options: Any,
) -> np.ndarray:
    """The images of latents z [N, F, d], N series of F frames.

    Args:
      section_mask: [sections], [N, sections] or [N, F, sections] of 0/1; all by default.
      start: noise x_T to start from, [N, H, W, 3] or [N, F, H, W, 3], as `Inference.invert` gives it; by default it is
        drawn from (seed, first_index + n) for all frames of series n. It is walked by deterministic DDIM, unguided
        unless `options` say otherwise, the way that it was found.
      **options: `guidance_scale`, `num_steps`, `method` and others of `Inference.sample`.

    Returns:
      float32 [N, F, H, W, 3] in [-1, 1].
    """
    z = np.asarray(z, np.float32)
    count, frames = z.shape[:2]
    if section_mask is not None:
        mask = np.asarray(section_mask, np.float32)
        mask = mask[:, None] if mask.ndim == 2 else mask
        section_mask = rearrange(np.broadcast_to(mask, (count, frames, mask.shape[-1])), "n f s -> (n f) s")
    if can(inference.model, NOISE):
        options |= {"seed": seed, "indices": np.repeat(first_index + np.arange(count), frames)}
        if start is not None:
            start = start[:, None] if start.ndim == 4 else start
            start = np.broadcast_to(start, (count, frames, *start.shape[2:]))
            set_before = {name: value for name, value in options.items() if value is not None}
            options = {"guidance_scale": 1.0} | set_before | {"method": "ddim", "eta": 0.0, "clip_x0": False}
            options["start"] = rearrange(start, "n f ... -> (n f) ...")
    flat = rearrange(z, "n f d -> (n f) d")
    images = inference.sample(variables, flat, section_mask, **options)["images"]
    return rearrange(images, "(n f) h w c -> n f h w c", f=frames)


def slerp(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
    """Noises [N, steps, ...] on the great circles from a [N, ...] to b [N, ...], evenly spaced, both ends included.

    A straight line between two noises leaves the sphere on which noise lies (Song et al. 2021, Appendix D.5).
    """
    shape = a.shape
    a, b = (rearrange(x, "n ... -> n (...)").astype(np.float64) for x in (a, b))
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    angle = np.arccos(np.clip(cosine, -1, 1))[:, None, None]
    share = np.linspace(0, 1, steps)[:, None]
    sine = np.sin(angle)
    near = sine < 1e-6  # equal noises: the line is as good
    safe = np.where(near, 1.0, sine)
    on_a = np.where(near, 1 - share, np.sin((1 - share) * angle) / safe)
    on_b = np.where(near, share, np.sin(share * angle) / safe)
    walk = on_a * a[:, None] + on_b * b[:, None]
    return walk.reshape(shape[0], steps, *shape[1:]).astype(np.float32)
