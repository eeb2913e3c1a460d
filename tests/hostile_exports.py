"""Ways to break or to forge an export: {name: (damage, message)}, for tests of what refuses them.

`DAMAGE` is what accidents do, and what a checksum finds. `FORGED` is made by somebody who sets the checksums anew.
"""

import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable

import numpy as np

from soda_jax.workdir import checksums, export, safetensors


class Command:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch UNPICKLED",)


def describe(folder: pathlib.Path, **changes: object) -> None:
    """Sets fields of soda.json."""
    path = folder / "soda.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def seal(folder: pathlib.Path) -> None:
    """Sets the checksums in soda.json to those of the files as they are now."""
    files = json.loads((folder / "soda.json").read_text())["files"]
    describe(folder, files={name: checksums.entry_of(folder / name) for name in files})


def rewrite(folder: pathlib.Path, change: Callable[[dict], None], **said: str) -> None:
    """Writes the weights again with arrays changed, and other words about them."""
    path = folder / "model.safetensors"
    header, metadata = safetensors.read_header(path), safetensors.read_metadata(path)
    kinds = {"F16": np.float16, "F32": np.float32}
    arrays = {
        name: safetensors.read_tensor(path, name, tensor).astype(kinds[tensor.dtype]) for name, tensor in header.items()
    }
    change(arrays)
    safetensors.write(path, arrays, metadata | said)
    seal(folder)


def _weights(content: bytes) -> Callable[[pathlib.Path], None]:
    def damage(folder: pathlib.Path) -> None:
        (folder / "model.safetensors").write_bytes(content)
        seal(folder)

    return damage


def _text(name: str, text: str) -> Callable[[pathlib.Path], None]:
    return lambda folder: (folder / name).write_text(text)


def _listed(name: str) -> Callable[[pathlib.Path], None]:
    def damage(folder: pathlib.Path) -> None:
        files = json.loads((folder / "soda.json").read_text())["files"]
        describe(folder, files=files | {name: files["config.json"]})

    return damage


