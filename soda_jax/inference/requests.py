"""Checks of what users pass to `soda_jax.load`'s model: a clear error before anything is computed."""

from typing import Any

import numpy as np
from einops import rearrange

from soda_jax.data import transforms

# How far floats may lie outside [0, 1]: half an 8-bit level changes no rounding. They are clipped.
_ROUNDING = 1 / 510


def sampling_options(scale: Any, steps: int | None, seed: int, first_index: int, method: str | None) -> dict[str, Any]:
    """Checked keyword arguments of `Inference.sample`."""
    if scale is not None and (np.ndim(scale) or not np.isfinite(scale)):
        raise ValueError(f"guidance_scale={scale}: give one finite number for all images")
    options = {"guidance_scale": scale, "num_steps": steps, "seed": seed, "first_index": first_index}
    return options | ({} if method is None else {"method": method})


def source_views(images: np.ndarray, resolution: int, crop_share: float = 1.0) -> np.ndarray:
    """Checked images as uint8 [N, n, resolution, resolution, 3].

    Images of another size are cropped to the centre as evaluation crops them: `crop_share` of the short side.
    """
    images = np.asarray(images)
    if images.ndim not in (4, 5) or images.shape[-1] != 3:
        raise ValueError(
            f"images have shape {images.shape}; give RGB as [N, H, W, 3], or [N, n, H, W, 3] for n views of each"
            + (" (one image: images[None])" if images.ndim == 3 else "")
        )
    if images.size == 0:
        raise ValueError(f"images have shape {images.shape}, which is empty; give at least one image")
    if np.issubdtype(images.dtype, np.floating):
        images = _quantised(images)
    elif images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}; give uint8 in 0..255 or float in [0, 1]")
    if images.ndim == 4:
        images = images[:, None]
    height, width = images.shape[2:4]
    if (height, width) == (resolution, resolution):
        return images
    crop = transforms.centre_crop(height, width, crop_share)
    flat = rearrange(images, "b n h w c -> (b n) h w c")
    resized = np.stack([transforms.apply_crop(image, crop, resolution) for image in flat])
    return rearrange(resized, "(b n) h w c -> b n h w c", n=images.shape[1])


def _quantised(images: np.ndarray) -> np.ndarray:
    """Checked float images in [0, 1] as uint8, the precision that training sees."""
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values; remove or replace them first")
    low, high = float(images.min()), float(images.max())
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        raise ValueError(f"float images must lie in [0, 1], these lie in [{low:g}, {high:g}]; rescale or clip them")
    return np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


def checked_view_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    mask = _zeros_and_ones("view_mask", mask).astype(bool)
    if mask.shape != shape:
        raise ValueError(f"view_mask has shape {mask.shape}; give [{shape[0]}, {shape[1]}], one number a view")
    if not mask.any(axis=1).all():
        raise ValueError(f"view_mask leaves image {int(mask.any(axis=1).argmin())} no view; keep at least one of each")
    return mask


def checked_latents(z: np.ndarray, shape: tuple[int, ...], keeps_sources: bool) -> np.ndarray:
    z = np.asarray(z, np.float32)
    if keeps_sources and z.ndim == 3:
        shape = (z.shape[1], shape[1])  # any number of source views
    if z.ndim != 1 + len(shape) or z.shape[1:] != shape or z.size == 0:
        raise ValueError(
            f"z has shape {z.shape}; this model's latents are [N, {', '.join(map(str, shape))}] with N >= 1"
            + (" (one latent: z[None])" if z.shape == shape else "")
        )
    if not np.isfinite(z).all():
        raise ValueError("z holds NaN or infinite values; remove or replace them first")
    return z


def checked_section_mask(mask: np.ndarray, count: int, sections: int) -> np.ndarray:
    mask = _zeros_and_ones("section_mask", mask).astype(np.float32)
    if mask.shape not in ((sections,), (count, sections)):
        raise ValueError(f"section_mask has shape {mask.shape}; give [{sections}] or [{count}, {sections}]")
    return np.broadcast_to(mask, (count, sections))


def _zeros_and_ones(name: str, mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{name} holds values other than 0 and 1; give 1 (or True) for what is kept, 0 for the rest")
    return mask


def checked_section_choice(choice: np.ndarray, count: int, sections: int) -> np.ndarray:
    choice = np.asarray(choice)
    if choice.ndim != 2 or choice.shape[1] != sections or len(choice) == 0:
        raise ValueError(f"section_choice has shape {choice.shape}; give [M, {sections}] with M >= 1")
    if not np.issubdtype(choice.dtype, np.integer):
        raise ValueError(f"section_choice is {choice.dtype}; give ints, the rows of z")
    if choice.min() < 0 or choice.max() >= count:
        raise ValueError(
            f"section_choice lies in {choice.min()}..{choice.max()}; give rows of z, 0..{count - 1} for {count} latents"
        )
    return choice
