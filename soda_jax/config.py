"""Checks of a config before anything compiles: impossible values are named with their remedy."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from soda_jax.data.randaugment import MAX_MAGNITUDE
from soda_jax.data.views import POLICIES
from soda_jax.diffusion import schedules
from soda_jax.diffusion.gaussian import PREDICTIONS
from soda_jax.models import modulation, pose, positional, rays, unet, vit
from soda_jax.models.resnet import STAGE_SIZES

# Sections and fields that a checkpoint's weights depend on, and those that its whole training state depends on.
MODEL_FIELDS = ("model", "diffusion", "data.resolution")
STATE_FIELDS = (*MODEL_FIELDS, "data.name", "data.source_resolution", "probe.kind", "probe.raw_pixels")

GUIDANCE = ("latent", "pose", "both")

# Fields that configs of earlier releases lack, with the values that describe what those releases did.
ADDED_FIELDS = {
    "model": {"pose": dataclasses.asdict(pose.PoseEncoding(grid="none")), "denoiser": {"norm_groups": 32}},
    "diffusion": {"pose_mask_rate": 0.12, "prediction": "eps"},
    "sampling": {"guidance_on": "latent", "turntable_views": 24, "turntable_altitude": 0.0},
    "eval": {"novel_view_sources": (1, 3, 5, 7, 9), "novel_view_examples": 64, "novel_view_targets": 2},
    "data": {
        "min_sources": 0,
        "randaugment_rate": 0.0,
        "randaugment_ops": 2,
        "randaugment_magnitude": 9.0,
        "randaugment_std": 0.5,
        "max_bad_share": 0.05,
    },
}


class ConfigError(ValueError):
    """A config that cannot run; the message names each field, its value and what to do."""


def parse_encoder_name(name: str) -> tuple[str, int | str, int]:
    """Splits an encoder's name: ("resnet", depth, width) or ("vit", variant, 1); ValueError on any other."""
    if name.startswith("resnet"):
        depth, _, width = name.removeprefix("resnet").partition("x")
        if depth.isdigit() and int(depth) in STAGE_SIZES and (width.isdigit() and int(width) > 0 or "x" not in name):
            return "resnet", int(depth), int(width or 1)
    if name.startswith("vit_") and name.removeprefix("vit_") in vit.VARIANTS:
        return "vit", name.removeprefix("vit_"), 1
    raise ValueError(f"use resnet{{{','.join(map(str, STAGE_SIZES))}}}[x2] or vit_{{{','.join(vit.VARIANTS)}}}")


def validate(config: ConfigDict, num_devices: int = 1) -> None:
    """Raises ConfigError listing every impossible value of `config` on `num_devices` devices."""
    problems = [
        *_check_training(config, num_devices),
        *_check_encoder(config),
        *_check_denoiser(config),
        *_check_modulation(config),
        *_check_pose(config),
        *_check_diffusion(config),
        *_check_data(config),
        *_check_novel_views(config),
    ]
    if problems:
        raise ConfigError("this config cannot run:\n" + "\n".join(f"  {problem}" for problem in problems))


def _value(config: ConfigDict, field: str) -> Any:
    value: Any = config
    for part in field.split("."):
        value = value[part]
    return value


def _problem(config: ConfigDict, field: str, remedy: str) -> str:
    return f"config.{field}={_value(config, field)!r}: {remedy}"


def _does_not_divide(whole: int, part: int) -> bool:
    return part > 0 and whole % part != 0  # a part below 1 is reported by its range


def _check_ranges(config: ConfigDict, ranges: dict[str, tuple[float, float]]) -> Iterator[str]:
    for field, (low, high) in ranges.items():
        value = _value(config, field)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            yield _problem(config, field, "must be a finite number")
        elif not low <= value <= high:
            bound = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
            yield _problem(config, field, f"must be {bound}")


def _check_choices(config: ConfigDict, choices: dict[str, tuple[str, ...]]) -> Iterator[str]:
    for field, allowed in choices.items():
        if _value(config, field) not in allowed:
            yield _problem(config, field, f"must be one of {', '.join(allowed)}")


