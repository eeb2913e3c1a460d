"""Another trained model in place of the workdir's own: `--init_from` of training, `--model` of what only measures."""

import os

from ml_collections import ConfigDict

from soda_jax import api
from soda_jax import config as config_lib
from soda_jax.api import LoadedModel
from soda_jax.config import ConfigError
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.weights import Weights
from soda_jax.parallel import sharding
from soda_jax.parallel.processes import decided_by_first
from soda_jax.sharing import places
from soda_jax.workdir import export as exports
from soda_jax.workdir.best import best_or_newest
from soda_jax.workdir.checkpoint import latest_step

MODEL_FLAG = "--model"


def given_model(place: str, config: ConfigDict, flag: str, step: int | str | None = None) -> LoadedModel:
    """The model that `place` names: of a run's folder the best checkpoint where one was watched for, else the newest.

    Args:
      flag: by which the user named it.

    Raises:
      ConfigError: it is another model than `config` describes.
      FileNotFoundError, ValueError, OSError: there is no such model, it is damaged, or cannot be fetched.
    """
    folder = places.model_folder(place, flag)
    if step is None and not exports.is_export(folder):
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

    Raises:
      ValueError: `workdir` is a run's own folder; or as `given_model`.
    """
    if decided_by_first(lambda: latest_step(workdir)) is not None:
        raise ValueError(
            f"{MODEL_FLAG}={place}: {workdir} has checkpoints of a run, whose figures those of another model would mix "
            "with; give another --workdir"
        )
    model = given_model(place, config, MODEL_FLAG, step)
    os.makedirs(workdir, exist_ok=True)

    def read(inference: Inference) -> tuple[Variables, str]:
        return sharding.put_replicated(model.variables, inference.mesh), model.weights_digest

    return Weights(model.step, read)
