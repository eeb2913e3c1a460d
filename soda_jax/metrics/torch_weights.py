"""Reads weights that PyTorch saved, without PyTorch and without running code from the file.

A `.pth` file is a pickle, and a pickle may call any function. Here only what a state dict of tensors needs is admitted:
`OrderedDict`, and PyTorch's names for a tensor and for the type of its numbers, which stand for records of our own.
"""

import dataclasses
import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np

# First pickle of a file saved by PyTorch before 1.6, or with `_use_new_zipfile_serialization=False`.
_OLD_FORMAT = 0x1950A86A20F9469CFC6C
_OLD_VERSION = 1001
# Inception-V3 takes some 20,000.
_MAX_INSTRUCTIONS = 1_000_000
_MAX_AXES = 8
# Several tensors may share a storage, tied weights for example; without a bound, a small file could fill the memory.
_MAX_SHARED = 8

_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A run of `count` numbers, stored elsewhere in the file under `key`."""

    key: str
    dtype: np.dtype
    count: int

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("a storage with a state")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("a tensor with a state")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def check(self) -> None:
        """Raises ValueError for what as_strided would do unasked: read outside the storage, or expand it."""
        count, plain = self.storage.count, (self.offset, *self.shape, *self.strides)
        if len(self.shape) > _MAX_AXES or len(self.shape) != len(self.strides) or min((count, *plain)) < 0:
            raise ValueError(f"a tensor of storage {self.storage.key} has impossible sizes or strides")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= count:
            raise ValueError(f"storage {self.storage.key} has {count} numbers, a tensor reads up to {last}")
        if (numbers := math.prod(self.shape)) > count:
            raise ValueError(f"storage {self.storage.key} has {count} numbers, a tensor makes {numbers} of them")

    def read(self, data: bytes) -> np.ndarray:
        self.check()
        values = np.frombuffer(data, self.storage.dtype)
        if len(values) != self.storage.count:
            raise ValueError(
                f"storage {self.storage.key} has {len(values)} numbers, a tensor reads {self.storage.count}"
            )
        steps = tuple(step * values.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps).copy()


def check_instructions(file: BinaryIO) -> None:
    """Looks through a pickle without following it; for one whose instructions are more than weights need.

    Python keeps what a pickle numbers in a list as long as the largest number: five bytes can ask for 32 GiB.

    Raises:
      pickle.UnpicklingError: it has too many instructions, or too large a number.
      ValueError: it is no pickle.
    """
    for place, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        stores = instruction.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if place >= _MAX_INSTRUCTIONS or (stores and argument >= _MAX_INSTRUCTIONS):
            raise pickle.UnpicklingError("its pickle has more instructions than weights need")


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a state dict that `torch.save` wrote, in either of its formats.

    Returns:
      {name: array}, in the file's order; other entries of the dict are left out.

    Raises:
      ValueError: the file is damaged, is no such file, or holds anything but plain tensors in a dict.
    """
    try:
        with open(path, "rb") as file:
            arrays = _read_zip(file) if zipfile.is_zipfile(file) else _read_old(file)
    except OSError:
        raise
    # Damaged pickles raise whatever the misread instructions lead to.
    except Exception as error:
        raise ValueError(f"{path} is no state dict of tensors saved by PyTorch, or is damaged: {error}") from error
    if not arrays:
        raise ValueError(f"{path} holds no tensor by name: save the network's state_dict() itself")
    return arrays


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        records = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(records) != 1:
            raise ValueError("the archive has no data.pkl")
        folder = records[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        # PyTorch never compresses: whatever is read is bounded by the file.
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("its archive is compressed")
        tensors = _tensors(_loaded(io.BytesIO(archive.read(records[0]))), os.fstat(file.fileno()).st_size)
        return {name: tensor.read(archive.read(f"{folder}data/{tensor.storage.key}")) for name, tensor in tensors}


def _read_old(file: BinaryIO) -> dict[str, np.ndarray]:
    """Four pickles (a mark, a version, the writer's machine, the dict), the storages' keys, then the storages."""
    file.seek(0)
    if _loaded(file) != _OLD_FORMAT:
        raise ValueError("it does not start as PyTorch's files do")
    version, system = _loaded(file), _loaded(file)
    if version != _OLD_VERSION or not system["little_endian"]:
        raise ValueError(f"format {version} of {system} is not read here")
    size = os.fstat(file.fileno()).st_size
    tensors = _tensors(_loaded(file), size)
    dtypes = {tensor.storage.key: tensor.storage.dtype for _, tensor in tensors}
    data: dict[str, bytes] = {}
    for key in _loaded(file):
        if key not in dtypes:
            raise ValueError(f"storage {key} belongs to no tensor by name")
        (count,) = struct.unpack("<q", file.read(8))
        if not 0 <= count * dtypes[key].itemsize <= size:
            raise ValueError(f"storage {key} has {count} numbers, more than the file")
        data[key] = file.read(count * dtypes[key].itemsize)
    return {name: tensor.read(data[tensor.storage.key]) for name, tensor in tensors}


def _loaded(file: BinaryIO) -> Any:
    start = file.tell()
    check_instructions(file)
    file.seek(start)
    return _Unpickler(file).load()


def _tensors(loaded: Any, size: int) -> list[tuple[str, _Tensor]]:
    """The tensors by name in what a file of `size` bytes holds, none of which reads more than there is."""
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a dict")
    tensors = [(name, v) for name, v in loaded.items() if isinstance(name, str) and isinstance(v, _Tensor)]
    for _, tensor in tensors:
        tensor.check()
    if (total := sum(tensor.nbytes for _, tensor in tensors)) > _MAX_SHARED * size:
        raise ValueError(f"its tensors would take {total:,} bytes, the file has {size:,}")
    return tensors


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _Unpickler(pickle.Unpickler):
    """Admits the names that a dict of tensors needs, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid[:5]
        # A sixth entry, in the old format, makes the storage part of another one.
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(part is not None for part in pid[5:]):
            raise pickle.UnpicklingError("an object that is no plain storage")
        return _Storage(str(key), dtype, int(count))
