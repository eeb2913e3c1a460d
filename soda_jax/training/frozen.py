"""What the frozen parameters of a new run start from: published weights, or the encoder of another run.

They are read once. From then on they stand in the run's own checkpoints, and nothing opens the file again.
"""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import api
from soda_jax import config as config_lib
from soda_jax.config import ConfigError
from soda_jax.models.clip_weights import tower_parameters
from soda_jax.objectives.state import TrainState
from soda_jax.parallel import sharding
from soda_jax.paths import expanded
from soda_jax.sharing import places
from soda_jax.workdir.safetensors import read_header, read_tensor

FIELD = "config.model.frozen.path"
# What an encoder computes with its weights, beyond what their shapes show.
_ENCODER_FIELDS = ("model.encoder.name", "model.frozen.activation")
_OWN_ENCODER_FIELDS = (
    "model.encoder.name",
    *(f"model.encoder.{name}" for name in ("base_features", "small_stem", "norm", "patch_size")),
    "model.latent_dim",
    "model.bottleneck",
    "model.pose.grid",
    "model.pose.vector",
)
_MAX_DESCRIPTION = 1 << 20


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """An encoder's weights on the host, and in a few words where they are from."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    origin: str


def pretrained_encoder(config: ConfigDict) -> Pretrained:
    """The encoder that `config.model.frozen.path` names.

    Raises:
      ConfigError: nothing is named, what is named is no encoder, or it is another one than `config.model` describes.
      FileNotFoundError, ValueError: the folder holds no checkpoint, or a damaged one.
    """
    path = config.model.frozen.path
    if not path:
        raise ConfigError(
            f"{FIELD}='': name the folder of a run whose encoder is to be frozen, or a .safetensors file of CLIP "
            "(with config.model.encoder.name=clip_vit_b32, clip_vit_b16 or clip_vit_l14)"
        )
    path = expanded(path, FIELD)
    if os.path.isdir(path) or not places.is_path(path):
        return _of_run(config, path)
    family, variant, _ = config_lib.parse_encoder_name(config.model.encoder.name)
    if family != "clip":
        what = "a file, but" if os.path.exists(path) else "neither folder nor file, and"
        raise ConfigError(
            f"{FIELD}={path!r} is {what} config.model.encoder.name={config.model.encoder.name!r} comes from the folder "
            "of a run: name that, or use config.model.encoder.name=clip_vit_b32, clip_vit_b16 or clip_vit_l14"
        )
    return _of_file(config, path, str(variant))


def installed(state: TrainState, found: Pretrained, mesh: Mesh) -> TrainState:
    """A new run's state with the encoder that was found.

    Raises:
      ConfigError: its arrays are not those of the state's encoder.
    """
    for name, made, given in (
        ("weights", state.ema_params["encoder"], found.params),
        ("statistics", state.ema_batch_stats.get("encoder", {}), found.batch_stats),
    ):
        expected, there = (
            {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
            for tree in (made, given)
        )
        wrong = sorted(key for key in expected.keys() | there.keys() if expected.get(key) != there.get(key))
        if wrong:
            first = f"{wrong[0]} {there.get(wrong[0], 'is missing')}, not {expected.get(wrong[0], 'there')}"
            raise ConfigError(
                f"{FIELD}: the {name} of {found.origin} are not of the encoder that config.model.encoder and "
                f"config.model.latent_dim describe ({len(wrong)} arrays differ; {first})"
            )

    def filled(tree: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
        return tree | {"encoder": sharding.put_state(part, mesh)} if part else tree

    return state.replace(
        ema_params=filled(state.ema_params, found.params),
        batch_stats=filled(state.batch_stats, found.batch_stats),
        ema_batch_stats=filled(state.ema_batch_stats, found.batch_stats),
    )


def _of_run(config: ConfigDict, workdir: str) -> Pretrained:
    model = api.load(workdir)
    origin = f"{workdir} at step {model.step}"
    params, batch_stats = (dict(model.variables[name]).get("encoder", {}) for name in ("params", "batch_stats"))
    if not params:
        raise ConfigError(f"{FIELD}={workdir!r} holds {model.inference.model.title}, which has no encoder")
    published = config.model.encoder.name.startswith("clip_")
    fields = _ENCODER_FIELDS if published else _OWN_ENCODER_FIELDS
    differing = config_lib.differences(model.config, config, fields)
    if differing:
        raise ConfigError(
            f"{FIELD}={workdir!r} holds another encoder than this config describes (there -> here):\n  "
            + "\n  ".join(differing)
            + "\nUse its values."
        )
    # Learning-rate equalisation stores w / k; this run's encoder needs none.
    multiplier = np.float32(model.inference.model.encoder_lr_multiplier)
    params = jax.tree.map(lambda x: np.asarray(x) * multiplier, params)
    return Pretrained(params, jax.tree.map(np.asarray, batch_stats), origin)


def _of_file(config: ConfigDict, path: str, variant: str) -> Pretrained:
    try:
        header = read_header(path)
        shapes = {name: tensor.shape for name, tensor in header.items()}
        found, params = tower_parameters(shapes, lambda name: read_tensor(path, name, header[name]))
    except ValueError as error:
        raise ConfigError(f"{FIELD}={path!r}: {error}") from error
    if found != variant:
        raise ConfigError(
            f"config.model.encoder.name={config.model.encoder.name!r}, but {path} holds clip_{found}: use that"
        )
    activation = _described_activation(os.path.dirname(os.path.abspath(path)))
    if activation not in (None, config.model.frozen.activation):
        raise ConfigError(
            f"config.model.frozen.activation={config.model.frozen.activation!r}, but the description beside {path} "
            f"says {activation!r}: use that"
        )
    return Pretrained(params, {}, path)


def _described_activation(folder: str) -> str | None:
    """What the publisher's own description beside the weights says; None where there is none that says it.

    The weights alone do not show it. Hugging Face writes config.json, OpenCLIP open_clip_config.json.
    """
    description = _read_json(os.path.join(folder, "open_clip_config.json")).get("model_cfg")
    if isinstance(description, dict):
        return "quick_gelu" if description.get("quick_gelu") is True else "gelu"
    description = _read_json(os.path.join(folder, "config.json"))
    vision = description.get("vision_config", description)
    said = vision.get("hidden_act") if isinstance(vision, dict) else None
    return said if said in ("quick_gelu", "gelu") else None


def _read_json(path: str) -> dict[str, Any]:
    """The table in a file of JSON; {} where there is none."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _MAX_DESCRIPTION:
            return {}
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
