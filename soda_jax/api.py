"""A trained model as a Python object: `soda_jax.load(workdir)`. No flags, no TensorFlow, arrays in and out."""

import dataclasses
import os
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from soda_jax import checkpoint, inputs
from soda_jax import config as config_lib
from soda_jax.data import transforms
from soda_jax.inference import Inference, Variables
from soda_jax.models.modulation import mix_sections


def load(workdir: str | os.PathLike, step: int | None = None) -> "LoadedModel":
    """Loads the EMA weights of a run; the config comes from the checkpoint.

    Args:
      workdir: the run's folder.
      step: which checkpoint; the newest by default.

    Raises:
      FileNotFoundError: the folder holds no such checkpoint.
      ValueError: a newer release wrote it.
    """
    workdir = os.fspath(workdir)
    found, meta = checkpoint.read_meta(workdir, step)
    config = config_lib.from_dict(meta["config"])
    inference = Inference(config)
    variables = checkpoint.load_ema(workdir, found, inference.abstract_variables())
    return LoadedModel(config=config, step=found, variables=variables, inference=inference)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained SODA.

    Images are uint8 in 0..255 or float in [0, 1], RGB, [N, H, W, 3] (one source view each) or [N, n, H, W, 3]
    (n views of each). Other sizes are centre-cropped and resized. What comes back is of the kind that went in.
    """

    config: ConfigDict
    step: int
    variables: Variables
    inference: Inference

    @property
    def latent_dim(self) -> int:
        return self.inference.latent_shape[-1]

    @property
    def num_sections(self) -> int:
        """Sections of the latent, innermost (pose, structure) first."""
        return self.inference.num_sections

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents of images, float32 [N, d]."""
        source = self._views(images, self.config.data.source_resolution)
        return self.inference.encode(self.variables, source)

    def reconstruct(
        self,
        images: np.ndarray,
        guidance_scale: float | None = None,
        steps: int | None = None,
        *,
        seed: int = 0,
        method: str | None = None,
    ) -> np.ndarray:
        """Encodes images and samples from their latents, [N, H, W, 3] at the model's resolution.

        Args:
          guidance_scale: strength s of guidance (the paper: 2 to 3); the config's by default.
          steps: sampling steps; the config's by default.
          seed: image i is drawn from (seed, i).
          method: "ddpm" or "ddim"; the config's by default.
        """
        as_float = np.issubdtype(np.asarray(images).dtype, np.floating)
        return self.sample(self.encode(images), guidance_scale, steps, seed=seed, method=method, as_float=as_float)

    def sample(
        self,
        z: np.ndarray | None,
        guidance_scale: float | None = None,
        steps: int | None = None,
        *,
        num_images: int | None = None,
        section_mask: np.ndarray | None = None,
        section_choice: np.ndarray | None = None,
        num_frames: int = 0,
        seed: int = 0,
        first_index: int = 0,
        method: str | None = None,
        as_float: bool = False,
    ) -> np.ndarray:
        """Samples images from latents.

        Args:
          z: [N, d] latents; None samples unconditionally (then give `num_images`).
          guidance_scale, steps, method, seed: as for `reconstruct`; image i is drawn from (seed, first_index + i).
          section_mask: [sections] or [N, sections] of 0/1; sections with 0 are left to chance.
          section_choice: int [M, sections]: image i takes section s from z[section_choice[i, s]] (style mixing), and M
            images come out.
          num_frames: also return the predictions of x_0 at this many steps.
          as_float: float32 in [0, 1] instead of uint8.

        Returns:
          [N, H, W, 3], or [num_frames, N, H, W, 3] with the final images last if num_frames > 0.
        """
        options: dict[str, Any] = {"guidance_scale": guidance_scale, "num_steps": steps, "seed": seed}
        options |= {"first_index": first_index, "num_frames": num_frames}
        if method is not None:
            options["method"] = method
        if z is None:
            if num_images is None or num_images < 1:
                raise ValueError("unconditional sampling (z=None) needs num_images >= 1")
            sampled = self.inference.sample_unconditional(self.variables, num_images, **options)
        else:
            z = self._checked_latents(z, num_images)
            if section_choice is not None:
                z = np.asarray(mix_sections(z, self._checked_choice(section_choice, len(z))))
            mask = None if section_mask is None else self._checked_mask(section_mask, len(z))
            sampled = self.inference.sample(self.variables, z, mask, **options)
        images = sampled["frames" if num_frames else "images"]
        return (images + 1.0) / 2.0 if as_float else inputs.to_uint8(images)

    def _views(self, images: np.ndarray, resolution: int) -> np.ndarray:
        """Checked images as uint8 [N, n, resolution, resolution, 3]."""
        images = np.asarray(images)
        if images.ndim not in (4, 5) or images.shape[-1] != 3 or images.size == 0:
            raise ValueError(
                f"images have shape {images.shape}; give [N, H, W, 3], or [N, n, H, W, 3] for n views of each"
                + (" (one image: images[None])" if images.ndim == 3 else "")
            )
        if np.issubdtype(images.dtype, np.floating):
            low, high = float(images.min()), float(images.max())
            if not (low >= 0.0 and high <= 1.0):
                raise ValueError(
                    f"float images must lie in [0, 1], these are in [{low:g}, {high:g}]; rescale them first"
                )
            images = np.rint(images * 255.0).astype(np.uint8)
        elif images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype}; give uint8 in 0..255 or float in [0, 1]")
        if images.ndim == 4:
            images = images[:, None]
        height, width = images.shape[2:4]
        if (height, width) == (resolution, resolution):
            return images
        crop = transforms.centre_crop(height, width)
        flat = images.reshape(-1, height, width, 3)
        resized = np.stack([transforms.apply_crop(image, crop, resolution) for image in flat])
        return resized.reshape(*images.shape[:2], resolution, resolution, 3)

    def _checked_latents(self, z: np.ndarray, num_images: int | None) -> np.ndarray:
        z = np.asarray(z, np.float32)
        shape = self.inference.latent_shape
        if z.ndim != 1 + len(shape) or z.shape[1:] != shape or len(z) == 0:
            raise ValueError(f"z has shape {z.shape}; this model's latents are [N, {', '.join(map(str, shape))}]")
        if not np.isfinite(z).all():
            raise ValueError("z holds NaN or infinite values")
        if num_images not in (None, len(z)):
            raise ValueError(f"num_images={num_images} but z holds {len(z)} latents; leave num_images out")
        return z

    def _checked_mask(self, mask: np.ndarray, count: int) -> np.ndarray:
        mask = np.asarray(mask, np.float32)
        if mask.shape not in ((self.num_sections,), (count, self.num_sections)):
            raise ValueError(
                f"section_mask has shape {mask.shape}; give [{self.num_sections}] or [{count}, {self.num_sections}]"
            )
        return np.broadcast_to(mask, (count, self.num_sections))

    def _checked_choice(self, choice: np.ndarray, count: int) -> np.ndarray:
        choice = np.asarray(choice)
        if choice.ndim != 2 or choice.shape[1] != self.num_sections or not np.issubdtype(choice.dtype, np.integer):
            raise ValueError(f"section_choice has shape {choice.shape}; give ints [M, {self.num_sections}]")
        if choice.min() < 0 or choice.max() >= count:
            raise ValueError(f"section_choice must lie in 0..{count - 1}, the rows of z")
        return choice
