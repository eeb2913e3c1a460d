"""What an export holds, checked and put together: the fields of `soda_jax.load`'s model."""

from typing import Any

import jax

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.inference.engine import Inference
from soda_jax.parallel import sharding
from soda_jax.workdir import export as exports
from soda_jax.workdir.digest import KEY
from soda_jax.workdir.meta import labels_of


def read(folder: str, step: int | str | None, devices: list[jax.Device] | None) -> dict[str, Any]:
    """The fields of a `LoadedModel`, from an export.

    Raises:
      FileNotFoundError: it is of another step.
      ValueError: a newer release wrote it, it is damaged, or it holds no model of this package.
    """
    description = exports.read_description(folder)
    if step not in (None, description["step"]):
        raise FileNotFoundError(
            f"step={step!r}: {folder} is an export of step {description['step']} and holds no other; leave step out"
        )
    meta = {key: description[key] for key in ("targets", "labels", "about")} | {KEY: description["weights_digest"]}
    try:
        config = config_lib.from_dict(exports.read_config(folder))
        config_lib.check_foreign(config)
        if (family := config.model.family) != description["family"]:
            raise ValueError(
                f"config.model.family={family!r}, but {exports.DESCRIPTION} says {description['family']!r}"
            )
        labels = labels_of(meta)
        task = build.probe_task(config, labels) if labels else None
        inference = Inference(config, sharding.make_mesh(devices))
        abstract, sizes = inference.abstract_variables(), () if task is None else task.sizes
        found, probe = exports.read_weights(folder, description, abstract, sizes)
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(str(error) if folder in str(error) else f"{folder}: {error}") from error
    # A config that nobody wrote with this package can fail in the model's construction in any way.
    except Exception as error:
        raise ValueError(
            f"{folder}: {exports.CONFIG} describes no model of this package ({type(error).__name__}: {error})"
        ) from error
    return {
        "step": description["step"],
        "config": config,
        "variables": sharding.put_replicated(found, inference.mesh),
        "inference": inference,
        "workdir": folder,
        "meta": meta,
        "probe": probe,
    }
