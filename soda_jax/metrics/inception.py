"""The Inception-V3 network of the Frechet inception distance (Heusel et al. 2017; SODA, Appendix E.2).

FID is defined by one network: Inception-V3 as TensorFlow's `inception-2015-12-05` graph has it. Its weights circulate
as `pt_inception-2015-12-05-6726825d.pth`, made for the definition in the package `pytorch-fid`, which this module
follows. Besides the weights, it differs from torchvision's Inception-V3 (Szegedy et al. 2016):

- average pooling in the blocks leaves the padding out of the mean;
- the last block pools by the maximum where all others, and the paper, take the mean;
- there are 1008 classes and no auxiliary classifier, neither of which touches the features;
- images are resized to 299 x 299 bilinearly, with half-pixel centres and without antialiasing, as `pytorch-fid` does.
  (The original TensorFlow 1 graph puts a pixel's centre at its corner instead: figures from it differ slightly.)
"""

import functools
import hashlib
import io
import math
import os
import zipfile
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from soda_jax.metrics.torch_weights import read_state_dict
from soda_jax.paths import expanded

NETWORK = "inception-2015-12-05"
FEATURES = 2048
STANDARD_SHA256 = "6726825d"  # the first digits, as PyTorch puts them into the file's name
WHERE = (
    'pt_inception-2015-12-05-6726825d.pth from the release "fid_weights" of the GitHub project mseitzer/pytorch-fid '
    "(soda_jax.tools.convert_inception makes a .npz of it)"
)

_RESOLUTION = 299
_NPY_HEADER = 16 << 10  # bytes, more than NumPy's header of any plain array takes
_CLASSIFIER = {"fc.weight": (1008, FEATURES), "fc.bias": (1008,)}
_VALUES = {  # of one convolution: where PyTorch's names lie in Flax's tree
    ("params", "conv", "kernel"): "conv.weight",
    ("params", "bn", "scale"): "bn.weight",
    ("params", "bn", "bias"): "bn.bias",
    ("batch_stats", "bn", "mean"): "bn.running_mean",
    ("batch_stats", "bn", "var"): "bn.running_var",
}


