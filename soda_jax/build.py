"""Builds a run's parts from its config: the one place where config fields reach the modules."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import inputs
from soda_jax.config import ConfigError, parse_encoder_name
from soda_jax.data.datasets import Dataset, Labels, entry_of, load_dataset
from soda_jax.data.views import ViewSpec
from soda_jax.diffusion.gaussian import Diffusion
from soda_jax.models.aggregation import (
    MeanAggregator,
    StochasticAggregator,
    TransformerAggregator,
)
from soda_jax.models.baselines import (
    Decoder,
    Discriminator,
    EncoderDecoder,
    Palette,
    UnconditionalDiffusion,
    VariationalAutoencoder,
)
from soda_jax.models.capabilities import LATENT, can
from soda_jax.models.clip import ClipTower
from soda_jax.models.families import FAMILIES
from soda_jax.models.frozen import FrozenSODA
from soda_jax.models.pose import PoseEncoding
from soda_jax.models.probe import LinearProbe
from soda_jax.models.resnet import ResNet
from soda_jax.models.soda import SODA
from soda_jax.models.unet import UNet
from soda_jax.models.vit import ViT
from soda_jax.objectives import optim, vae
from soda_jax.objectives.denoising import DenoisingObjective
from soda_jax.objectives.frozen import FrozenObjective
from soda_jax.objectives.objective import Objective
from soda_jax.objectives.probe import OnlineProbe, ProbeTask
from soda_jax.objectives.regression import RegressionObjective
from soda_jax.objectives.soda import SodaObjective
from soda_jax.objectives.step import TrainStep


def model(config: ConfigDict) -> nn.Module:
    """The model of `config.model`."""
    return objective(config).model


def objective(config: ConfigDict) -> Objective:
    """What a run of `config` optimises, and the model in it."""
    return _FAMILIES[config.model.family](config)


def _soda(config: ConfigDict) -> SodaObjective:
    return SodaObjective(model=SODA(denoiser=_denoiser(config), **_encoding(config)), **_denoising(config))


def _frozen(config: ConfigDict) -> FrozenObjective:
    # Nothing of the encoder learns, so there is no rate to equalise.
    encoding = _encoding(config) | {"encoder_lr_multiplier": 1.0}
    network = FrozenSODA(denoiser=_denoiser(config), latent_dim=config.model.latent_dim, **encoding)
    return FrozenObjective(model=network, **_denoising(config))


def _encoder_decoder(config: ConfigDict) -> RegressionObjective:
    network = EncoderDecoder(decoder=Decoder(**_blocks(config)), **_encoding(config))
    return RegressionObjective(model=network, source_noise=config.data.source_noise)


def _unconditional_diffusion(config: ConfigDict) -> DenoisingObjective:
    return DenoisingObjective(UnconditionalDiffusion(_denoiser(config, modulation="layer")), diffusion(config))


def _palette(config: ConfigDict) -> DenoisingObjective:
    network = Palette(_denoiser(config, modulation="layer"))
    return DenoisingObjective(network, diffusion(config), source_noise=config.data.source_noise)


def _vae(config: ConfigDict) -> vae.VaeObjective:
    return vae.VaeObjective(**_variational(config))


def _vae_factor(config: ConfigDict) -> vae.FactorVaeObjective:
    settings = config.model.vae
    return vae.FactorVaeObjective(
        **_variational(config),
        gamma=settings.factor_gamma,
        discriminator=Discriminator(settings.factor_width),
        adversary_optimizer=optax.adam(settings.factor_learning_rate, b1=0.5, b2=0.9),
    )


def _variational(config: ConfigDict) -> dict[str, Any]:
    """The fields of `VaeObjective` that all VAEs have in common."""
    encoding = _encoding(config)
    # The encoder gives means and log-variances, and codes are drawn from them in place of dropout.
    encoding |= {"encoder": encoding["encoder"].clone(latent_dim=2 * config.model.latent_dim), "latent_dropout": 0.0}
    bernoulli = config.model.vae.likelihood == "bernoulli"
    network = VariationalAutoencoder(decoder=Decoder(**_blocks(config)), bernoulli=bernoulli, **encoding)
    regulariser = _REGULARISERS[config.model.family](config.model.vae)
    return {"model": network, "regulariser": regulariser, "source_noise": config.data.source_noise}


# By the families that have one, from `config.model.vae`.
_REGULARISERS: dict[str, Callable[[ConfigDict], vae.Regulariser]] = {
    "vae_beta": lambda s: vae.Beta(s.beta),
    "vae_annealed": lambda s: vae.Annealed(s.annealed_gamma, s.annealed_capacity, s.annealed_steps),
    "vae_factor": lambda s: vae.Beta(1.0),
    "vae_tc": lambda s: vae.TotalCorrelation(s.beta),
    "vae_dip1": lambda s: vae.Covariance(s.dip_lambda_od, s.dip_lambda_d, of_codes=False),
    "vae_dip2": lambda s: vae.Covariance(s.dip_lambda_od, s.dip_lambda_d, of_codes=True),
}


# By `config.model.family`, as `models.families.FAMILIES` lists them.
_FAMILIES: dict[str, Callable[[ConfigDict], Objective]] = {
    "soda": _soda,
    "encdec": _encoder_decoder,
    "autoenc": _encoder_decoder,
    "uncond": _unconditional_diffusion,
    "palette": _palette,
    "vae_beta": _vae,
    "vae_annealed": _vae,
    "vae_factor": _vae_factor,
    "vae_tc": _vae,
    "vae_dip1": _vae,
    "vae_dip2": _vae,
    "frozen": _frozen,
}


def _denoising(config: ConfigDict) -> dict[str, Any]:
    """The fields of `SodaObjective` beside its model."""
    return {
        "diffusion": diffusion(config),
        "source_noise": config.data.source_noise,
        "latent_mask_rate": config.diffusion.latent_mask_rate,
        "layer_mask_rate": config.diffusion.layer_mask_rate,
        "pose_mask_rate": config.diffusion.pose_mask_rate,
    }


def _encoding(config: ConfigDict) -> dict[str, Any]:
    """The fields that models with an encoder share."""
    return {
        "title": FAMILIES[config.model.family].title,
        "encoder": _encoder(config),
        "aggregator": _aggregator(config.model.aggregation),
        "latent_dropout": config.model.latent_dropout,
        "encoder_lr_multiplier": config.model.encoder.lr_multiplier,
    }


def _encoder(config: ConfigDict) -> ResNet | ViT | ClipTower:
    encoder, dtype = config.model.encoder, jnp.dtype(config.model.dtype)
    family, variant, width = parse_encoder_name(encoder.name)
    latent_dim = config.model.latent_dim if config.model.bottleneck else None
    if family == "clip":
        return ClipTower(
            variant=variant,
            activation=config.model.frozen.activation,
            source_mean=tuple(inputs.IMAGENET_MEAN.tolist()),
            source_std=tuple(inputs.IMAGENET_STD.tolist()),
            attention=config.model.attention,
            dtype=dtype,
        )
    if family == "vit":
        return ViT(
            variant=variant,
            patch_size=encoder.patch_size,
            latent_dim=latent_dim,
            drop_path=encoder.drop_path,
            pose=pose_encoding(config),
            remat=encoder.remat,
            attention=config.model.attention,
            dtype=dtype,
        )
    return ResNet(
        depth=variant,
        latent_dim=latent_dim,
        width=width,
        base_features=encoder.base_features,
        small_stem=encoder.small_stem,
        norm=encoder.norm,
        drop_path=encoder.drop_path,
        pose=pose_encoding(config),
        remat=encoder.remat,
        dtype=dtype,
    )


def _blocks(config: ConfigDict) -> dict[str, Any]:
    """The fields of `ModulatedBlocks`."""
    denoiser, modulation = config.model.denoiser, config.model.modulation
    return {
        "resolution": config.data.resolution,
        "channels": denoiser.channels,
        "multipliers": tuple(denoiser.multipliers),
        "num_res_blocks": denoiser.num_res_blocks,
        "attention_resolutions": tuple(denoiser.attention_resolutions),
        "head_dim": denoiser.head_dim,
        "dropout": denoiser.dropout,
        "norm_groups": denoiser.norm_groups,
        "norm_out_groups": denoiser.norm_out_groups or denoiser.norm_groups,
        "modulation": modulation.kind,
        "use_scale": modulation.use_scale,
        "modulate_by_section": modulation.merge_by_section,
        "resample_section": modulation.resample_section,
        "remat": denoiser.remat,
        "attention": config.model.attention,
        "dtype": jnp.dtype(config.model.dtype),
        "patch_size": denoiser.patch_size,
    }


def _denoiser(config: ConfigDict, **changes: Any) -> UNet:
    """The UNet; `changes` override fields of `ModulatedBlocks`."""
    return UNet(
        time_dim=config.model.denoiser.time_dim,
        num_timesteps=config.diffusion.num_timesteps,
        num_tokens=config.model.modulation.num_tokens,
        embed_sections=config.model.modulation.embed_sections,
        pose=pose_encoding(config),
        **(_blocks(config) | changes),
    )


def pose_encoding(config: ConfigDict) -> PoseEncoding | None:
    """How cameras condition the model of `config`; None where they do not."""
    pose = config.model.pose
    if pose.grid == "none" and pose.vector == "none":
        return None
    return PoseEncoding(
        grid=pose.grid,
        rays=pose.rays,
        coordinates=pose.coordinates,
        relative=pose.relative,
        vector=pose.vector,
        encoding_dim=pose.encoding_dim,
        scale=pose.scale,
        scale_form=pose.scale_form,
        sphere_radius=pose.sphere_radius,
    )


def _aggregator(aggregation: ConfigDict) -> MeanAggregator | TransformerAggregator | StochasticAggregator:
    if aggregation.name == "mean":
        return MeanAggregator()
    if aggregation.name == "stochastic":
        return StochasticAggregator()
    return TransformerAggregator(aggregation.depth, aggregation.num_heads, aggregation.mlp_multiplier)


def diffusion(config: ConfigDict) -> Diffusion:
    settings = config.diffusion
    return Diffusion.create(settings.schedule, settings.num_timesteps, settings.prediction)


def dataset(config: ConfigDict, split: str, bad_files: str | None = None) -> Dataset:
    """Opens a split of the dataset, or a part of one; ValueError with the remedy if it is missing.

    Args:
      split: the dataset's name for it, or of a part, as train@0-90%.
      bad_files: where a folder of images or objects lists those that cannot be read; None keeps the list in memory.
    """
    data = config.data
    known = {
        "resolution": max(data.resolution, data.source_resolution),
        "bad_files": bad_files,
        "max_bad_share": data.max_bad_share,
        "min_views": data.num_sources + 1 if data.view_policy == "camera" else 1,
    }
    options = {name: value for name, value in known.items() if name in entry_of(data.name).options}
    return load_dataset(data.name, data.root or None, split, **options)


def view_spec(config: ConfigDict) -> ViewSpec:
    data = config.data
    return ViewSpec(
        policy=FAMILIES[config.model.family].view_policy or data.view_policy,
        num_sources=data.num_sources,
        min_sources=data.min_sources,
        source_resolution=data.source_resolution,
        target_resolution=data.resolution,
        augment_source=data.augment_source,
        augment_target=data.augment_target,
        crop_rate=data.crop_rate,
        crop_scale=tuple(data.crop_scale),
        flip=data.flip,
        eval_crop=data.eval_crop,
        randaugment_rate=data.randaugment_rate,
        randaugment_ops=data.randaugment_ops,
        randaugment_magnitude=data.randaugment_magnitude,
        randaugment_std=data.randaugment_std,
    )


def schedule(config: ConfigDict) -> optax.Schedule:
    """Learning rate as a function of the step."""
    return optim.learning_rate_schedule(
        config.optim.learning_rate,
        schedule=config.optim.schedule,
        warmup_steps=config.optim.warmup_steps,
        decay_steps=config.optim.decay_steps or config.train.num_steps,
        final_ratio=config.optim.final_lr_ratio,
    )


def probe_task(config: ConfigDict, labels: Mapping[str, Labels]) -> ProbeTask | None:
    """What probes predict of what the dataset has; None where it has nothing or `config.probe.kind` is "none"."""
    kind = config.probe.kind
    if kind == "auto":
        kind = next((name for name in ("factors", "label", "attributes") if name in labels), "none")
    if kind == "none":
        return None
    if kind not in labels:
        have = ", ".join(labels) or "none"
        raise ConfigError(f"config.probe.kind={kind!r}: the dataset has no such labels (it has: {have})")
    return ProbeTask(kind, tuple(labels[kind].sizes), tuple(labels[kind].names))


def _online_probe(config: ConfigDict, trained: nn.Module, labels: Mapping[str, Labels]) -> OnlineProbe | None:
    """The probe beside a model that has latents to read; None for others, and where there is nothing to predict."""
    if not can(trained, LATENT):
        return None
    task, settings = probe_task(config, labels), config.probe
    if task is None:
        return None
    return OnlineProbe(
        task=task,
        module=LinearProbe(task.sizes, settings.dropout, settings.init_scale, settings.bias_init),
        optimizer=optax.adam(settings.learning_rate),
        label_smoothing=settings.label_smoothing,
        raw_pixels=settings.raw_pixels,
    )


def monitor(config: ConfigDict) -> str:
    """The metric that training watches: `config.train.monitor`, but "eval/loss" for a probe's where the model's family
    has no latent that a probe could read, so that a config made for SODA serves such families too."""
    chosen = config.train.monitor
    probed = chosen.startswith("probe")
    return "eval/loss" if probed and LATENT not in FAMILIES[config.model.family].capabilities else chosen


def train_step(config: ConfigDict, labels: Mapping[str, Labels], mesh: Mesh | None = None) -> TrainStep:
    """The training step's constants; `mesh` is that of the run's devices, None for one."""
    optimised = objective(config)
    return TrainStep(
        objective=optimised,
        optimizer=optim.adamw(
            schedule(config),
            b1=config.optim.b1,
            b2=config.optim.b2,
            eps=config.optim.eps,
            weight_decay=config.optim.weight_decay,
            clip_norm=config.optim.clip_norm,
        ),
        root=jax.random.key(config.seed),
        microbatches=config.train.grad_accum_steps,
        ema_decay=config.train.ema_decay,
        ema_warmup=config.train.ema_warmup,
        probe=_online_probe(config, optimised.model, labels),
        devices=mesh,
    )
