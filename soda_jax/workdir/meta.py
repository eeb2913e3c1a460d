"""A checkpoint's own data beside its arrays: STEP/meta/metadata, JSON that says what the arrays are of."""

import json
import pathlib
from typing import Any

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
