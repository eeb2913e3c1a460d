"""A trained model as a folder to hand on: weights as `.safetensors`, all else as JSON. Nothing in it can run.

    soda.json          what the folder holds: the step, labels, figures, and size and SHA-256 of the files below
    config.json        the run's config, without the paths of the machine that it ran on
    model.safetensors  the EMA weights in the chosen precision; statistics and the online probe in float32
    directions/STEP/   directions and prior of the checkpoint, as `directions.py` writes them
    examples/          held-out examples and their latents, as `examples.py` writes them
    README.md          the card, for readers; nothing reads it again, so that it may be edited

Each file but the card says its format's version. What is read is checked first: sizes and checksums by `soda.json`,
arrays by the model that the config describes.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.version import __version__
from soda_jax.workdir import checksums, safetensors

# Of soda.json: 2 adds examples. A folder without any says 1, which earlier releases read too.
FORMAT_VERSION = 2
_FILE_VERSION = 1  # of config and weights in every folder
DESCRIPTION, CONFIG, WEIGHTS, CARD = "soda.json", "config.json", "model.safetensors", "README.md"
DTYPES = {"float16": np.float16, "bfloat16": jnp.bfloat16, "float32": np.float32}
_STORED = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_FORMAT = "soda_jax export"
_ROUNDED = "params."  # arrays of these names are in the chosen precision
EXAMPLES = "examples"  # the folder
_PICTURE = rf"{EXAMPLES}/(?P<example>\d{{4}})(_\d{{2}})?\.png"
_NAMES = re.compile(
    r"config\.json|model\.safetensors|directions/\d{8,12}/[A-Za-z0-9_.=+-]{1,200}\.(json|npz)"
    rf"|{EXAMPLES}/(examples\.json|codes\.safetensors)|{_PICTURE}"
)
_MOST_BYTES = {DESCRIPTION: 1 << 24, CONFIG: 1 << 20}
_TYPES = {
    "step": int,
    "family": str,
    "dtype": str,
    "weights_digest": str,
    "targets": dict,
    "labels": dict,
    "about": dict,
    "files": dict,
}
_AGAIN = "get the folder again from where it came from"


@dataclasses.dataclass(frozen=True)
class Export:
    """What such a folder is made of.

    Attributes:
      step: of the checkpoint.
      config: plain data.
      weights_digest: of the original float32 weights (`digest.weights_digest`), which directions are tied to.
      variables: `params` and `batch_stats`, float32 on the host.
      probe: the online probe of the latent, `params` and `batch_stats`; None without one.
      labels: `targets` and `labels` as in a checkpoint's meta data.
      about: what the card says of the run; JSON data.
      directions: files of `directions.py` by their paths in the folder.
      examples: files of `examples.py` by their paths in the folder.
    """

    step: int
    config: dict[str, Any]
    weights_digest: str
    variables: dict[str, Any]
    probe: dict[str, Any] | None
    labels: dict[str, Any]
    about: dict[str, Any]
    directions: dict[str, bytes] = dataclasses.field(default_factory=dict)
    examples: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def format_version(self) -> int:
        """Of the folder: the oldest that has all that is in it."""
        return FORMAT_VERSION if self.examples else _FILE_VERSION


def is_export(folder: str | os.PathLike) -> bool:
    """Whether the folder is one of these, perhaps an incomplete one, and not a run's."""
    path = pathlib.Path(folder)
    named = any(os.path.lexists(path / name) for name in (DESCRIPTION, WEIGHTS))
    return named and not (path / "checkpoints").exists()


