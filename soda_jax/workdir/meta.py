"""A checkpoint's own data beside its arrays: STEP/meta/metadata, JSON that says what the arrays are of.

Beside `_TYPES` it has `evaluation_due` (the evaluation at that step was broken off), `monitor`, the state of
`training.monitor.Monitor`, or null, `labels`, names that the first checkpoints lacked, and, of a run that began with
the weights of another model, `init_from`, the record of `training.origin.Origin`.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from soda_jax import config as config_lib
from soda_jax.data.datasets import Labels

# 2 adds checksums and the libraries' versions.
FORMAT_VERSION = 2
_TYPES = {"format_version": int, "soda_jax": str, "config": dict, "targets": dict, "data_position": int}


class DamagedCheckpointError(ValueError):
    """A checkpoint is not what was written."""


def parse_meta(path: pathlib.Path) -> dict[str, Any]:
    """The data of the checkpoint in folder `path`.

    Raises:
      DamagedCheckpointError: they are missing, or no such data.
      ValueError: a newer release wrote them.
    """
    file = path / "meta" / "metadata"
    if file.exists() and not file.is_file():  # a pipe would wait for ever
        raise DamagedCheckpointError("meta/metadata is no regular file")
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedCheckpointError("meta/metadata is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"meta/metadata cannot be read ({type(error).__name__})") from None
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key), kind) for key, kind in _TYPES.items()):
        raise DamagedCheckpointError(f"meta/metadata lacks one of {', '.join(_TYPES)}")
    if meta["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {meta['format_version']}, this release reads up to {FORMAT_VERSION}: "
            f"install soda_jax {meta['soda_jax']} or newer"
        )
    return meta


def labels_meta(labels: Mapping[str, Labels]) -> dict[str, Any]:
    """The part of the data that says which labels the dataset has, and how they and their classes are called."""
    named = {kind: {"names": list(found.names), "classes": list(found.classes)} for kind, found in labels.items()}
    return {"targets": {kind: list(found.sizes) for kind, found in labels.items()}, "labels": named}


def labels_of(meta: Mapping[str, Any]) -> dict[str, Labels]:
    """The labels that the dataset had, by kind. The first checkpoints have no names: there they are numbered.

    Raises:
      DamagedCheckpointError: what the data say of them does not fit together.
    """
    found = {}
    try:
        for kind, sizes in meta["targets"].items():
            named = meta.get("labels", {}).get(kind, {})
            numbered = [kind] if kind == "label" else [f"{kind} {i}" for i in range(len(sizes))]
            found[kind] = Labels(tuple(sizes), tuple(named.get("names", numbered)), tuple(named.get("classes", ())))
    except (TypeError, ValueError, AttributeError) as error:
        raise DamagedCheckpointError(f"meta/metadata describes no labels ({type(error).__name__}: {error})") from None
    return found


def check_same_model(
    workdir: str,
    meta: dict[str, Any],
    config: ConfigDict,
    fields: tuple[str, ...] = config_lib.MODEL_FIELDS,
) -> None:
    """Raises ValueError if the checkpoint's model is not the one that `config` describes, naming the fields."""
    found = config_lib.differences(config_lib.from_dict(meta["config"]), config, fields)
    if found:
        raise ValueError(
            f"{workdir} holds a checkpoint of another model; differing fields (checkpoint -> now):\n  "
            + "\n  ".join(found)
            + "\nUse its values, or another --workdir."
        )


def check_same_labels(workdir: str, meta: dict[str, Any], kind: str, sizes: Sequence[int]) -> None:
    """Raises ValueError if the online probe learned other labels of `kind` than the dataset now has, of `sizes`."""
    before = meta["targets"].get(kind)
    if before is not None and list(before) != list(sizes):
        raise ValueError(
            f"{workdir} was trained on a dataset whose labels of kind {kind!r} have {_shown(before)} classes, and now "
            f"they have {_shown(sizes)}: bring the dataset back as it was, or use another --workdir."
        )


def _shown(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes[:8])) + (f", ... ({len(sizes)} labels)" if len(sizes) > 8 else "")