class _Conv(nn.Module):
    """Convolution without bias, BatchNorm with stored statistics, ReLU; keeps the size unless strided or `valid`."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    valid: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = "VALID" if self.valid else [(k // 2, k // 2) for k in self.kernel]
        # Full precision: by default, accelerators multiply in bfloat16 or TF32.
        x = nn.Conv(
            self.features,
            self.kernel,
            self.stride,
            padding,
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


# A convolution of a branch: PyTorch's name, features, kernel.
_Spec = tuple[str, int, tuple[int, int]]


class _Block(nn.Module):
    """Branches side by side.

    Attributes:
      branches: each a chain of convolutions; a last entry of several splits the chain into these.
      pool_features: of the pooling branch.
      max_pool: pool by the maximum, not the mean.
    """

    branches: Sequence[Sequence[_Spec | Sequence[_Spec]]]
    pool_features: int
    max_pool: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = []
        for branch in self.branches:
            y = [x]
            for step in branch:
                specs = [step] if isinstance(step[0], str) else step
                y = [_Conv(features, kernel, name=name)(y[0]) for name, features, kernel in specs]
            outputs += y
        pad = ((1, 1), (1, 1))
        if self.max_pool:
            pooled = nn.max_pool(x, (3, 3), padding=pad)
        else:
            pooled = nn.avg_pool(x, (3, 3), padding=pad, count_include_pad=False)
        return jnp.concatenate([*outputs, _Conv(self.pool_features, (1, 1), name="branch_pool")(pooled)], axis=-1)


class _Reduction(nn.Module):
    """Branches whose last convolution has stride 2 and no padding, beside a maximum over 3 x 3."""

    branches: Sequence[Sequence[_Spec]]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = []
        for branch in self.branches:
            y = x
            for name, features, kernel in branch[:-1]:
                y = _Conv(features, kernel, name=name)(y)
            name, features, kernel = branch[-1]
            outputs.append(_Conv(features, kernel, 2, valid=True, name=name)(y))
        return jnp.concatenate([*outputs, nn.max_pool(x, (3, 3), (2, 2))], axis=-1)


def _block_a(pool_features: int, name: str) -> _Block:
    branches = [
        [("branch1x1", 64, (1, 1))],
        [("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))],
        [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))],
    ]
    return _Block(branches, pool_features, name=name)


def _block_c(width: int, name: str) -> _Block:
    row, column = (1, 7), (7, 1)
    branches = [
        [("branch1x1", 192, (1, 1))],
        [("branch7x7_1", width, (1, 1)), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)],
        [
            ("branch7x7dbl_1", width, (1, 1)),
            ("branch7x7dbl_2", width, column),
            ("branch7x7dbl_3", width, row),
            ("branch7x7dbl_4", width, column),
            ("branch7x7dbl_5", 192, row),
        ],
    ]
    return _Block(branches, 192, name=name)


def _block_e(max_pool: bool, name: str) -> _Block:
    def split(prefix: str) -> list[_Spec]:
        return [(f"{prefix}a", 384, (1, 3)), (f"{prefix}b", 384, (3, 1))]

    branches = [
        [("branch1x1", 320, (1, 1))],
        [("branch3x3_1", 384, (1, 1)), split("branch3x3_2")],
        [("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)), split("branch3x3dbl_3")],
    ]
    return _Block(branches, 192, max_pool, name=name)


class InceptionV3(nn.Module):
    """Features [B, 2048] of images float32 [B, H, W, 3] in [-1, 1] of any size; modules are named as in PyTorch."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32)
        if x.shape[1:3] != (_RESOLUTION, _RESOLUTION):
            x = jax.image.resize(x, (len(x), _RESOLUTION, _RESOLUTION, 3), "linear", antialias=False)
        x = _Conv(32, (3, 3), 2, valid=True, name="Conv2d_1a_3x3")(x)
        x = _Conv(32, (3, 3), valid=True, name="Conv2d_2a_3x3")(x)
        x = _Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = _Conv(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = _Conv(192, (3, 3), valid=True, name="Conv2d_4a_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, pool_features in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = _block_a(pool_features, name)(x)
        doubled = [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))]
        x = _Reduction([[("branch3x3", 384, (3, 3))], doubled], name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = _block_c(width, name)(x)
        long = [("branch7x7x3_1", 192, (1, 1)), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1))]
        short = [("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320, (3, 3))]
        x = _Reduction([short, [*long, ("branch7x7x3_4", 192, (3, 3))]], name="Mixed_7a")(x)
        x = _block_e(False, "Mixed_7b")(x)
        x = _block_e(True, "Mixed_7c")(x)
        return jnp.mean(x, axis=(1, 2))


class Inception:
    """The network with its weights: `inception(images)` gives features.

    Attributes:
      sha256: of the `.pth` file that the weights come from.
    """

    def __init__(self, weights: dict[str, np.ndarray], sha256: str):
        self.sha256 = sha256
        self._variables = traverse_util.unflatten_dict({tuple(name.split("/")): v for name, v in weights.items()})
        self._placed: dict = {}
        self._apply = jax.jit(InceptionV3().apply)

    @property
    def is_standard(self) -> bool:
        """Whether the weights are those that FID is defined by."""
        return self.sha256.startswith(STANDARD_SHA256)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Features float32 [B, 2048] of images float [B, H, W, 3] in [-1, 1].

        Images split over devices give features split likewise, and the weights are copied to these devices once.

        Raises:
          ValueError: for another shape, or integers.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images are {images.dtype} {images.shape}: give float [B, H, W, 3] in [-1, 1]")
        place = getattr(images, "sharding", None)
        mesh = place.mesh if isinstance(place, NamedSharding) else None
        if mesh not in self._placed:
            where = None if mesh is None else NamedSharding(mesh, PartitionSpec())
            self._placed[mesh] = jax.device_put(self._variables, where)
        return self._apply(self._placed[mesh], images)


def load_inception(path: str | os.PathLike) -> Inception:
    """The network with weights from a file: the `.pth`, or the `.npz` that the converter made of it.

    Raises:
      ValueError: no path, no such file, or a file that does not hold this network's weights.
    """
    if not os.fspath(path):
        raise ValueError(
            f"FID needs the weights of its network and config.eval.inception_weights is empty: get {WHERE}"
        )
    path = expanded(path, "config.eval.inception_weights")
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path}: give the path of {WHERE}")
    weights, sha256 = (_read_npz if _is_npz(path) else read_pth)(path)
    return Inception(weights, sha256)


def read_pth(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], str]:
    """({name in Flax's tree: float32 array}, the file's SHA-256) of PyTorch's file; no code in it is run.

    Raises:
      ValueError: the file does not hold this network's weights.
    """
    state = read_state_dict(path)
    state = {name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    shapes = expected_shapes()
    expected = {_torch_name(name): _torch_shape(shape) for name, shape in shapes.items()} | _CLASSIFIER
    _check(path, {name: value.shape for name, value in state.items()}, expected)
    weights = {}
    for name in shapes:
        value = state[_torch_name(name)].astype(np.float32)
        weights[name] = np.ascontiguousarray(rearrange(value, "o i h w -> h w i o") if value.ndim == 4 else value)
    _check_finite(path, weights)
    with open(path, "rb") as file:
        return weights, hashlib.file_digest(file, "sha256").hexdigest()


def write_npz(path: str | os.PathLike, weights: dict[str, np.ndarray], sha256: str) -> None:
    """Writes what `load_inception` reads."""
    with open(path, "wb") as file:  # given a name, savez would append .npz to it
        np.savez(file, network=NETWORK, sha256=sha256, **weights)


@functools.cache
def expected_shapes() -> dict[str, tuple[int, ...]]:
    """{"params/Mixed_5b/branch1x1/conv/kernel": shape, ...} of every weight and statistic."""
    images = jax.ShapeDtypeStruct((1, _RESOLUTION, _RESOLUTION, 3), jnp.float32)
    variables = jax.eval_shape(InceptionV3().init, jax.random.key(0), images)
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}


