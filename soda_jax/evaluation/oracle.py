"""An oracle of exact factors: a small classifier of real images, which reads what an edited image shows.

It is trained on a dataset's own images, once for each dataset and resolution, and judges no model but images: its
accuracy on held-out real ones is measured each time that it is used, and stands beside what it says.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree

from soda_jax.data.datasets import Dataset
from soda_jax.data.datasets.cache import CachedArray
from soda_jax.data.pipeline import eval_batches, iterate, train_batches
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.progress import shown
from soda_jax.metrics.bootstrap import Estimate, mean_estimate
from soda_jax.models.norm import GroupNorm

KIND = "factors"
BATCH = 64
_VERSION = 1  # part of the files' names; raise it when the network or its training changes
_WIDTHS = (32, 64, 96)
_HIDDEN = 256
_RATE, _WARMUP = 2e-3, 50
_READ_BATCH = 256
# What samples have and renderings lack: up to so much noise (images in [-1, 1]) and such a share of a 3x3 blur.
_NOISE, _BLUR = 0.06, 0.5


class Classifier(nn.Module):
    """A convolutional network with a softmax head for each factor.

    It ends in its flattened grid, not in the grid's mean: scales and orientations show in places.

    Attributes:
      sizes: classes of each factor.
    """

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Logits [B, size] of each factor, of images float [B, H, W, 3] in [-1, 1]."""
        # Larger images are read at every other pixel of a wider first window: the grid that is flattened stays small.
        stride = 2 * max(1, images.shape[1] // 32)
        h = nn.Conv(_WIDTHS[0], (stride + 2, stride + 2), strides=stride, name="stem")(images)
        h = nn.Conv(_WIDTHS[1], (3, 3), strides=2, name="down1")(nn.relu(self._norm("norm1")(h)))
        h = h + nn.Conv(_WIDTHS[1], (3, 3), name="conv")(nn.relu(self._norm("norm2")(h)))
        h = nn.Conv(_WIDTHS[2], (3, 3), strides=2, name="down2")(nn.relu(self._norm("norm3")(h)))
        h = nn.relu(self._norm("norm")(h)).reshape(len(images), -1)
        h = nn.relu(nn.LayerNorm(name="norm_hidden")(nn.Dense(_HIDDEN, name="hidden")(h)))
        return tuple(nn.Dense(size, name=f"head{i}")(h) for i, size in enumerate(self.sizes))

    def _norm(self, name: str) -> nn.Module:
        return GroupNorm(8, name=name)


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle:
    """A trained classifier of factors.

    Attributes:
      names, sizes: of the factors, as the dataset has them.
      params: of `Classifier`.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    params: Any

    def read(self, images: np.ndarray) -> np.ndarray:
        """The factors that images float [N, H, W, 3] in [-1, 1] show, int [N, F]; of several processes, as the first
        reads them: all must call this with the same images."""
        count = len(images)
        rows = np.minimum(np.arange(-(-count // _READ_BATCH) * _READ_BATCH), count - 1).reshape(-1, _READ_BATCH)
        read = [np.asarray(_read(self.sizes, self.params, np.asarray(images[r], np.float32))) for r in rows]
        return _of_first(np.concatenate(read)[:count])

    def accuracy(self, dataset: Dataset, spec: ViewSpec, limit: int) -> dict[str, Estimate]:
        """Share of held-out real images, at most `limit`, of which it reads each factor right, by the factor's name."""
        right = []
        for batch in eval_batches(dataset, _targets_only(spec), batch_size=_READ_BATCH, limit=limit):
            found = self.read(_unit(batch["target"])) == batch[KIND]
            right.append(found[batch["mask"]])
        right = np.concatenate(right).astype(np.float64)
        return {name: mean_estimate(right[:, i]) for i, name in enumerate(self.names)}


def load_or_train(
    dataset: Dataset,
    spec: ViewSpec,
    *,
    name: str,
    split: str,
    steps: int,
    folder: pathlib.Path,
    seed: int = 0,
) -> Oracle:
    """The oracle of a dataset's factors, from `folder` or trained and put there. All processes must call this.

    Args:
      dataset, spec: the training split and its views, of which the targets are read, unaugmented.
      name, split: of the dataset, for the file's name.
      steps: of training, each of `BATCH` images.
      folder: for the weights, outside of any run: every run on these images has the same oracle.

    Raises:
      ValueError: the dataset has no factors, or images smaller than 8 pixels.
    """
    if KIND not in dataset.labels:
        have = ", ".join(dataset.labels) or "none"
        raise ValueError(f"the dataset {name!r} has no exact factors (its labels: {have}); an oracle reads these alone")
    if spec.target_resolution < 8:
        raise ValueError(f"images of {spec.target_resolution} pixels show too little for an oracle; use 8 or more")
    labels = dataset.labels[KIND]
    spec = _targets_only(spec)
    model = Classifier(tuple(labels.sizes))
    start, put_together = ravel_pytree(_init(model, spec.target_resolution, seed))
    key = [_VERSION, name, split, len(dataset), spec.policy, spec.target_resolution, spec.eval_crop]
    key += [list(labels.names), list(labels.sizes), steps, BATCH, seed, start.size]
    if getattr(dataset, "fingerprint", None):  # any folder is called "folder"
        key.append(dataset.fingerprint)
    version = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = folder / f"oracle-{version}.npy"

    def train() -> np.ndarray:
        return np.asarray(_train(model, start, put_together, _batches(dataset, spec, steps, seed), steps, seed))

    flat = np.zeros(start.size, np.float32)
    if jax.process_index() == 0:
        found = CachedArray.load_or_build(path, train).array
        if found.shape != start.shape or found.dtype != np.float32 or not np.isfinite(found).all():
            logging.warning("%s holds no weights of this oracle: it is trained again", path)
            path.unlink()
            found = CachedArray.load_or_build(path, train).array
        flat = np.array(found)
    return Oracle(tuple(labels.names), tuple(labels.sizes), put_together(jnp.asarray(_of_first(flat))))


def _of_first(array: np.ndarray) -> np.ndarray:
    """Process 0's array on every process: what follows from it must be the same on all."""
    return array if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(array))


