"""Another trained model in place of the workdir's own: `--init_from` of training, `--model` of what only measures."""

import os

import jax
import numpy as np
from ml_collections import ConfigDict

from soda_jax import api
from soda_jax import config as config_lib
from soda_jax.api import LoadedModel
from soda_jax.config import ConfigError
from soda_jax.inference.weights import Weights
from soda_jax.parallel import sharding
from soda_jax.parallel.processes import decided_by_first
from soda_jax.sharing import places
from soda_jax.workdir import export as exports
from soda_jax.workdir.best import best_or_newest
from soda_jax.workdir.checkpoint import latest_step
from soda_jax.workdir.digest import weights_digest

MODEL_FLAG = "--model"


def given_model(
    place: str, config: ConfigDict, flag: str, step: int | str | None = None, *, best_first: bool = False
) -> LoadedModel:
    """The model that `place` names.

    Args:
      flag: by which the user named it.
      step: of a run's folder, a checkpoint's step or "best"; the newest by default.
      best_first: take the best checkpoint, where one was watched for, before the newest.

    Raises:
      ConfigError: it is another model than `config` describes.
      FileNotFoundError, ValueError, OSError: there is no such model, it is damaged, or cannot be fetched.
    """
    folder = places.model_folder(place, flag)
    if best_first and not exports.is_export(folder):
        step = best_or_newest(folder)
    model = api.load(folder, step)
    if differing := config_lib.differences(model.config, config):
        raise ConfigError(
            f"{flag}={place} holds another model than this config describes (there -> here):\n  "
            + "\n  ".join(differing)
            + "\nUse its values, or another config."
        )
    return model


def given_weights(place: str, config: ConfigDict, workdir: str, step: int | str | None = None) -> Weights:
    """The weights of the model that --model names, for figures and pictures that `workdir` is to keep, which is made.
    With several processes, all must call this.

    Args:
      step: of a run's folder, a checkpoint's step or "best"; the newest by default.

    Raises:
      ValueError: `workdir` is the folder of a run or of an export; or as `given_model`.
    """
    if exports.is_export(workdir) or decided_by_first(lambda: latest_step(workdir)) is not None:
        raise ValueError(
            f"{MODEL_FLAG}={place}: --workdir={workdir} holds a model of its own, and another model's figures would "
            "mix with its. Give another --workdir"
        )
    model = given_model(place, config, MODEL_FLAG, step)
    host, digest = jax.tree.map(np.asarray, jax.device_get(model.variables)), model.weights_digest
    os.makedirs(workdir, exist_ok=True)
    return Weights(
        model.step,
        lambda inference: (sharding.put_replicated(host, inference.mesh), digest),
        is_rounded=weights_digest(host) != digest,
    )
