"""Checks of training, diffusion, sampling and data."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from soda_jax.config.checks.rules import check_choices, check_names, check_ranges, problem
from soda_jax.config.pictures import DEFAULT, PICTURES
from soda_jax.data.datasets import DATASETS, entry_of
from soda_jax.data.randaugment import MAX_MAGNITUDE
from soda_jax.data.views import POLICIES
from soda_jax.diffusion import schedules
from soda_jax.diffusion.gaussian import PREDICTIONS
from soda_jax.latents.sections import parse_range
from soda_jax.models import layout, modulation
from soda_jax.models.pose import PoseEncoding


def check(config: ConfigDict, num_devices: int) -> Iterator[str]:
    """Problems of `config.train`, `.optim`, `.probe`, `.diffusion`, `.sampling` and `.data`."""
    yield from _check_training(config, num_devices)
    yield from _check_diffusion(config)
    yield from _check_sampling(config)
    yield from _check_data(config)


def _check_training(config: ConfigDict, num_devices: int) -> Iterator[str]:
    inf = float("inf")
    positive = (
        "num_steps",
        "batch_size",
        "grad_accum_steps",
        "fsdp",
        "log_every",
        "eval_every",
        "checkpoint_every",
    )
    yield from check_ranges(config, {f"train.{field}": (1, inf) for field in (*positive, "keep_every")})
    yield from check_ranges(
        config,
        {
            "train.ema_decay": (0, 1),
            "optim.learning_rate": (0, inf),
            "optim.final_lr_ratio": (0, 1),
            "optim.b1": (0, 1 - 1e-9),
            "optim.b2": (0, 1 - 1e-9),
            "optim.decay_steps": (0, inf),
            "optim.warmup_steps": (0, inf),
            "optim.eps": (0, 1),
            "optim.weight_decay": (0, inf),
            "optim.clip_norm": (1e-12, inf),
            "probe.learning_rate": (0, inf),
            "probe.init_scale": (0, inf),
            "probe.dropout": (0, 0.99),
            "probe.label_smoothing": (0, 0.99),
        },
    )
    yield from check_choices(
        config,
        {
            "optim.schedule": ("constant", "cosine"),
            "probe.kind": ("auto", "label", "attributes", "factors", "none"),
            "model.dtype": ("float32", "bfloat16"),
        },
    )
    yield from _check_monitor(config)
    accumulation = config.train.grad_accum_steps
    multiple = num_devices * max(accumulation, 1)
    if config.train.batch_size % multiple:
        remedy = f"must be a multiple of devices x grad_accum_steps = {num_devices} x {accumulation} = {multiple}"
        yield problem(config, "train.batch_size", remedy)


def _check_monitor(config: ConfigDict) -> Iterator[str]:
    """What the config alone tells; the names of the dataset's labels are compared before the first step."""
    group, _, name = config.train.monitor.partition("/")
    if not config.train.monitor:
        if config.train.patience > 0:
            yield problem(config, "train.patience", "name the metric in config.train.monitor, as eval/loss; or use 0")
    elif config.train.monitor != "eval/loss" and (group not in ("probe", "probe_pixels") or not name):
        yield problem(config, "train.monitor", "must be eval/loss, probe/mean, probe/NAME of a label, or empty")
    elif group != "eval" and config.probe.kind == "none":
        yield problem(config, "train.monitor", "config.probe.kind='none' trains no probe; watch eval/loss")
    elif group == "probe_pixels" and not config.probe.raw_pixels:
        yield problem(config, "train.monitor", "config.probe.raw_pixels=False trains none on pixels; watch probe/mean")


def _check_diffusion(config: ConfigDict) -> Iterator[str]:
    yield from check_choices(
        config,
        {"diffusion.schedule": tuple(schedules.SCHEDULES), "diffusion.prediction": PREDICTIONS},
    )
    yield from check_ranges(
        config,
        {
            "diffusion.num_timesteps": (2, float("inf")),
            "diffusion.latent_mask_rate": (0, 1),
            "diffusion.layer_mask_rate": (0, 1),
        },
    )