def write(folder: str | os.PathLike, export: Export, dtype: str, card: str) -> None:
    """Writes the folder, whole or not at all; the same export gives the same bytes.

    Raises:
      ValueError: there is something in the folder, or a weight is too large for `dtype`.
    """
    path = pathlib.Path(folder)
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"--out={path} exists and is not an empty folder: name another one, or remove it")
    arrays = dict(_arrays(export, dtype))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.mkdir()
    try:
        _write_json(unfinished / CONFIG, {"config": export.config, "format_version": _FILE_VERSION}, sort_keys=True)
        for name, content in (export.directions | export.examples).items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_bytes(content)
        config_digest = checksums.entry_of(unfinished / CONFIG)["sha256"]
        safetensors.write(
            unfinished / WEIGHTS, arrays, _metadata(export.config["model"]["family"], dtype, config_digest)
        )
        names = [CONFIG, WEIGHTS, *sorted(export.directions), *sorted(export.examples)]
        description = {
            "format": _FORMAT,
            "format_version": export.format_version,
            "soda_jax": __version__,
            "step": export.step,
            "family": export.config["model"]["family"],
            "dtype": dtype,
            "weights_digest": export.weights_digest,
            **export.labels,
            "about": export.about,
            "files": {name: checksums.entry_of(unfinished / name) for name in names},
        }
        (unfinished / CARD).write_text(card, encoding="utf-8")
        _write_json(unfinished / DESCRIPTION, description)
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_description(folder: str | os.PathLike) -> dict[str, Any]:
    """`soda.json`, once every file that it lists is found to be as it was written.

    Raises:
      ValueError: the folder is damaged, is no export of this package, or a newer release wrote it.
    """
    path, found = pathlib.Path(folder), described(folder)
    for name, entry in found["files"].items():
        if wrong := checksums.file_damage(path, name, entry):
            raise ValueError(f"{path}: {wrong}: {_AGAIN}")
    return found


def described(folder: str | os.PathLike) -> dict[str, Any]:
    """`soda.json` alone: the files that it lists need not be there, but they are names of an export's files.

    Raises:
      ValueError: it is damaged, describes no export of this package, or a newer release wrote it.
    """
    path = pathlib.Path(folder)
    found = _read_json(path, DESCRIPTION)
    if found.get("format") != _FORMAT:
        raise ValueError(f"{path / DESCRIPTION} is no description of a soda_jax export: {_AGAIN}")
    _check_version(path / DESCRIPTION, found.get("format_version"), FORMAT_VERSION, found.get("soda_jax"))
    if lacking := [key for key, kind in _TYPES.items() if type(found.get(key)) is not kind]:
        raise ValueError(f"{path / DESCRIPTION} has no {lacking[0]}: {_AGAIN}")
    if found["dtype"] not in DTYPES:
        raise ValueError(f"{path / DESCRIPTION}: dtype {found['dtype']!r} is none of {', '.join(DTYPES)}: {_AGAIN}")
    files = found["files"]
    for name, entry in files.items():
        if not _NAMES.fullmatch(name) or not checksums.is_entry(name, entry):
            raise ValueError(f"{path / DESCRIPTION} lists {name!r}, which is no file of an export: {_AGAIN}")
    for name in (CONFIG, WEIGHTS):
        if name not in files:
            raise ValueError(f"{path / DESCRIPTION} does not list {name}: {_AGAIN}")
    return found


def num_examples(files: Iterable[str]) -> int:
    """How many examples there are pictures of among an export's files."""
    return len({found["example"] for name in files if (found := re.fullmatch(_PICTURE, name))})


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """The config's plain data.

    Raises:
      ValueError: the file is damaged, holds no config, or a newer release wrote it.
    """
    path = pathlib.Path(folder)
    found = _read_json(path, CONFIG)
    _check_version(path / CONFIG, found.get("format_version"), _FILE_VERSION)
    if not isinstance(found.get("config"), dict):
        raise ValueError(f"{path / CONFIG} holds no config: {_AGAIN}")
    return found["config"]


