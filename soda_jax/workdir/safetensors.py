"""Reads and writes `.safetensors` without PyTorch: a header of JSON, then the tensors' bytes. Nothing in it can run.

The package `safetensors` gives NumPy no bfloat16, which is half of what is published; what a header may say is little,
and all of it is checked here before any tensor is read.
"""

import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

# The header of a model of 400M parameters takes 100 KB.
_MAX_HEADER = 1 << 24
_MAX_AXES = 8
# Bytes of a number, by the format's names: those that are read, and others that may stand beside them.
_READ = {"F32": 4, "F16": 2, "BF16": 2}
_WRITTEN = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(jnp.bfloat16): "BF16"}
_SIZES = _READ | {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in its file: bytes [start, stop), from the file's first."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: str | os.PathLike) -> dict[str, StoredTensor]:
    """The tensors of a file by name.

    Raises:
      ValueError: the file is missing, is damaged, or is no such file.
    """
    return _read(path)[0]


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The words that a file says of itself beside its tensors; {} where it says none. Raises as `read_header`."""
    return _read(path)[1]


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays of float32, float16 and bfloat16; the same arrays and metadata give the same bytes."""
    with open(path, "wb") as file:
        _write(file, arrays, metadata)


def to_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """What `write` writes."""
    file = io.BytesIO()
    _write(file, arrays, metadata)
    return file.getvalue()


def _write(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    # Wide numbers first: so each tensor begins at a multiple of its numbers' size, as readers that map the file need.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _WRITTEN[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(np.ascontiguousarray(arrays[name]).tobytes())


def _read(path: str | os.PathLike) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """(tensors by name, metadata) of a file."""
    if not os.path.isfile(path):  # nor a pipe, which would wait for ever
        raise ValueError(f"{path} is no file: check the path, and that the download has finished")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise ValueError(f"its header would have {length:,} bytes, the file has {size:,}")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_without_twins)
        return _checked(header, 8 + length, size), _metadata(header)
    except OSError:
        raise
    # RecursionError too: brackets within brackets.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no .safetensors file, or is damaged: {error}") from error


def read_tensor(path: str | os.PathLike, name: str, tensor: StoredTensor) -> np.ndarray:
    """The tensor `name` of a file as float32, where `read_header` found it.

    Raises:
      ValueError: its numbers are not floats of 16 or 32 bits, or not all finite, or the file has become shorter.
    """
    if tensor.dtype not in _READ:
        raise ValueError(f"{path}: {name} holds {tensor.dtype}; what is read is {', '.join(_READ)}")
    with open(path, "rb") as file:
        file.seek(tensor.start)
        data = file.read(tensor.stop - tensor.start)
    if len(data) != tensor.stop - tensor.start:
        raise ValueError(f"{path} ends within {name}: get it again")
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, "<f4" if tensor.dtype == "F32" else "<f2").astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{path} holds values in {name} that are not finite: get it again")
    return values.reshape(tensor.shape)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in its header twice")
    return found


def _checked(header: Any, first: int, size: int) -> dict[str, StoredTensor]:
    """The header's tensors: each of the bytes that its shape takes, and all one behind the other from `first` on."""
    if not isinstance(header, dict):
        raise ValueError("its header is no table of tensors")
    tensors = {name: _entry(name, entry, first) for name, entry in header.items() if name != "__metadata__"}
    if not tensors:
        raise ValueError("it holds no tensor")
    end = first
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise ValueError(f"{name!r} starts at byte {tensor.start:,}, where {end:,} is next")
        end = tensor.stop
    if end != size:
        raise ValueError(f"its tensors end at byte {end:,}, the file at {size:,}")
    return tensors


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    found = header.get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(word, str) for word in found.values()):
        raise ValueError("its metadata is no table of words")
    return found


def _entry(name: str, entry: Any, first: int) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is no tensor")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise ValueError(f"{name!r} holds numbers of an unknown kind")
    if not _are_sizes(shape) or len(shape) > _MAX_AXES or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has an impossible shape or place")
    start, stop = offsets
    if stop - start != math.prod(shape) * _SIZES[dtype]:
        raise ValueError(f"{name!r} has {stop - start:,} bytes for a shape of {tuple(shape)}")
    return StoredTensor(dtype, tuple(shape), first + start, first + stop)


def _are_sizes(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
