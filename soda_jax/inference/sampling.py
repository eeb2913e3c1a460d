"""From a config and its model to the compiled sampler, and to its inversion."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.config import GUIDANCE
from soda_jax.diffusion.inversion import make_inverter
from soda_jax.diffusion.sampler import Denoise, Masks, drop_all, make_sampler
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
    default) says what its unconditional prediction drops: the "latent", the "pose" or "both". What depends on its
    cameras alone is computed once for all steps (`models/fixed_camera.py`) and stays on the device: of an image four
    maps of `config.model.denoiser.channels` channels, or a grid of `config.model.pose.encoding_dim`.
    """
    resolution = config.data.resolution

    def one_source(key: jax.Array, condition: Any) -> Any:
        z = condition if trained.pose is None else condition.z
        z = pick_present(z[None], jax.random.uniform(key, (1, z.shape[0])))[0]
        return z if trained.pose is None else condition._replace(z=z)

    settings = {"method": config.sampling.method} | options
    if settings["method"] == "ddim":
        settings.setdefault("eta", config.sampling.eta)
    return make_sampler(
        _denoiser(trained),
        build.diffusion(config),
        image_shape=(resolution, resolution, 3),
        num_steps=config.sampling.num_steps if num_steps is None else num_steps,
        unconditional=_unconditional(config, trained, guidance_on),
        prepare=_camera_encoder(config, trained),
        choose=one_source if trained.keeps_sources else None,
        **settings,
    )


def inverter(
    config: ConfigDict,
    trained: nn.Module,
    *,
    num_steps: int | None = None,
    guidance_on: str | None = None,
    **options: Any,
) -> Callable[..., jax.Array]:
    """The jitted inversion of `sampler`'s deterministic DDIM; `options` are `iterations` and `guided`.

    Raises:
      ValueError: the model draws another source's latent at each step, so no one chain leads to an image.
    """
    if trained.keeps_sources:
        raise ValueError(
            "config.model.aggregation.name='stochastic': each step of sampling draws a source by the image's seed, so "
            "an image has no x_T of its own; invert with a model of 'mean' or 'transformer' aggregation"
        )
    return make_inverter(
        _denoiser(trained),
        build.diffusion(config),
        num_steps=config.sampling.num_steps if num_steps is None else num_steps,
        unconditional=_unconditional(config, trained, guidance_on),
        prepare=_camera_encoder(config, trained),
        **options,
    )


def _denoiser(trained: nn.Module) -> Denoise:
    """The denoiser as sampling and inversion call it."""

    def denoise(variables: Any, x_t: jax.Array, t: jax.Array, z: Any, masks: Any) -> jax.Array:
        if trained.pose is None:
            return trained.apply(variables, x_t, t, z, masks, method="denoise")[0]
        target_conditions = {"target_camera": z.camera, "pose_mask": masks.pose}
        return trained.apply(variables, x_t, t, z.z, masks.sections, **target_conditions, method="denoise")[0]

    return denoise


def _camera_encoder(config: ConfigDict, trained: nn.Module) -> Callable[[Any, Condition], Condition] | None:
    """Computes once for all steps what depends on a condition's cameras alone; None for a model without poses."""
    shape = (config.data.resolution, config.data.resolution)

    def encode_camera(variables: Any, condition: Condition) -> Condition:
        camera = trained.pose.encoded(condition.camera, shape, trained.denoiser.patch_size, trained.denoiser.dtype)
        return condition._replace(camera=trained.fix_camera(variables["params"], camera))

    return None if trained.pose is None else encode_camera


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