def _torch_name(name: str) -> str:
    collection, *modules, layer, value = name.split("/")
    return ".".join([*modules, _VALUES[collection, layer, value]])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


def _is_npz(path: str | os.PathLike) -> bool:
    """Both formats are zip archives; NumPy's holds .npy files."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    # Damaged archives raise nearly anything; `read_pth` says what is wrong.
    except Exception:
        return False


def _read_npz(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], str]:
    """Looks at every name, shape and size before it reads any array: a small file may hold, or ask for, terabytes."""
    expected = expected_shapes()
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            network, sha256 = (_npy_text(archive, members.pop(name, None)) for name in ("network", "sha256"))
            headers = {name: _npy_header(archive, info) for name, info in members.items() if name in expected}
    # Damaged archives raise nearly anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {_told(error)}; convert the weights again") from error
    if network != NETWORK:
        raise ValueError(f"{path} holds the network {network!r}, not {NETWORK!r}: give {WHERE}")
    _check(path, {name: headers[name][0] if name in headers else () for name in members}, expected)
    for name, (shape, dtype, start) in headers.items():
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise ValueError(f"{path} is damaged: {name} holds {dtype}, not floats; convert the weights again")
        if members[name].file_size != start + math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"{path} is damaged: {name} has {members[name].file_size:,} bytes, which are not {shape} of {dtype}; "
                "convert the weights again"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _npy_array(archive, members[name]) for name in headers}
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {_told(error)}; convert the weights again") from error
    _check_finite(path, arrays)
    return arrays, sha256


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _npy_start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> io.BytesIO:
    # Of the other methods, zipfile unpacks a block at once, whatever its size.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed as NumPy never does")
    with archive.open(info) as file:
        return io.BytesIO(file.read(_NPY_HEADER))


def _npy_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, dtype, bytes before the numbers) of an array in the archive, by its own word."""
    start = _npy_start(archive, info)
    version = np.lib.format.read_magic(start)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{info.filename} is of NumPy's format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    return shape, dtype, start.tell()


def _npy_text(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> str:
    if info is None:
        return "unknown"
    shape, dtype, start = _npy_header(archive, info)
    if shape != () or dtype.kind != "U" or info.file_size != start + dtype.itemsize or info.file_size > _NPY_HEADER:
        return "unknown"
    return str(np.lib.format.read_array(_npy_start(archive, info), allow_pickle=False))


def _npy_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check(path: str | os.PathLike, found: dict[str, tuple], expected: dict[str, tuple]) -> None:
    wrong = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": [name for name in expected if name in found and found[name] != expected[name]],
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(names)} {what} ({names[0]}, ...)" for what, names in wrong.items() if names)
        raise ValueError(
            f"{path} holds the weights of another network than FID's ({len(expected)} arrays expected: {told}). "
            f"Give {WHERE}"
        )


def _check_finite(path: str | os.PathLike, weights: dict[str, np.ndarray]) -> None:
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path} is damaged: {name} is not finite; get the file again")
