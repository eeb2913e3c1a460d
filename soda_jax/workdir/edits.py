"""An edit of the latent as a file: along which direction, how far, from which noise. `tools.edit --edit` repeats it."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from soda_jax.latents.directions import MODES
from soda_jax.paths import expanded, replaced

FORMAT_VERSION = 1
_FORMAT = "soda_jax edit"
_MOST_BYTES = 1 << 16  # a file of some lines
_MOST_FRAMES = 1000


@dataclasses.dataclass(frozen=True)
class StoredEdit:
    """An edit, without the images that it is done to.

    Attributes:
      direction: its name.
      sigma: the frames' strengths, in standard deviations of the real codes along the direction.
      mode: "add" moves by the strengths, "set" to them.
      sections: the range "a-b" that moves; None: all.
      hold: names of directions along which nothing may move.
      seed: of the noise.
      sampling_steps, guidance: of the sampler; None: the config's.
      weights: SHA-256 of the weights that the direction is of; "": any.
    """

    direction: str
    sigma: tuple[float, ...]
    mode: str = "add"
    sections: str | None = None
    hold: tuple[str, ...] = ()
    seed: int = 0
    sampling_steps: int | None = None
    guidance: float | None = None
    weights: str = ""


def save(edit: StoredEdit, path: str | os.PathLike) -> None:
    """Writes the edit as JSON, whole or not at all."""
    content = {"format": _FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(edit)}
    with replaced(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def load(file: str | os.PathLike, weights: str = "", flag: str = "--edit") -> StoredEdit:
    """Reads what `save` wrote.

    Args:
      weights: SHA-256 of the weights that it is to be done with; "" takes any.
      flag: what the user knows the file by.

    Raises:
      ValueError: there is no such file, it is no edit or damaged, a newer release wrote it, or it is of other weights.
    """
    path = pathlib.Path(expanded(file, flag))
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found.pop("format_version")
        if found.pop("format") != _FORMAT or type(version) is not int:
            raise ValueError("another format")
        if version > FORMAT_VERSION:
            raise ValueError(f"of format {version}, newer than this release: install a newer soda_jax")
        edit = _checked(found)
    except OSError as error:
        raise ValueError(f"{flag}={file} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{flag}={file} is no edit of soda_jax, or damaged ({error}); download it again from the explorer"
        ) from None
    if weights and edit.weights and edit.weights != weights:
        raise ValueError(
            f"{flag}={file} is of other weights ({edit.weights[:12]}) than this model's ({weights[:12]}): name the "
            "model that it was made with"
        )
    return edit


def _checked(found: dict[str, Any]) -> StoredEdit:
    edit = StoredEdit(**found)  # TypeError for unknown and for missing keys
    whole = (
        all(isinstance(value, str) for value in (edit.direction, edit.mode, edit.weights))
        and edit.mode in MODES
        and isinstance(edit.sigma, list)
        and 0 < len(edit.sigma) <= _MOST_FRAMES
        and all(_is_number(value) for value in edit.sigma)
        and (edit.sections is None or isinstance(edit.sections, str))
        and isinstance(edit.hold, list)
        and all(isinstance(name, str) for name in edit.hold)
        and type(edit.seed) is int
        and (edit.sampling_steps is None or (type(edit.sampling_steps) is int and edit.sampling_steps > 0))
        and (edit.guidance is None or _is_number(edit.guidance))
    )
    if not whole:
        raise ValueError("a value of another kind than edits have")
    return dataclasses.replace(edit, sigma=tuple(map(float, edit.sigma)), hold=tuple(edit.hold))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and bool(np.isfinite(value))