def _check_training(config: ConfigDict, num_devices: int) -> Iterator[str]:
    inf = float("inf")
    positive = (
        "num_steps",
        "batch_size",
        "grad_accum_steps",
        "log_every",
        "eval_every",
        "checkpoint_every",
    )
    yield from _check_ranges(config, {f"train.{field}": (1, inf) for field in (*positive, "keep_every")})
    yield from _check_ranges(
        config,
        {
            "train.ema_decay": (0, 1),
            "optim.learning_rate": (0, inf),
            "optim.final_lr_ratio": (0, 1),
            "optim.b1": (0, 1 - 1e-9),
            "optim.b2": (0, 1 - 1e-9),
            "optim.decay_steps": (0, inf),
            "optim.warmup_steps": (0, inf),
            "optim.weight_decay": (0, inf),
            "optim.clip_norm": (1e-12, inf),
            "eval.batch_size": (1, inf),
            "eval.num_examples": (0, inf),
            "sampling.batch_size": (1, inf),
            "sampling.num_images": (1, inf),
            "sampling.turntable_views": (0, inf),
            "sampling.turntable_altitude": (-85, 85),
            "eval.novel_view_examples": (0, inf),
            "eval.novel_view_targets": (1, inf),
            "probe.dropout": (0, 0.99),
            "probe.label_smoothing": (0, 0.99),
        },
    )
    yield from _check_choices(
        config,
        {
            "optim.schedule": ("constant", "cosine"),
            "probe.kind": ("auto", "label", "attributes", "factors", "none"),
            "model.dtype": ("float32", "bfloat16"),
        },
    )
    accumulation = config.train.grad_accum_steps
    multiple = num_devices * max(accumulation, 1)
    if config.train.batch_size % multiple:
        remedy = f"must be a multiple of devices x grad_accum_steps = {num_devices} x {accumulation} = {multiple}"
        yield _problem(config, "train.batch_size", remedy)


def _check_encoder(config: ConfigDict) -> Iterator[str]:
    encoder = config.model.encoder
    try:
        family, variant, _ = parse_encoder_name(encoder.name)
    except ValueError as error:
        yield _problem(config, "model.encoder.name", str(error))
        return
    yield from _check_choices(config, {"model.encoder.norm": ("batch", "group")})
    yield from _check_ranges(
        config,
        {
            "model.encoder.drop_path": (0, 0.99),
            "model.latent_dropout": (0, 0.99),
            "model.encoder.lr_multiplier": (1e-6, float("inf")),
            "model.encoder.base_features": (1, float("inf")),
            "model.encoder.patch_size": (1, float("inf")),
            "model.aggregation.depth": (1, float("inf")),
            "model.aggregation.num_heads": (1, float("inf")),
        },
    )
    if family == "vit" and _does_not_divide(config.data.source_resolution, encoder.patch_size):
        yield _problem(
            config,
            "model.encoder.patch_size",
            f"must divide config.data.source_resolution={config.data.source_resolution}",
        )
    aggregation = config.model.aggregation
    yield from _check_choices(config, {"model.aggregation.name": ("mean", "transformer", "stochastic")})
    if aggregation.name == "transformer" and _does_not_divide(config.model.latent_dim, aggregation.num_heads):
        yield _problem(
            config,
            "model.aggregation.num_heads",
            f"must divide config.model.latent_dim={config.model.latent_dim}",
        )


def _check_denoiser(config: ConfigDict) -> Iterator[str]:
    denoiser = config.model.denoiser
    inf = float("inf")
    fields = ("channels", "num_res_blocks", "head_dim", "norm_groups")
    yield from _check_ranges(config, {f"model.denoiser.{field}": (1, inf) for field in fields})
    yield from _check_ranges(config, {"model.denoiser.dropout": (0, 0.99), "data.resolution": (1, inf)})
    if denoiser.time_dim % 2 or denoiser.time_dim < 2:
        yield _problem(config, "model.denoiser.time_dim", "must be even and at least 2")
    if not denoiser.multipliers:
        yield _problem(config, "model.denoiser.multipliers", "needs at least one level")
        return
    shrink = 2 ** (len(denoiser.multipliers) - 1)
    if config.data.resolution % shrink:
        remedy = (
            f"must be a multiple of the denoiser's down-sampling 2^(levels - 1) = {shrink}; or use fewer multipliers"
        )
        yield _problem(config, "data.resolution", remedy)
        return
    layout = unet.unet_layout(
        config.data.resolution,
        denoiser.channels,
        tuple(denoiser.multipliers),
        denoiser.num_res_blocks,
        tuple(denoiser.attention_resolutions),
    )
    widths = {spec.channels for spec in layout if spec.attention}
    bad = sorted(width for width in widths if _does_not_divide(width, denoiser.head_dim))
    if bad:
        remedy = f"must divide the channels of every attention layer; it does not divide {bad}"
        yield _problem(config, "model.denoiser.head_dim", remedy)


