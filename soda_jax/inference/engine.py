"""Encoding and sampling of host arrays of any length, in batches of few sizes, for evaluation, grids and the API."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import inputs
from soda_jax.diffusion.inversion import invert_in_batches
from soda_jax.diffusion.sampler import Masks, sample_in_batches
from soda_jax.inference import sampling
from soda_jax.inference.cameras import shown_camera
from soda_jax.inference.encoding import Encoding, Variables, padded_rows
from soda_jax.models.capabilities import DECODE, GUIDANCE, NOISE, UNCONDITIONAL, can, require
from soda_jax.models.pose import Camera
from soda_jax.parallel import sharding


class Inference(Encoding):
    """The encoder and the sampler of one config. Weights come with each call, as for `Encoding`.

    Args:
      config: the run's config.
      mesh: devices to work on; all by default.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh | None = None):
        super().__init__(config, mesh)
        self.sample_batch_size = sharding.round_up(config.sampling.batch_size, self.mesh)
        self._decode_batch = jax.jit(
            lambda variables, z, section_mask: self.model.apply(variables, z, section_mask, method="decode")[0],
            out_shardings=sharding.replicated(self.mesh),
        )
        self._samplers: dict[Any, Callable[..., Any]] = {}
        self._inverters: dict[Any, Callable[..., Any]] = {}

    def conditions(self, batch: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A data batch's cameras as keyword arguments of (`encode`, `sample`); none for a model without poses."""
        pose = self.model.pose
        if pose is None:
            return {}, {}
        return (
            {"source_camera": inputs.source_camera(batch, pose)},
            {"target_camera": inputs.target_camera(batch, pose)},
        )

    def sample(
        self,
        variables: Variables,
        z: np.ndarray,
        section_mask: np.ndarray | None = None,
        *,
        target_camera: Camera | None = None,
        pose_mask: np.ndarray | None = None,
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        first_index: int = 0,
        indices: np.ndarray | None = None,
        start: np.ndarray | None = None,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Images for latents z [N, d] (or as `guide` gives them).

        Args:
          section_mask: [N, sections] 0/1, the sections that guide; all by default.
          target_camera: the cameras to show the images from, leading axis [N], with `reference` where the model
            relates poses to a source's; by default the views are the model's own choice.
          pose_mask: [N] 0/1, the images whose target camera counts; all by default.
          guidance_scale, num_steps: `config.sampling`'s by default; a scale of 1 is unguided conditional sampling.
          seed, first_index: image i is drawn from (seed, first_index + i).
          indices: int [N] in place of `first_index`: image i is drawn from (seed, indices[i]), so that several images
            may share their noise.
          start: float [N, H, W, 3], the noise x_T to start from, as `invert` gives it; by default it is drawn, too.
          **options: `method`, `eta`, `num_frames`, `clip_x0` of `make_sampler`, `guidance_on` of `sampling.sampler`.

        Returns:
          `images` float32 [N, H, W, 3] in [-1, 1], and `frames` [num_frames, N, H, W, 3] if asked for.

        Raises:
          ValueError: for cameras that the model does not take, or lacks, guidance that it has not, or a `start` of
            another shape.
        """
        if not can(self.model, NOISE):
            self._check_camera(target_camera, pose_mask)
            given = {"guidance_scale": guidance_scale, "num_steps": num_steps, "start": start is not None} | options
            for name in [name for name, value in given.items() if value]:
                require(self.model, NOISE, name)
            return self._decode(variables, z, section_mask)
        scale = self._guidance_scale(guidance_scale)
        condition, mask = self._condition(z, section_mask, target_camera, pose_mask)
        return sample_in_batches(
            # At scale 1 guidance would only double the cost.
            self.sampler(num_steps, guided=scale != 1.0, **options),
            variables,
            jax.random.key(seed),
            condition,
            mask,
            num_images=len(z),
            batch_size=self._batch_size(len(z), self.sample_batch_size),
            first_index=first_index,
            indices=indices,
            guidance_scale=scale,
            start=start,
            sharding=sharding.batch_sharding(self.mesh),
        )

    def invert(
        self,
        variables: Variables,
        images: np.ndarray,
        z: np.ndarray,
        section_mask: np.ndarray | None = None,
        *,
        target_camera: Camera | None = None,
        pose_mask: np.ndarray | None = None,
        guidance_scale: float = 1.0,
        num_steps: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """The noise x_T that makes `images` of latents z: float32 [N, H, W, 3].

        `sample(variables, z, start=x_T, method="ddim", eta=0.0, clip_x0=False, guidance_scale=1.0)`, with the same
        masks, cameras and number of steps, gives the images back; with an edited z it keeps what z does not tell.

        Args:
          images: [N, H, W, 3] of the model's resolution, uint8, or float in [-1, 1].
          section_mask, target_camera, pose_mask, num_steps: as of `sample`.
          guidance_scale: that of the samples; any but 1 doubles the cost, and asks for more iterations.
          **options: `iterations` of `make_inverter`, `guidance_on` of `sampling.inverter`.

        Raises:
          ValueError: for images of another size or range, a model that does not sample from noise, one that draws
            another source at each step, and cameras as `sample` takes none.
        """
        require(self.model, NOISE, "invert")
        images = _checked_images(images, len(z), self.config.data.resolution)
        condition, mask = self._condition(z, section_mask, target_camera, pose_mask)
        return invert_in_batches(
            self.inverter(num_steps, guided=guidance_scale != 1.0, **options),
            variables,
            images,
            condition,
            mask,
            batch_size=self._batch_size(len(z), self.sample_batch_size),
            guidance_scale=guidance_scale,
            sharding=sharding.batch_sharding(self.mesh),
        )

    def _condition(
        self, z: np.ndarray, section_mask: np.ndarray | None, camera: Camera | None, pose_mask: np.ndarray | None
    ) -> tuple[Any, Any]:
        """(condition, masks) as the sampler takes them."""
        self._check_camera(camera, pose_mask)
        mask = np.ones((len(z), self.num_sections), np.float32) if section_mask is None else section_mask
        if self.model.pose is None:
            return z, mask
        camera, shown = shown_camera(self.model.pose, len(z), camera, pose_mask)
        return sampling.Condition(z, camera), Masks(mask, shown)

    def _guidance_scale(self, asked: float | None) -> float:
        if not can(self.model, GUIDANCE):
            if asked not in (None, 1.0):
                require(self.model, GUIDANCE, f"guidance_scale={asked}")
            return 1.0
        return self.config.sampling.guidance_scale if asked is None else asked

    def _decode(self, variables: Variables, z: np.ndarray, section_mask: np.ndarray | None) -> dict[str, np.ndarray]:
        """`sample` of a model that makes one image of each latent."""
        require(self.model, DECODE, "an image of a latent")
        mask = np.ones((len(z), self.num_sections), np.float32) if section_mask is None else section_mask
        count, size = len(z), self._batch_size(len(z), self.sample_batch_size)
        parts = (
            sharding.put_whole_batch({"z": np.asarray(z)[r], "section_mask": np.asarray(mask)[r]}, self.mesh)
            for r in padded_rows(count, size)
        )
        images = np.concatenate([np.asarray(self._decode_batch(variables, **part)) for part in parts])
        return {"images": np.clip(images[:count], -1.0, 1.0)}

    def sample_unconditional(self, variables: Variables, count: int, **options: Any) -> dict[str, np.ndarray]:
        """As `sample`, for `count` images with every section of the latent dropped: with a target camera, new objects
        seen from there.

        Raises:
          ValueError: the model does not sample from noise, or not without a source.
        """
        require(self.model, NOISE, "unconditional sampling")
        require(self.model, UNCONDITIONAL, "unconditional sampling")
        guided_on = options.get("guidance_on") or self.config.sampling.guidance_on
        if options.get("target_camera") is None or guided_on == "latent":
            # Both predictions that guidance compares would be the same one: half of the work is for nothing.
            options = options | {"guidance_scale": 1.0}
        z = np.zeros((count, *self.guide_shape), np.float32)
        return self.sample(variables, z, np.zeros((count, self.num_sections), np.float32), **options)

    def _check_camera(self, camera: Camera | None, pose_mask: np.ndarray | None) -> None:
        if camera is not None or pose_mask is not None:
            self._require_pose("pose_mask" if camera is None else "target_camera")

    def sampler(self, num_steps: int | None = None, **options: Any) -> Callable[..., Any]:
        """The compiled sampler for these settings, made once."""
        return self._made_once(self._samplers, sampling.sampler, num_steps, options)

    def inverter(self, num_steps: int | None = None, **options: Any) -> Callable[..., Any]:
        """The compiled inversion for these settings, made once."""
        return self._made_once(self._inverters, sampling.inverter, num_steps, options)

    def _made_once(
        self, made: dict[Any, Any], make: Callable[..., Any], num_steps: int | None, options: dict[str, Any]
    ) -> Callable[..., Any]:
        num_steps = self.config.sampling.num_steps if num_steps is None else num_steps
        key = (num_steps, *sorted(options.items()))
        if key not in made:
            made[key] = make(self.config, self.model, num_steps=num_steps, **options)
        return made[key]


def _checked_images(images: np.ndarray, count: int, resolution: int) -> np.ndarray:
    """Images to invert as float32 [count, H, W, 3] in [-1, 1]."""
    images, shape = np.asarray(images), (count, resolution, resolution, 3)
    if images.shape != shape:
        raise ValueError(f"images have shape {images.shape}; the model and {count} latents take {shape}")
    if images.dtype == np.uint8:
        return np.asarray(inputs.normalise_target(images))
    if not np.issubdtype(images.dtype, np.floating) or not (np.abs(images) <= 1).all():
        raise ValueError(f"images of {images.dtype} are not all in [-1, 1]; give them so, or as uint8")
    return images.astype(np.float32)