def read_weights(
    folder: str | os.PathLike, description: Mapping[str, Any], abstract: dict[str, Any], sizes: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(`params` and `batch_stats`, the probe's or None), float32 on the host.

    Args:
      description: of `read_description`.
      abstract: the shapes of the model's variables.
      sizes: classes of each label that a probe would predict; () for none.

    Raises:
      ValueError: the file is of another model or config, or holds numbers that are not finite.
    """
    path = pathlib.Path(folder) / WEIGHTS
    header, said = safetensors.read_header(path), safetensors.read_metadata(path)
    version = said.get("format_version", "")
    _check_version(path, int(version) if re.fullmatch("[0-9]{1,9}", version) else None, _FILE_VERSION)
    dtype, config_digest = description["dtype"], description["files"][CONFIG]["sha256"]
    if said != _metadata(description["family"], dtype, config_digest):
        raise ValueError(f"{path} belongs to another config, or says another precision: {_AGAIN}")
    trees = dict(abstract)
    if any(name.startswith("probe.") for name in header):
        trees["probe"] = _abstract_probe(header, sizes)
    names = {_name(leaf_path): leaf.shape for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(trees)}
    stored = {name: _STORED[dtype if name.startswith(_ROUNDED) else "float32"] for name in names}
    wrong = sorted(
        name
        for name in names.keys() | header.keys()
        if name not in names
        or name not in header
        or (header[name].shape, header[name].dtype) != (names[name], stored[name])
    )
    if wrong:
        name = wrong[0]
        there = f"{header[name].dtype} {header[name].shape}" if name in header else "missing"
        expected = f"{stored[name]} {names[name]}" if name in names else "not there"
        raise ValueError(
            f"{path} is not of the model that {CONFIG} describes ({len(wrong)} arrays differ; {name} is {there}, and "
            f"should be {expected}): {_AGAIN}"
        )
    found = jax.tree_util.tree_map_with_path(
        lambda leaf_path, _: safetensors.read_tensor(path, _name(leaf_path), header[_name(leaf_path)]), trees
    )
    probe = found.pop("probe", None)
    return found, probe


def _abstract_probe(header: Mapping[str, safetensors.StoredTensor], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Shapes of a probe of these labels; how much it reads is its kernel's own affair."""
    kernel = header.get("probe.params.head.kernel")
    width = kernel.shape[0] if kernel is not None and kernel.shape else 0
    one, classes = (jax.ShapeDtypeStruct((size,), np.float32) for size in (width, sum(sizes)))
    head = {"kernel": jax.ShapeDtypeStruct((width, sum(sizes)), np.float32), "bias": classes}
    return {"params": {"head": head}, "batch_stats": {"norm": {"mean": one, "var": one}}}


def _arrays(export: Export, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    trees = export.variables | ({} if export.probe is None else {"probe": export.probe})
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        name = _name(path)
        array = np.asarray(leaf, np.float32)
        if name.startswith(_ROUNDED):
            with np.errstate(over="ignore"):
                array = array.astype(DTYPES[dtype])
        if not np.isfinite(array.astype(np.float32)).all():
            largest = float(np.abs(leaf).max())
            raise ValueError(
                f"{name} holds {largest:.4g}, which is no finite number in {dtype}"
                + (": use --dtype=bfloat16 or float32" if np.isfinite(largest) else "")
            )
        yield name, array


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _metadata(family: str, dtype: str, config_digest: str) -> dict[str, str]:
    """What the weights' file says of itself; "format" is the word for whose layout of kernels they have."""
    return {
        "format": "flax",
        "format_version": str(_FILE_VERSION),
        "family": family,
        "dtype": dtype,
        "config_sha256": config_digest,
    }


def _write_json(path: pathlib.Path, content: dict[str, Any], sort_keys: bool = False) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=sort_keys) + "\n", encoding="utf-8")


def _read_json(folder: pathlib.Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no regular file")
        if found.st_size > _MOST_BYTES[name]:
            raise ValueError(f"{found.st_size:,} bytes, more than any such file has")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no table")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {_AGAIN}; or is {folder} no export of soda_jax?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {_AGAIN}") from None
    return content


def _check_version(path: pathlib.Path, version: Any, newest: int, wrote: Any = None) -> None:
    if type(version) is not int or version < 1:
        raise ValueError(f"{path} says no version of its format: {_AGAIN}")
    if version > newest:
        newer = f"soda_jax {wrote} or newer" if isinstance(wrote, str) else "a newer soda_jax"
        raise ValueError(f"{path} has format {version}, this release reads up to {newest}: install {newer}")