def _check_modulation(config: ConfigDict) -> Iterator[str]:
    model = config.model
    yield from _check_choices(
        config,
        {
            "model.modulation.kind": modulation.KINDS,
            "model.modulation.resample_section": ("leave", "enter"),
        },
    )
    yield from _check_ranges(config, {"model.modulation.num_tokens": (1, float("inf"))})
    sections = unet.num_sections(tuple(model.denoiser.multipliers), model.denoiser.num_res_blocks)
    if model.latent_dim < sections:
        remedy = f"is smaller than the denoiser's {sections} sections; use at least {sections}"
        yield _problem(config, "model.latent_dim", remedy)
    if (
        model.modulation.kind == "cross_attention"
        and model.bottleneck
        and _does_not_divide(model.latent_dim, model.modulation.num_tokens)
    ):
        yield _problem(
            config,
            "model.modulation.num_tokens",
            f"must divide config.model.latent_dim={model.latent_dim}",
        )
    if not model.bottleneck:
        if model.modulation.kind != "cross_attention":
            yield _problem(config, "model.bottleneck", "needs config.model.modulation.kind='cross_attention'")
        if config.data.num_sources != 1:
            yield _problem(config, "data.num_sources", "must be 1 with config.model.bottleneck=False")
        if model.aggregation.name == "stochastic":
            yield _problem(
                config, "model.aggregation.name", "needs latents to choose from: config.model.bottleneck=True"
            )


def _check_pose(config: ConfigDict) -> Iterator[str]:
    settings = config.model.pose
    choices = {
        "model.pose.grid": pose.GRIDS,
        "model.pose.rays": rays.FORMS,
        "model.pose.coordinates": rays.COORDINATES,
        "model.pose.vector": pose.VECTORS,
        "model.pose.scale_form": positional.SCALE_FORMS,
        "sampling.guidance_on": GUIDANCE,
    }
    small, inf = 1e-12, float("inf")
    ranges = {"model.pose.scale": (small, inf), "model.pose.sphere_radius": (small, inf)}
    yield from _check_ranges(config, ranges | {"diffusion.pose_mask_rate": (0, 1)})
    wrong = list(_check_choices(config, choices))
    yield from wrong
    if wrong:
        return
    encoding = pose.PoseEncoding(**settings.to_dict())
    if settings.encoding_dim < 2 * encoding.num_coordinates:
        remedy = (
            f"is too narrow for {encoding.num_coordinates} coordinates; use at least {2 * encoding.num_coordinates}"
        )
        yield _problem(config, "model.pose.encoding_dim", remedy)
    if encoding.needs_cameras and config.data.view_policy != "camera":
        field = "model.pose.grid" if settings.grid == "rays" else "model.pose.vector"
        yield _problem(config, field, "needs cameras: use config.data.view_policy='camera' on a set that has them")
    if encoding.needs_windows and config.data.view_policy == "camera":
        yield _problem(config, "model.pose.grid", "is of crops, but config.data.view_policy='camera'; use 'rays'")
    if settings.relative and settings.grid != "rays":
        yield _problem(config, "model.pose.relative", "is of rays; use config.model.pose.grid='rays', or False")
    guided_on = config.sampling.guidance_on
    if guided_on != "latent" and settings.grid == settings.vector == "none":
        yield _problem(config, "sampling.guidance_on", "this model has no poses to drop; use 'latent'")
    elif guided_on != "latent" and config.sampling.guidance_scale != 1 and config.diffusion.pose_mask_rate == 0:
        remedy = "needs training with hidden poses: config.diffusion.pose_mask_rate above 0; or use 'latent'"
        yield _problem(config, "sampling.guidance_on", remedy)