def _check_sampling(config: ConfigDict) -> Iterator[str]:
    inf = float("inf")
    yield from check_choices(config, {"sampling.method": ("ddpm", "ddim")})
    yield from check_ranges(
        config,
        {
            "sampling.num_steps": (1, config.diffusion.num_timesteps),
            "sampling.eta": (0, 1),
            "sampling.batch_size": (1, inf),
            "sampling.num_images": (1, inf),
            "sampling.turntable_views": (0, inf),
            "sampling.latent_codes": (0, inf),
            "sampling.pca_components": (1, inf),
            "sampling.walk_sigma": (0.01, 100),
            "sampling.walk_frames": (2, 100),
            "sampling.walk_between": (0, 100),
            "sampling.num_seeds": (1, 1000),
            "sampling.num_attributes": (1, 1000),
        },
    )
    yield from check_names(config, "sampling.pictures", PICTURES)
    chosen = config.sampling.pictures
    if not chosen:
        yield problem(config, "sampling.pictures", f"name at least one of {', '.join(PICTURES)}")
    has_cameras = PoseEncoding(**config.model.pose.to_dict()).needs_cameras
    for name in chosen if tuple(chosen) != DEFAULT and not has_cameras else ():
        if name in PICTURES and "cameras" in PICTURES[name].needs:
            remedy = f"{name} needs a model that takes cameras (config.model.pose.grid='rays'); leave it out"
            yield problem(config, "sampling.pictures", remedy)
    yield from _check_section_ranges(config)
    if config.sampling.turntable_altitude is not None:
        yield from check_ranges(config, {"sampling.turntable_altitude": (-85, 85)})


def _check_section_ranges(config: ConfigDict) -> Iterator[str]:
    ranges, kind, denoiser = config.sampling.section_ranges, config.model.modulation, config.model.denoiser
    if not ranges:
        return
    if not modulation.is_sectioned(kind.kind, kind.merge_by_section):
        remedy = "this model's latent acts as a whole, without sections; leave it empty"
        yield problem(config, "sampling.section_ranges", remedy)
        return
    sections = layout.num_sections(tuple(denoiser.multipliers), denoiser.num_res_blocks)
    for text in ranges:
        try:
            parse_range(text, sections)
        except ValueError as error:
            yield problem(config, "sampling.section_ranges", str(error))


def _check_data(config: ConfigDict) -> Iterator[str]:
    data = config.data
    inf = float("inf")
    yield from check_ranges(
        config,
        {
            "data.source_noise": (0, inf),
            "data.source_resolution": (8, inf),
            "data.num_sources": (1, inf),
            "data.min_sources": (0, data.num_sources),
            "data.crop_rate": (0, 1),
            "data.eval_crop": (0.01, 1),
            "data.randaugment_rate": (0, 1),
            "data.randaugment_ops": (1, inf),
            "data.randaugment_magnitude": (0, MAX_MAGNITUDE),
            "data.randaugment_std": (0, inf),
            "data.max_bad_share": (0, 1),
            "data.num_workers": (0, inf),
        },
    )
    yield from check_choices(config, {"data.view_policy": POLICIES})
    if not data.name:
        yield problem(config, "data.name", f"set a dataset: {', '.join(DATASETS)}, or a prepared TFDS set")
    needed = entry_of(data.name).needs_root
    if needed and not data.root:
        yield problem(config, "data.root", f"set {needed}")
    if data.view_policy == "camera" and data.eval_crop != 1:
        yield problem(config, "data.eval_crop", "must be 1: view_policy='camera' shows whole views")
    if len(data.crop_scale) != 2 or not 0 < data.crop_scale[0] <= data.crop_scale[1] <= 1:
        yield problem(config, "data.crop_scale", "must be (low, high) with 0 < low <= high <= 1")
