"""Checks of what `build.model` reads: encoder, denoiser, modulation and poses."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from soda_jax.config.checks.rules import check_choices, check_ranges, does_not_divide, problem
from soda_jax.models import attention, capabilities, clip, layers, layout, modulation, pose, positional, rays, vit
from soda_jax.models.families import FAMILIES
from soda_jax.models.resnet import STAGE_SIZES

MAX_LEVELS = 16  # each halves the resolution
MAX_WIDTH = 64  # of a ResNet: the paper's is 2
GUIDANCE = ("latent", "pose", "both")


def parse_encoder_name(name: str) -> tuple[str, int | str, int]:
    """Splits an encoder's name: ("resnet", depth, width), or ("vit" or "clip", variant, 1); ValueError on any other."""
    if name.startswith("resnet"):
        depth, _, width = name.removeprefix("resnet").partition("x")
        if depth in map(str, STAGE_SIZES) and (_is_width(width) or "x" not in name):
            return "resnet", int(depth), int(width or 1)
    if name.startswith("vit_") and name.removeprefix("vit_") in vit.VARIANTS:
        return "vit", name.removeprefix("vit_"), 1
    if name.startswith("clip_") and name.removeprefix("clip_") in clip.VARIANTS:
        return "clip", name.removeprefix("clip_"), 1
    raise ValueError(
        f"use resnet{{{','.join(map(str, STAGE_SIZES))}}}[x2], vit_{{{','.join(vit.VARIANTS)}}} or "
        f"clip_{{{','.join(clip.VARIANTS)}}}"
    )