def _check_diffusion(config: ConfigDict) -> Iterator[str]:
    yield from _check_choices(
        config,
        {
            "diffusion.schedule": tuple(schedules.SCHEDULES),
            "diffusion.prediction": PREDICTIONS,
            "sampling.method": ("ddpm", "ddim"),
        },
    )
    yield from _check_ranges(
        config,
        {
            "diffusion.num_timesteps": (2, float("inf")),
            "diffusion.latent_mask_rate": (0, 1),
            "diffusion.layer_mask_rate": (0, 1),
            "sampling.num_steps": (1, config.diffusion.num_timesteps),
            "sampling.eta": (0, 1),
        },
    )


def _check_data(config: ConfigDict) -> Iterator[str]:
    data = config.data
    inf = float("inf")
    yield from _check_ranges(
        config,
        {
            "data.source_noise": (0, inf),
            "data.source_resolution": (8, inf),
            "data.num_sources": (1, inf),
            "data.min_sources": (0, data.num_sources),
            "data.crop_rate": (0, 1),
            "data.randaugment_rate": (0, 1),
            "data.randaugment_ops": (1, inf),
            "data.randaugment_magnitude": (0, MAX_MAGNITUDE),
            "data.randaugment_std": (0, inf),
            "data.max_bad_share": (0, 1),
            "data.num_workers": (0, inf),
        },
    )
    yield from _check_choices(config, {"data.view_policy": POLICIES})
    if not data.name:
        yield _problem(
            config,
            "data.name",
            "set a dataset: scenes, scenes_free, folder, or a prepared TFDS set",
        )
    if data.name == "folder" and not data.root:
        yield _problem(config, "data.root", "set the folder that holds the images")
    if len(data.crop_scale) != 2 or not 0 < data.crop_scale[0] <= data.crop_scale[1] <= 1:
        yield _problem(config, "data.crop_scale", "must be (low, high) with 0 < low <= high <= 1")


def _check_novel_views(config: ConfigDict) -> Iterator[str]:
    counts = config.eval.novel_view_sources
    if not counts or any(not isinstance(count, int) or count < 1 for count in counts):
        yield _problem(config, "eval.novel_view_sources", "must be numbers of sources, each at least 1")
    if "novel_view" in config.eval.evaluators and config.data.view_policy != "camera":
        remedy = "novel_view needs config.data.view_policy='camera' on a set with cameras; leave it out"
        yield _problem(config, "eval.evaluators", remedy)


def to_json(config: ConfigDict) -> str:
    """The config as JSON text: data, not code."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_dict(tree: dict[str, Any]) -> ConfigDict:
    """A locked config from `to_json`'s data; lists become tuples again, and `ADDED_FIELDS` are filled in."""

    def untangle(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: untangle(value) for key, value in node.items()}
        return tuple(untangle(item) for item in node) if isinstance(node, list) else node

    def fill(node: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
        given = {key: fill(node[key], added[key]) for key in added if isinstance(added[key], dict) and key in node}
        return added | node | given

    filled = fill(tree, {section: added for section, added in ADDED_FIELDS.items() if section in tree})
    return ConfigDict(untangle(filled)).lock()


def differences(saved: ConfigDict, current: ConfigDict, fields: tuple[str, ...] = MODEL_FIELDS) -> list[str]:
    """Where two configs differ within `fields` (sections or single fields), as `config.field: saved -> current`."""

    def flatten(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, (dict, ConfigDict)):
                yield from flatten(value, f"{prefix}.{key}")
            else:
                yield f"{prefix}.{key}", tuple(value) if isinstance(value, list) else value

    old, new = dict(flatten(saved, "config")), dict(flatten(current, "config"))
    chosen = tuple(f"config.{field}" for field in fields)
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if name.startswith(tuple(f"{field}." for field in chosen)) or name in chosen
        if old.get(name) != new.get(name)
    ]