def _cut(folder: pathlib.Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _flip(folder: pathlib.Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-10] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def _grow(name: str, size: int) -> Callable[[pathlib.Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def _pipe(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def _torch(folder: pathlib.Path) -> None:
    """As PyTorch saves: a zip with a pickle in it."""
    with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Command()))
    seal(folder)


def _wrong_digest(folder: pathlib.Path) -> None:
    files = json.loads((folder / "soda.json").read_text())["files"]
    describe(folder, files=files | {"config.json": files["config.json"] | {"sha256": "0" * 64}})


def _config(text: str) -> Callable[[pathlib.Path], None]:
    def damage(folder: pathlib.Path) -> None:
        (folder / "config.json").write_text(text)
        seal(folder)

    return damage


DAMAGE = {
    "cut weights": (_cut, r"model.safetensors has [\d,]+ bytes, not [\d,]+: get the folder again"),
    "one bit": (_flip, "model.safetensors was changed after it was written"),
    "oversized weights": (_grow("model.safetensors", 1 << 40), "model.safetensors has 1,099,511,627,776 bytes, not"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a pipe": (_pipe, "model.safetensors is no regular file"),
    "another config": (_text("config.json", "{}"), "config.json has 2 bytes"),
    "a wrong digest": (_wrong_digest, "config.json was changed after it was written"),
    "no description": (
        lambda folder: (folder / "soda.json").unlink(),
        "soda.json is missing: .* no export of soda_jax",
    ),
    "an empty description": (_text("soda.json", ""), "soda.json cannot be read"),
    "a cut description": (_text("soda.json", '{"format": "soda_jax exp'), "soda.json cannot be read"),
    "brackets": (_text("soda.json", "[" * 200_000), "soda.json cannot be read"),
    "a list": (_text("soda.json", "[]"), r"soda.json cannot be read \(no table\)"),
    "an oversized description": (_grow("soda.json", 1 << 30), "1,073,741,824 bytes, more than any such file has"),
    "another program's": (
        _text("soda.json", '{"format": "other"}'),
        "soda.json is no description of a soda_jax export",
    ),
    "a newer release's": (
        lambda folder: describe(folder, format_version=3, soda_jax="9.9.0"),
        "soda.json has format 3, this release reads up to 2: install soda_jax 9.9.0 or newer",
    ),
    "no version": (lambda folder: describe(folder, format_version="1"), "soda.json says no version of its format"),
}
FORGED = {
    "no step": (lambda folder: describe(folder, step="5"), "soda.json has no step"),
    "no files": (lambda folder: describe(folder, files={}), "soda.json does not list config.json"),
    "a dtype": (
        lambda folder: describe(folder, dtype="float8"),
        "dtype 'float8' is none of float16, bfloat16, float32",
    ),
    "a file outside": (_listed("../config.json"), "lists '../config.json', which is no file of an export"),
    "an absolute file": (_listed("/etc/passwd"), "lists '/etc/passwd'"),
    "a pickle beside": (_listed("extra.pkl"), "lists 'extra.pkl'"),
    "a file without end": (_listed("directions/../../config.json"), "which is no file of an export"),
    "a pickle": (_weights(pickle.dumps(Command())), "model.safetensors is no .safetensors file, or is damaged"),
    "PyTorch's": (_torch, "model.safetensors is no .safetensors file, or is damaged"),
    "nothing": (_weights(b""), "model.safetensors is no .safetensors file, or is damaged"),
    "another precision": (
        lambda folder: describe(folder, dtype="float32"),
        "belongs to another config, or says another",
    ),
    "another config's": (
        lambda folder: rewrite(folder, lambda arrays: None, config_sha256="0" * 64),
        "belongs to another config",
    ),
    "newer weights": (
        lambda folder: rewrite(folder, lambda arrays: None, format_version="2"),
        "model.safetensors has format 2, this release reads up to 1: install a newer soda_jax",
    ),
    "a newer config": (_config('{"format_version": 2, "config": {}}'), "config.json has format 2"),
    "a config that is none": (_config('{"format_version": 1, "config": []}'), "config.json holds no config"),
    "an array too few": (
        lambda folder: rewrite(folder, lambda arrays: arrays.pop("params.dense.kernel")),
        r"not of the model that config.json describes \(1 arrays differ; params.dense.kernel is missing",
    ),
    "an array too many": (
        lambda folder: rewrite(folder, lambda arrays: arrays.update(extra=np.ones(2, np.float32))),
        r"1 arrays differ; extra is F32 \(2,\), and should be not there",
    ),
    "another shape": (
        lambda folder: rewrite(folder, lambda arrays: arrays.update({"batch_stats.mean": np.ones(9, np.float32)})),
        r"batch_stats.mean is F32 \(9,\), and should be F32 \(3,\)",
    ),
    "another kind of number": (
        lambda folder: rewrite(folder, lambda arrays: arrays.update({"batch_stats.mean": np.ones(3, np.float16)})),
        "batch_stats.mean is F16",
    ),
    "no number": (
        lambda folder: rewrite(folder, lambda arrays: arrays["params.dense.kernel"].fill(np.nan)),
        "values in params.dense.kernel that are not finite",
    ),
    "a probe of other labels": (
        lambda folder: rewrite(
            folder, lambda arrays: arrays.update({"probe.params.head.bias": np.zeros(7, np.float32)})
        ),
        r"probe.params.head.bias is F32 \(7,\), and should be F32 \(3,\)",
    ),
    "a probe without a kernel": (
        lambda folder: rewrite(folder, lambda arrays: arrays.pop("probe.params.head.kernel")),
        r"3 arrays differ; probe\..* and should be F32 \(0,\)",
    ),
}
assert export.FORMAT_VERSION == 2  # else the versions above are not newer
