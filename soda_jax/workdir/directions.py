"""WORKDIR/directions/STEP: directions in a checkpoint's latent and the prior of its codes, as NAME.npz and NAME.json.

The .npz holds arrays alone and is read without pickle; the JSON says what they are, of which weights
(`digest.weights_digest`), and the SHA-256 of the .npz.
"""

import hashlib
import io
import json
import os
import pathlib
import re
import zipfile
from typing import Any

import numpy as np

from soda_jax.latents.directions import Direction
from soda_jax.latents.pca import PCA
from soda_jax.paths import expanded

FORMAT_VERSION = 1
PRIOR = "prior"
_NUMBERS = ("mean", "std", "low", "high")
_WORDS = ("name", "kind", "source", "model")
_PCA_ARRAYS = ("mean", "components", "std", "share")


def folder(workdir: str | os.PathLike, step: int) -> pathlib.Path:
    """Where the directions of a checkpoint stand."""
    return pathlib.Path(expanded(workdir, "workdir")) / "directions" / f"{step:08d}"


def file_name(name: str) -> str:
    """The name of a direction's files, without suffix: what file systems do not like becomes "_"."""
    return re.sub(r"[^A-Za-z0-9_.=+-]", "_", name).lstrip(".") or "_"


def save(direction: Direction, place: str | os.PathLike) -> pathlib.Path:
    """Writes PLACE/NAME.npz and .json, each whole or not at all; returns the .json."""
    fields = {name: getattr(direction, name) for name in (*_WORDS, *_NUMBERS, "sections", "num_sections")}
    return _write(pathlib.Path(place) / file_name(direction.name), "direction", {"vector": direction.vector}, fields)


def load(file: str | os.PathLike, model: str | None = None) -> Direction:
    """Reads a direction from its .json, its .npz or their path without suffix.

    Args:
      model: digest of the weights that it is to be used with; None takes any.

    Raises:
      FileNotFoundError: one of the two files is missing.
      ValueError: they are damaged, no direction, of a newer release, or of another model.
    """
    path = _base(file)
    meta, arrays = _read(path, "direction", ("vector",))
    direction = _checked_direction(path, meta, arrays["vector"])
    if model is not None and direction.model != model:
        raise ValueError(
            f"direction {direction.name!r} ({path}.json) is of other weights ({direction.model[:12] or 'unknown'}) "
            f"than this model's ({model[:12]}); find it again on this model: python -m soda_jax.tools.edit --fit"
        )
    return direction


def names(place: str | os.PathLike) -> list[str]:
    """The files, without suffix, of the directions that stand in a folder; none where it does not exist."""
    found = (path.stem for path in pathlib.Path(place).glob("*.json") if path.stem != PRIOR)
    return sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def load_all(place: str | os.PathLike, model: str | None = None) -> dict[str, Direction]:
    """Every direction of a folder by its name; see `load`."""
    loaded = (load(pathlib.Path(place) / name, model) for name in names(place))
    return {direction.name: direction for direction in loaded}


def save_prior(prior: PCA, place: str | os.PathLike, *, model: str, count: int) -> pathlib.Path:
    """Writes the prior, principal components of `count` codes of the weights with digest `model`."""
    arrays = {name: getattr(prior, name) for name in _PCA_ARRAYS}
    return _write(pathlib.Path(place) / PRIOR, PRIOR, arrays, {"model": model, "count": count})


def load_prior(place: str | os.PathLike, model: str | None = None) -> PCA:
    """Reads what `save_prior` wrote; raises as `load`."""
    path = pathlib.Path(place) / PRIOR
    meta, arrays = _read(path, PRIOR, _PCA_ARRAYS)
    if model is not None and meta.get("model") != model:
        raise ValueError(f"the prior in {place} is of other weights; fit it again: python -m soda_jax.tools.edit --fit")
    width = len(arrays["mean"]) if arrays["mean"].ndim == 1 else -1
    number = len(arrays["std"])
    shapes = {"components": (number, width), "std": (number,), "share": (number,)}
    if any(arrays[name].shape != shape for name, shape in shapes.items()):
        raise ValueError(f"{path}.npz: its arrays do not belong together; fit the prior again")
    return PCA(**arrays)


def _base(file: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(expanded(file, "direction"))
    return path.with_suffix("") if path.suffix in (".json", ".npz") else path


def _write(path: pathlib.Path, what: str, arrays: dict[str, np.ndarray], fields: dict[str, Any]) -> pathlib.Path:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value, np.float64) for name, value in arrays.items()})
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    text = json.dumps({"format_version": FORMAT_VERSION, "what": what, **fields, "sha256": digest}, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The JSON last: a direction without it is none.
    for suffix, data in ((".npz", content), (".json", text.encode())):
        temporary = path.with_name(f"{path.name}{suffix}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path.with_name(path.name + suffix))
    return path.with_name(path.name + ".json")


def _read(path: pathlib.Path, what: str, arrays: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    described, stored = path.with_name(path.name + ".json"), path.with_name(path.name + ".npz")
    for file in (described, stored):
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    try:
        meta = json.loads(described.read_text(encoding="utf-8"))
        kind, version, digest = meta["what"], meta["format_version"], meta["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{described} is no {what} of this package, or damaged ({type(error).__name__})") from None
    if type(version) is int and version > FORMAT_VERSION:
        raise ValueError(f"{described} is of a newer release: install a newer soda_jax")
    if kind != what:
        raise ValueError(f"{described} is a {kind}, not a {what}")
    content = stored.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{stored} was changed after it was written; find it again, or get both files again")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # `_write` packs nothing, so nothing may unfold
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its arrays are compressed")
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            found = {name: loaded[name] for name in arrays}
    except (ValueError, KeyError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{stored} is no {what} of this package ({type(error).__name__}: {error})") from None
    if any(value.dtype != np.float64 or not np.isfinite(value).all() for value in found.values()):
        raise ValueError(f"{stored} holds something else than finite numbers")
    return meta, found


def _checked_direction(path: pathlib.Path, meta: dict[str, Any], vector: np.ndarray) -> Direction:
    numbers = {name: meta.get(name) for name in _NUMBERS}
    words = {name: meta.get(name) for name in _WORDS}
    sections, num_sections = meta.get("sections"), meta.get("num_sections")
    whole = (
        all(isinstance(value, int | float) and np.isfinite(value) for value in numbers.values())
        and all(isinstance(value, str) for value in words.values())
        and (sections is None or isinstance(sections, str))
        and type(num_sections) is int
        and vector.ndim == 1
        and abs(np.linalg.norm(vector) - 1) < 1e-6
        and numbers["std"] > 0
    )
    if not whole:
        raise ValueError(f"{path}.json and .npz do not make a direction; find it again")
    direction = Direction(vector, **numbers, **words, sections=sections, num_sections=num_sections)
    if (direction.vector[~direction.dims] != 0).any():
        raise ValueError(f"{path}.npz moves more than sections {sections}; find it again")
    return direction