def _targets_only(spec: ViewSpec) -> ViewSpec:
    """Whole targets, and as little beside them as a batch must have."""
    sources = {"num_sources": 1, "min_sources": 0, "augment_source": False, "augment_target": False}
    return dataclasses.replace(spec, source_resolution=spec.target_resolution, **sources)


def _batches(dataset: Dataset, spec: ViewSpec, steps: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    batches = train_batches(dataset, spec, batch_size=BATCH, seed=seed)
    yield from shown(itertools.islice(iterate(batches), steps), "oracle of the factors", steps, unit="step")


def _init(model: Classifier, resolution: int, seed: int) -> Any:
    """Weights to start from: kernels with the variance 1 / inputs (LeCun et al. 1998), as flax draws them."""
    images = jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key != "kernel":
            return np.full(leaf.shape, path[-1].key == "scale", np.float32)
        return rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))

    # Drawn here: compiling the module's own initialisation takes longer than some steps of training.
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return jax.tree_util.tree_map_with_path(draw, shapes)


def _unit(images: Any) -> Any:
    return images.astype(np.float32) / 127.5 - 1


@functools.partial(jax.jit, static_argnums=0)
def _read(sizes: tuple[int, ...], params: Any, images: jax.Array) -> jax.Array:
    logits = Classifier(sizes).apply({"params": params}, images)
    return jnp.stack([one.argmax(axis=-1) for one in logits], axis=1)


def _disturbed(key: jax.Array, images: jax.Array) -> jax.Array:
    """Images [B, H, W, 3] with some noise and blur, of another strength each."""
    keys = jax.random.split(key, 3)
    strength = jax.random.uniform(keys[0], (2, len(images), 1, 1, 1))
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    blurred = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    share = _BLUR * strength[0]
    noise = _NOISE * strength[1] * jax.random.normal(keys[1], images.shape)
    return (1 - share) * images + share * blurred + noise


def _train(
    model: Classifier,
    weights: jax.Array,
    put_together: Callable[[jax.Array], Any],
    batches: Iterator[dict[str, np.ndarray]],
    steps: int,
    seed: int,
) -> jax.Array:
    """`weights` after Adam with a cosine schedule on the sum of the factors' cross-entropies.

    Args:
      weights: all of them as one vector, for which the optimiser's program is short.
      put_together: makes the module's parameters of it.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, _RATE, min(_WARMUP, steps // 2), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def loss(weights: jax.Array, images: jax.Array, factors: jax.Array) -> jax.Array:
        logits = model.apply({"params": put_together(weights)}, images)
        crossed = [
            optax.softmax_cross_entropy_with_integer_labels(one, factors[:, i]).mean() for i, one in enumerate(logits)
        ]
        return sum(crossed)

    @jax.jit
    def step(weights: jax.Array, state: Any, number: jax.Array, images: jax.Array, factors: jax.Array) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), number)
        gradient = jax.grad(loss)(weights, _disturbed(key, _unit(images)), factors)
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    state = optimizer.init(weights)
    for number, batch in enumerate(batches):
        weights, state = step(weights, state, np.int32(number), batch["target"], batch[KIND])
    return weights
