"""Exact k-nearest neighbours by cosine similarity, and their temperature-weighted vote (Caron et al. 2021)."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

GALLERY_BLOCK = 16_384  # training examples that a device compares at a time
QUERY_BLOCK = 512
_BLOCK_BYTES = 1 << 27  # of gallery features on a device at a time: wide features come in shorter blocks
_VOTES = 1 << 24  # votes counted at a time
# Rows whose greatest value lies beyond these are scaled: float32 loses their squares.
_LONG, _SHORT = 1e15, 1e-6
_AXIS = "gallery"


def nearest_neighbours(
    train_features: np.ndarray,
    test_features: np.ndarray,
    k: int,
    *,
    devices: Sequence[jax.Device] | None = None,
    gallery_block: int = GALLERY_BLOCK,
    query_block: int = QUERY_BLOCK,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The k training examples of the highest cosine similarity to each test example: exact, on the devices, in blocks.

    Every device compares the queries with its part of a block of the gallery; the best of all parts are merged. Devices
    hold a block at a time, so the gallery may be larger than they are, and may lie in a memory-mapped file.

    Args:
      train_features: float [N, D], the gallery. Zero vectors have similarity 0 to all.
      test_features: float [M, D], the queries.
      k: number of neighbours, 1..N.
      devices: which share the gallery; all of this process by default.
      gallery_block, query_block: examples compared at a time, on each device.
      progress: show on stderr how many blocks are compared, if it takes longer than a few seconds.

    Returns:
      (similarities float32 [M, k] in -1..1, indices int32 [M, k] into the gallery), the most similar first and, of
      equal similarities, the earlier example first. The first j columns are the j nearest neighbours.

    Raises:
      ValueError: for values out of range, NaN features, or shapes that do not agree.
    """
    train_features, test_features = np.asanyarray(train_features), np.asanyarray(test_features)
    _check_features(train_features, test_features)
    train_features, test_features = _scaled(train_features), _scaled(test_features)
    count, width = train_features.shape
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= count:
        raise ValueError(f"k is {k}: there are {count} training examples; choose k in 1..{count}")
    for name, value in (("gallery_block", gallery_block), ("query_block", query_block)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    devices = tuple(jax.local_devices() if devices is None else devices)
    block = min(gallery_block, max(1, _BLOCK_BYTES // (4 * width)), -(-count // len(devices)))
    mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))
    shared, everywhere = NamedSharding(mesh, PartitionSpec(_AXIS)), NamedSharding(mesh, PartitionSpec())
    search = _search(mesh, min(k, block))
    size = min(query_block, len(test_features))
    nothing = np.full((size, k), -np.inf, np.float32), np.zeros((size, k), np.int32)
    best = [jax.device_put(nothing, devices[0]) for _ in range(0, len(test_features), size)]
    firsts = range(0, count, block * len(devices))
    for first in tqdm(firsts, "neighbours", disable=not progress, unit="block", delay=2.0, dynamic_ncols=True):
        gallery = jax.device_put(_rows(train_features, first, block * len(devices)), shared)
        for number in range(len(best)):
            queries = jax.device_put(_rows(test_features, number * size, size), everywhere)
            found = search(queries, gallery, np.int32(first), np.int32(count))
            jax.block_until_ready(best[number - 1])  # else queries pile up on the devices faster than they are searched
            best[number] = _merge(best[number], jax.device_put(found, devices[0]))
    similarities, indices = (np.concatenate([np.asarray(part[i]) for part in best]) for i in range(2))
    return similarities[: len(test_features)], indices[: len(test_features)]


@functools.lru_cache(maxsize=8)
def _search(mesh: Mesh, k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The compiled search: (queries, gallery blocks of all devices, their place, N) -> each device's best k.

    It holds no collective operation: devices that share a busy machine's cores may be seconds apart.
    """

    def search(queries, gallery, first, count):
        block = gallery.shape[0]
        index = first + jax.lax.axis_index(_AXIS) * block + jnp.arange(block, dtype=jnp.int32)
        # Full precision: by default, accelerators multiply in bfloat16 or TF32.
        similarity = jnp.matmul(_unit(queries), _unit(gallery).T, precision=jax.lax.Precision.HIGHEST)
        similarity, where = jax.lax.top_k(jnp.where(index < count, similarity, -jnp.inf), k)
        return similarity, index[where]

    everywhere = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            search,
            mesh=mesh,
            in_specs=(everywhere, PartitionSpec(_AXIS), everywhere, everywhere),
            out_specs=PartitionSpec(None, _AXIS),
        )
    )


@jax.jit
def _merge(best: tuple[jax.Array, jax.Array], found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The k best of those so far and those found; of equal similarities the earlier example stands first in both."""
    similarities, indices = (jnp.concatenate(pair, axis=1) for pair in zip(best, found, strict=True))
    top, where = jax.lax.top_k(similarities, best[0].shape[1])
    return top, jnp.take_along_axis(indices, where, axis=1)


def knn_votes(
    similarities: np.ndarray, labels: np.ndarray, *, num_classes: int, temperature: float = 0.07
) -> np.ndarray:
    """Votes of neighbours for their classes, each of weight exp(similarity / temperature).

    Args:
      similarities: float [M, k], the most similar first.
      labels: int [M, k], the neighbours' classes in 0..num_classes-1.
      num_classes: number of classes.
      temperature: softness of the vote, above 0.

    Returns:
      float64 [M, num_classes]. The nearest neighbour's vote counts 1, whatever its similarity.

    Raises:
      ValueError: for values out of range, labels that are no whole numbers, or shapes that do not agree.
    """
    if similarities.shape != labels.shape or similarities.ndim != 2:
        raise ValueError(f"similarities have shape {similarities.shape} and labels {labels.shape}: both must be [M, k]")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be above 0")
    if labels.dtype.kind not in "biu":
        raise ValueError(f"labels are {labels.dtype}: give the classes as whole numbers, as labels.astype(int)")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"labels lie in {labels.min()}..{labels.max()}: with num_classes {num_classes} "
            f"they must lie in 0..{num_classes - 1}"
        )
    votes = np.empty((len(labels), num_classes))
    size = max(1, _VOTES // max(num_classes, labels.shape[1]))
    for first in range(0, len(labels), size):
        part = slice(first, first + size)
        near = similarities[part].astype(np.float64)
        # Relative to the nearest, which changes no vote's share and cannot overflow.
        weights = np.exp((near - near[:, :1]) / temperature)
        cells = np.arange(len(near))[:, None] * num_classes + labels[part]
        summed = np.bincount(cells.ravel(), weights.ravel(), minlength=len(near) * num_classes)
        votes[part] = summed.reshape(len(near), num_classes)
    return votes


def knn_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int,
) -> np.ndarray:
    """Classes by a vote of the k nearest training examples, weighted as DINO does.

    Nearest by cosine similarity; a neighbour's vote counts exp(similarity / temperature) (Caron et al. 2021; Wu et al.
    2018, Section 3.4).

    Args:
      train_features: float [N, D].
      train_labels: int [N] in 0..num_classes-1.
      test_features: float [M, D].
      k: number of neighbours, 1..N.
      temperature: softness of the vote, above 0.
      num_classes: number of classes.

    Returns:
      int32 [M], the class of each test example; of equal votes, the smaller class.

    Raises:
      ValueError: for values out of range, NaN features, or shapes that do not agree.
    """
    train_features, test_features = np.asarray(train_features), np.asarray(test_features)
    train_labels = np.asarray(train_labels)
    _check_features(train_features, test_features)
    if train_labels.shape != train_features.shape[:1]:
        raise ValueError(f"train_labels have shape {train_labels.shape}: give {train_features.shape[:1]}")
    similarities, indices = nearest_neighbours(train_features, test_features, k)
    votes = knn_votes(similarities, train_labels[indices], num_classes=num_classes, temperature=temperature)
    return votes.argmax(axis=1).astype(np.int32)


def _unit(x: jax.Array) -> jax.Array:
    """Rows of unit length; zero rows stay zero."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _scaled(features: np.ndarray) -> np.ndarray:
    """The features; a copy if any row is so long, or so short, that its squares leave float32, with such rows scaled.

    The cosine does not see the scale.
    """
    starts = range(0, len(features), QUERY_BLOCK)
    largest = np.concatenate([_largest(features[start : start + QUERY_BLOCK]) for start in starts])
    odd = (largest > _LONG) | ((largest > 0) & (largest < _SHORT))
    if not odd.any():
        return features
    scale, scaled = np.where(odd, largest, 1.0)[:, None], np.empty(features.shape, np.float32)
    for start in starts:
        part = slice(start, start + QUERY_BLOCK)
        scaled[part] = features[part].astype(np.float64) / scale[part]
    return scaled


def _largest(rows: np.ndarray) -> np.ndarray:
    """The greatest absolute value of each row."""
    rows = rows if rows.dtype.kind == "f" else rows.astype(np.float64)
    return np.abs(rows).max(axis=1).astype(np.float64)


def _rows(x: np.ndarray, first: int, count: int) -> np.ndarray:
    """Rows first..first+count of [N, D] as float32, with zeros past the end."""
    part = np.asarray(x[first : first + count], np.float32)
    return part if len(part) == count else np.pad(part, ((0, count - len(part)), (0, 0)))


def _check_features(train: np.ndarray, test: np.ndarray) -> None:
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train_features have shape {train.shape} and test_features {test.shape}: give [N, D] and [M, D]"
        )
    if not len(train) or not len(test):
        raise ValueError(f"{len(train)} training and {len(test)} test features: give at least 1")
    for name, features in (("train_features", train), ("test_features", test)):
        if features.dtype.kind not in "biuf" or not features.shape[1]:
            raise ValueError(f"{name} are {features.dtype} of shape {features.shape}: give numbers, at least one a row")
        bad = [
            start
            for start in range(0, len(features), QUERY_BLOCK)
            if not np.isfinite(features[start : start + QUERY_BLOCK]).all()
        ]
        if bad:
            raise ValueError(f"{name} hold NaN or infinite values, first in rows {bad[0]}..: nothing is near to them")
