"""From a config and its model to the compiled sampler."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.config import GUIDANCE
from soda_jax.diffusion.sampler import Masks, drop_all, make_sampler
from soda_jax.models.aggregation import pick_present
from soda_jax.models.pose import Camera, EncodedCamera


class Condition(NamedTuple):
    """What guides the samples of a model with poses: latents [B, d] (or as the model keeps them) and target cameras."""

    z: jax.Array
    camera: Camera | EncodedCamera


def sampler(
    config: ConfigDict,
    trained: nn.Module,
    *,
    num_steps: int | None = None,
    guidance_on: str | None = None,
    **options: Any,
) -> Callable[..., Any]:
    """The jitted sampling function of a model with a denoiser; `options` override those of `config.sampling`.

    A model with poses takes a `Condition` for z and `Masks` for the section mask. `guidance_on` (the config's by
    default) says what its unconditional prediction drops: the "latent", the "pose" or "both". Its cameras are encoded
    once for all steps, which keeps a grid of `config.model.pose.encoding_dim` channels on the device.
    """
    resolution = config.data.resolution

    def denoise(variables: Any, x_t: jax.Array, t: jax.Array, z: Any, masks: Any) -> jax.Array:
        if trained.pose is None:
            return trained.apply(variables, x_t, t, z, masks, method="denoise")[0]
        target_conditions = {"target_camera": z.camera, "pose_mask": masks.pose}
        return trained.apply(variables, x_t, t, z.z, masks.sections, **target_conditions, method="denoise")[0]

    def one_source(key: jax.Array, condition: Any) -> Any:
        z = condition if trained.pose is None else condition.z
        z = pick_present(z[None], jax.random.uniform(key, (1, z.shape[0])))[0]
        return z if trained.pose is None else condition._replace(z=z)

    def encode_camera(condition: Condition) -> Condition:
        encoded = trained.pose.encoded(condition.camera, (resolution, resolution), trained.denoiser.dtype)
        return condition._replace(camera=encoded)

    settings = {"method": config.sampling.method} | options
    if settings["method"] == "ddim":
        settings.setdefault("eta", config.sampling.eta)
    return make_sampler(
        denoise,
        build.diffusion(config),
        image_shape=(resolution, resolution, 3),
        num_steps=config.sampling.num_steps if num_steps is None else num_steps,
        unconditional=_unconditional(config, trained, guidance_on),
        prepare=None if trained.pose is None else encode_camera,
        choose=one_source if trained.keeps_sources else None,
        **settings,
    )


def _unconditional(config: ConfigDict, trained: nn.Module, guidance_on: str | None) -> Callable[[Any], Any]:
    """From the masks of a sample those of its unconditional prediction (section 3.3 "Guidance")."""
    dropped = config.sampling.guidance_on if guidance_on is None else guidance_on
    if dropped not in GUIDANCE:
        raise ValueError(f"guidance_on={dropped!r}: choose one of {', '.join(GUIDANCE)}")
    if trained.pose is None and dropped != "latent":
        raise ValueError(f"guidance_on={dropped!r}: this model takes no poses (config.model.pose); use 'latent'")
    if trained.pose is None or dropped == "both":
        return drop_all
    field = "sections" if dropped == "latent" else "pose"

    def drop(masks: Masks) -> Masks:
        return masks._replace(**{field: jnp.zeros_like(getattr(masks, field))})

    return drop