def _is_width(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_WIDTH


def check(config: ConfigDict) -> Iterator[str]:
    """Problems of `config.model` and of what depends on it."""
    yield from check_choices(config, {"model.family": tuple(FAMILIES)})
    if config.model.family not in FAMILIES:
        return
    yield from _check_family(config)
    yield from _check_vae(config)
    yield from _check_encoder(config)
    yield from _check_frozen(config)
    yield from _check_denoiser(config)
    yield from _check_modulation(config)
    yield from _check_pose(config)


def _check_encoder(config: ConfigDict) -> Iterator[str]:
    encoder = config.model.encoder
    try:
        family, variant, _ = parse_encoder_name(encoder.name)
    except ValueError as error:
        yield problem(config, "model.encoder.name", str(error))
        return
    yield from check_choices(config, {"model.encoder.norm": ("batch", "group"), "model.encoder.remat": layers.REMAT})
    yield from check_ranges(
        config,
        {
            "model.encoder.drop_path": (0, 0.99),
            "model.latent_dropout": (0, 0.99),
            "model.encoder.lr_multiplier": (1e-6, float("inf")),
            "model.encoder.base_features": (1, float("inf")),
            "model.encoder.patch_size": (1, float("inf")),
            "model.aggregation.depth": (1, float("inf")),
            "model.aggregation.num_heads": (1, float("inf")),
            "model.aggregation.mlp_multiplier": (1, float("inf")),
        },
    )
    if family == "vit" and does_not_divide(config.data.source_resolution, encoder.patch_size):
        yield problem(
            config,
            "model.encoder.patch_size",
            f"must divide config.data.source_resolution={config.data.source_resolution}",
        )
    aggregation = config.model.aggregation
    yield from check_choices(config, {"model.aggregation.name": ("mean", "transformer", "stochastic")})
    if aggregation.name == "transformer" and does_not_divide(config.model.latent_dim, aggregation.num_heads):
        yield problem(
            config,
            "model.aggregation.num_heads",
            f"must divide config.model.latent_dim={config.model.latent_dim}",
        )


def _check_denoiser(config: ConfigDict) -> Iterator[str]:
    denoiser = config.model.denoiser
    inf = float("inf")
    yield from check_choices(config, {"model.denoiser.remat": layers.REMAT, "model.attention": attention.ATTENTION})
    fields = ("channels", "num_res_blocks", "head_dim", "norm_groups", "patch_size")
    yield from check_ranges(config, {f"model.denoiser.{field}": (1, inf) for field in fields})
    ranges = {"model.denoiser.norm_out_groups": (0, inf), "model.denoiser.dropout": (0, 0.99)}
    yield from check_ranges(config, ranges | {"data.resolution": (1, inf)})
    if denoiser.time_dim % 2 or denoiser.time_dim < 2:
        yield problem(config, "model.denoiser.time_dim", "must be even and at least 2")
    if not 1 <= len(denoiser.multipliers) <= MAX_LEVELS:
        yield problem(config, "model.denoiser.multipliers", f"needs at least one level, and at most {MAX_LEVELS}")
        return
    if min(denoiser.multipliers) < 1:
        yield problem(config, "model.denoiser.multipliers", "must be at least 1 at every level")
        return
    if min(denoiser.attention_resolutions, default=1) < 1:
        yield problem(config, "model.denoiser.attention_resolutions", "must be sides of feature maps, each at least 1")
        return
    patch_size = denoiser.patch_size
    if patch_size < 1:  # named above
        return
    shrink = patch_size * 2 ** (len(denoiser.multipliers) - 1)
    if config.data.resolution % shrink:
        remedy = (
            f"must be a multiple of the denoiser's down-sampling, patch_size * 2^(levels - 1) = {shrink}; or use fewer "
            "multipliers"
        )
        yield problem(config, "data.resolution", remedy)
        return
    blocks = layout.unet_layout(
        config.data.resolution // patch_size,
        denoiser.channels,
        tuple(denoiser.multipliers),
        denoiser.num_res_blocks,
        tuple(denoiser.attention_resolutions),
    )
    widths = {spec.channels for spec in blocks if spec.attention}
    bad = sorted(width for width in widths if does_not_divide(width, denoiser.head_dim))
    if bad:
        remedy = f"must divide the channels of every attention layer; it does not divide {bad}"
        yield problem(config, "model.denoiser.head_dim", remedy)


def _check_family(config: ConfigDict) -> Iterator[str]:
    """What the family cannot take."""
    family = FAMILIES[config.model.family]
    if capabilities.NOISE not in family.capabilities:
        yield from _check_decoder(config)
    if capabilities.LATENT not in family.capabilities:
        yield from _check_without_latent(config)
    if family.view_policy and config.data.view_policy not in ("augment", family.view_policy):
        remedy = f"config.model.family={config.model.family!r} shows views of policy {family.view_policy!r}; use that"
        yield problem(config, "data.view_policy", remedy)


def _check_without_latent(config: ConfigDict) -> Iterator[str]:
    """What a denoiser without an encoder cannot take."""
    family = f"config.model.family={config.model.family!r}"
    for field in ("grid", "vector"):
        if config.model.pose[field] != "none":
            yield problem(config, f"model.pose.{field}", f"{family} takes no poses; use 'none'")
    offered = FAMILIES[config.model.family].capabilities
    if capabilities.SOURCE in offered and config.data.num_sources != 1:
        yield problem(config, "data.num_sources", f"{family} sees one source beside the target; use 1")


def _check_decoder(config: ConfigDict) -> Iterator[str]:
    """What a family that decodes its latents, in place of denoising, cannot take."""
    family = f"config.model.family={config.model.family!r}"
    if config.model.modulation.kind not in ("layer", "full"):
        yield problem(config, "model.modulation.kind", f"{family} modulates by 'layer' or 'full'")
    if not config.model.bottleneck:
        yield problem(config, "model.bottleneck", f"{family} decodes a latent; use True")
    if config.model.aggregation.name == "stochastic":
        yield problem(config, "model.aggregation.name", f"{family} has no sampling steps to draw sources for")
    for field in ("grid", "vector"):
        if config.model.pose[field] != "none":
            yield problem(config, f"model.pose.{field}", f"{family} takes no poses; use 'none'")


def _check_vae(config: ConfigDict) -> Iterator[str]:
    yield from check_choices(config, {"model.vae.likelihood": ("gaussian", "bernoulli")})
    inf = float("inf")
    weights = ("beta", "annealed_gamma", "annealed_capacity", "factor_gamma", "dip_lambda_od", "factor_learning_rate")
    yield from check_ranges(config, {f"model.vae.{field}": (0, inf) for field in weights})
    yield from check_ranges(config, {f"model.vae.{field}": (1, inf) for field in ("annealed_steps", "factor_width")})
    if config.model.vae.dip_lambda_d is not None:
        yield from check_ranges(config, {"model.vae.dip_lambda_d": (0, inf)})


def _check_frozen(config: ConfigDict) -> Iterator[str]:
    """What a frozen encoder cannot take, and the encoder that nothing else can."""
    yield from check_choices(config, {"model.frozen.activation": tuple(clip.ACTIVATIONS)})
    if config.model.family != "frozen":
        if config.model.encoder.name.startswith("clip_"):
            yield problem(config, "model.encoder.name", "is not trained here; use config.model.family='frozen'")
        return
    family = "config.model.family='frozen'"
    if not config.model.bottleneck:
        yield problem(config, "model.bottleneck", f"{family} takes one vector of its encoder; use True")
    if config.model.aggregation.name == "transformer":
        remedy = f"would be trained on top of the encoder, of which {family} trains nothing; use 'mean' or 'stochastic'"
        yield problem(config, "model.aggregation.name", remedy)
    for field in ("grid", "vector"):
        if config.model.pose[field] != "none":
            yield problem(config, f"model.pose.{field}", f"{family} takes no poses; use 'none'")


def _check_modulation(config: ConfigDict) -> Iterator[str]:
    model = config.model
    yield from check_choices(
        config,
        {
            "model.modulation.kind": modulation.KINDS,
            "model.modulation.resample_section": ("leave", "enter"),
        },
    )
    yield from check_ranges(config, {"model.modulation.num_tokens": (1, float("inf"))})
    sections = layout.num_sections(tuple(model.denoiser.multipliers), model.denoiser.num_res_blocks)
    if model.latent_dim < sections:
        remedy = f"is smaller than the denoiser's {sections} sections; use at least {sections}"
        yield problem(config, "model.latent_dim", remedy)
    if (
        model.modulation.kind == "cross_attention"
        and model.bottleneck
        and does_not_divide(model.latent_dim, model.modulation.num_tokens)
    ):
        yield problem(
            config,
            "model.modulation.num_tokens",
            f"must divide config.model.latent_dim={model.latent_dim}",
        )
    if not model.bottleneck:
        if model.modulation.kind != "cross_attention":
            yield problem(config, "model.bottleneck", "needs config.model.modulation.kind='cross_attention'")
        if config.data.num_sources != 1:
            yield problem(config, "data.num_sources", "must be 1 with config.model.bottleneck=False")
        if model.aggregation.name == "stochastic":
            yield problem(
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
    yield from check_ranges(config, ranges | {"diffusion.pose_mask_rate": (0, 1)})
    wrong = list(check_choices(config, choices))
    yield from wrong
    if wrong:
        return
    encoding = pose.PoseEncoding(**settings.to_dict())
    if settings.encoding_dim < 2 * encoding.num_coordinates:
        remedy = (
            f"is too narrow for {encoding.num_coordinates} coordinates; use at least {2 * encoding.num_coordinates}"
        )
        yield problem(config, "model.pose.encoding_dim", remedy)
    if encoding.needs_cameras and config.data.view_policy != "camera":
        field = "model.pose.grid" if settings.grid == "rays" else "model.pose.vector"
        yield problem(config, field, "needs cameras: use config.data.view_policy='camera' on a set that has them")
    if encoding.needs_windows and config.data.view_policy == "camera":
        yield problem(config, "model.pose.grid", "is of crops, but config.data.view_policy='camera'; use 'rays'")
    if settings.relative and settings.grid != "rays":
        yield problem(config, "model.pose.relative", "is of rays; use config.model.pose.grid='rays', or False")
    guided_on = config.sampling.guidance_on
    if guided_on != "latent" and settings.grid == settings.vector == "none":
        yield problem(config, "sampling.guidance_on", "this model has no poses to drop; use 'latent'")
    elif guided_on != "latent" and config.sampling.guidance_scale != 1 and config.diffusion.pose_mask_rate == 0:
        remedy = "needs training with hidden poses: config.diffusion.pose_mask_rate above 0; or use 'latent'"
        yield problem(config, "sampling.guidance_on", remedy)
