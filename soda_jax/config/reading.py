"""Reads, checks and compares configs.

Impossible values are named with their remedy before anything compiles; `checks` has the rules.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from soda_jax.config import checks, pictures
from soda_jax.models import pose

# Sections and fields that a checkpoint's weights depend on, and those that its whole training state depends on.
MODEL_FIELDS = ("model", "diffusion", "data.resolution")
# Of these the fields that say only how it is computed, or where weights once came from: any value gives the same model.
COMPUTE_FIELDS = ("model.attention", "model.encoder.remat", "model.denoiser.remat", "model.frozen.path")
STATE_FIELDS = (
    *MODEL_FIELDS,
    "model.frozen.path",
    "data.name",
    "data.source_resolution",
    "probe.kind",
    "probe.raw_pixels",
)

# Fields that hold paths of the machine that a run was on.
PATH_FIELDS = ("data.root", "model.frozen.path", "eval.lpips_weights", "eval.inception_weights")

# Fields that configs of earlier releases lack, with the values that describe what those releases did.
ADDED_FIELDS = {
    "variant": "",
    "train": {"fsdp": 1, "monitor": "", "patience": 0},
    "model": {
        "family": "soda",
        "pose": dataclasses.asdict(pose.PoseEncoding(grid="none")),
        "attention": "xla",
        "encoder": {"remat": "none"},
        "frozen": {"path": "", "activation": "quick_gelu"},
        "denoiser": {"patch_size": 1, "norm_groups": 32, "norm_out_groups": 0, "remat": "none"},
        "vae": {
            "likelihood": "gaussian",
            "beta": 4.0,
            "annealed_gamma": 1000.0,
            "annealed_capacity": 25.0,
            "annealed_steps": 100_000,
            "factor_gamma": 10.0,
            "factor_width": 1000,
            "factor_learning_rate": 1e-4,
            "dip_lambda_od": 10.0,
            "dip_lambda_d": None,
        },
        "modulation": {"embed_sections": False},
    },
    "diffusion": {"pose_mask_rate": 0.12, "prediction": "eps"},
    "sampling": {
        "guidance_on": "latent",
        "pictures": pictures.DEFAULT,
        "turntable_views": 24,
        "turntable_altitude": None,
        "latent_codes": 5000,
        "pca_components": 5,
        "section_ranges": (),
        "walk_sigma": 3.0,
        "walk_frames": 7,
        "walk_between": 1,
        "num_seeds": 4,
        "num_attributes": 16,
    },
    "eval": {
        "denoiser_blocks": ("middle", "up"),
        "denoiser_levels": (0.01, 0.03, 0.1, 0.2, 0.3),
        "denoiser_examples": 10_000,
        "novel_view_sources": (1, 3, 5, 7, 9),
        "novel_view_examples": 64,
        "novel_view_targets": 2,
        "image_metrics": ("psnr", "ssim"),
        "lpips_weights": "",
        "inception_weights": "",
        "probe_views": "none",
        "probe_cached_views": 4,
        "probe_crop_rate": 0.65,
        "feature_memory_gib": 4.0,
        "few_shot_shares": (0.01, 0.1),
        "few_shot_seeds": 3,
        "diversity_seeds": 4,
        "dci_train": 10_000,
        "dci_test": 5_000,
        "dci_method": "fast",
        "dci_sections": True,
        "dci_repeats": 4,
        "dci_pca": (),
        "dci_seeds": 3,
        "factor_vae_threshold": 0.0,
        "edits_directions": ("pca", "ranges", "labels"),
        "edits_components": 10,
        "edits_sigmas": (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0),
        "edits_examples": 32,
        "edits_steps": 0,
        "edits_least_share": 0.5,
        "edits_most_leakage": 0.5,
        "edits_factor_examples": 128,
        "edits_factor_sigma": 3.0,
        "edits_oracle_steps": 1000,
        "edits_oracle_accuracy": 0.97,
    },
    "data": {
        "min_sources": 0,
        "eval_crop": 1.0,
        "randaugment_rate": 0.0,
        "randaugment_ops": 2,
        "randaugment_magnitude": 9.0,
        "randaugment_std": 0.5,
        "max_bad_share": 0.05,
        "test_split": "",
    },
}


class ConfigError(ValueError):
    """A config that cannot run; the message names each field, its value and what to do."""


def validate(config: ConfigDict, num_devices: int = 1, *, reads_data: bool = True) -> None:
    """Raises ConfigError listing every impossible value of `config` on `num_devices` devices.

    Where no data are read (`reads_data`), their place may be left open.
    """
    problems = list(checks.problems(config, num_devices))
    if not reads_data:
        problems = [line for line in problems if not line.startswith("config.data.root=")]
    if problems:
        raise ConfigError("this config cannot run:\n" + "\n".join(f"  {problem}" for problem in problems))


def check_foreign(config: ConfigDict) -> None:
    """Raises ConfigError for a config of unknown origin if a field of it is unknown, or of an impossible kind or size.

    Whether its data are there is not asked: it only has to describe a model.
    """
    lines = [f"config.{name} is a field that this release does not know" for name in unknown_fields(config)]
    if lines or (lines := list(checks.kinds.problems(config))):
        raise ConfigError("this config describes no model of this release:\n" + "\n".join(f"  {x}" for x in lines[:20]))


def unknown_fields(config: ConfigDict) -> list[str]:
    """Dotted names of fields that configs/common.py lacks; none where the package stands without its configs."""

    def walk(node: ConfigDict, prefix: str) -> Iterator[str]:
        for name, value in node.items():
            if isinstance(value, ConfigDict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    known = checks.kinds.KINDS
    return [name for name in walk(config, "") if name not in known] if known else []


def portable(config: ConfigDict) -> dict[str, Any]:
    """The config's plain data for another machine: without its paths, and without fields that nothing reads."""
    found = config.copy_and_resolve_references()
    found.unlock()
    for name in unknown_fields(config):
        *sections, field = name.split(".")
        node = found
        for section in sections:
            node = node[section]
        del node[field]
    for name in PATH_FIELDS:
        found.update_from_flattened_dict({name: ""})
    return found.to_dict()


def scored_split(config: ConfigDict) -> str:
    """The split that --mode=evaluate scores and --mode=sample draws."""
    return config.data.test_split or config.data.eval_split


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

    known = {name: added for name, added in ADDED_FIELDS.items() if name in tree or not isinstance(added, dict)}
    filled = fill(tree, known)
    return ConfigDict(untangle(filled)).lock()


def differences(saved: ConfigDict, current: ConfigDict, fields: tuple[str, ...] = MODEL_FIELDS) -> list[str]:
    """Where two configs differ within `fields` (sections or single fields), as `config.field: saved -> current`.

    `COMPUTE_FIELDS` count only if they are among `fields` themselves.
    """

    def flatten(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, (dict, ConfigDict)):
                yield from flatten(value, f"{prefix}.{key}")
            else:
                yield f"{prefix}.{key}", tuple(value) if isinstance(value, list) else value

    old, new = dict(flatten(saved, "config")), dict(flatten(current, "config"))
    chosen = tuple(f"config.{field}" for field in fields)
    ignored = {f"config.{field}" for field in COMPUTE_FIELDS if field not in fields}
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if name.startswith(tuple(f"{field}." for field in chosen)) or name in chosen
        if old.get(name) != new.get(name) and name not in ignored
    ]
