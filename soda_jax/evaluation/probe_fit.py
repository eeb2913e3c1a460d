"""Fitting linear probes to frozen features: several learning rates side by side, in chunks of the training stream.

Features stay on the host, in memory or in a file, and reach the device a chunk of steps at a time, so that neither they
nor their augmented views need to fit there.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from soda_jax.evaluation.progress import shown
from soda_jax.metrics.classification import class_ranks
from soda_jax.models.probe import head_losses, stack_heads

_BLOCK_BYTES = 1 << 26  # of features on their way to the device
_MAX_STEPS = 64  # in a chunk
_EPSILON = 1e-5  # of BatchNorm
_ORDER, _DROPOUT = 1, 2  # streams of random numbers

Views = Callable[[int], np.ndarray]


class Statistics(NamedTuple):
    """Of each dimension, float32 [d] each: what the averages of BatchNorm come to on frozen features.

    Attributes:
      mean: its mean.
      std: its standard deviation, with BatchNorm's epsilon inside the root.
    """

    mean: np.ndarray
    std: np.ndarray


class Weights(NamedTuple):
    """Probes for R learning rates: kernel [d, R, sum(sizes)] and bias [R, sum(sizes)], on normalised features."""

    kernel: jax.Array
    bias: jax.Array
    statistics: Statistics


class Answers(NamedTuple):
    """What R probes say of N examples with H labels, or one of them without the first axis.

    Attributes:
      ranks: how many classes come before the right one, int32 [R, N, H].
      scores: of two-way labels, the logit of class 1 less that of class 0, float32 [R, N, H]; None with other labels.
    """

    ranks: np.ndarray
    scores: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """How a probe is fitted (SODA, E.1 and Table 12).

    Attributes:
      batch_size: examples of a step; a batch may span two epochs.
      dropout: rate on the normalised features.
      label_smoothing: share of the label mass spread evenly.
      init_scale: standard deviation of the initial weights.
      bias_init: initial bias.
    """

    batch_size: int = 512
    dropout: float = 0.1
    label_smoothing: float = 0.0
    init_scale: float = 0.02
    bias_init: float = 0.0


def statistics(features: np.ndarray, rows: np.ndarray | None = None) -> Statistics:
    """Of the given rows of features [N, d], all by default; in double precision, a block at a time."""
    rows = np.arange(len(features)) if rows is None else np.sort(rows)
    size = _rows_at_a_time(features.shape[1])
    origin = features[rows[0]].astype(np.float64)  # differences lose no digits where features lie far from 0
    total, squares = np.zeros_like(origin), np.zeros_like(origin)
    for start in range(0, len(rows), size):
        part = features[rows[start : start + size]] - origin
        total += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
    mean = total / len(rows)
    variance = np.maximum(squares / len(rows) - np.square(mean), 0.0)
    return Statistics((mean + origin).astype(np.float32), np.sqrt(variance + _EPSILON).astype(np.float32))


def fit(
    views: Views,
    labels: np.ndarray,
    rows: np.ndarray,
    sizes: tuple[int, ...],
    *,
    rates: tuple[float, ...],
    epochs: int,
    normaliser: Statistics,
    options: ProbeOptions,
    seed: int = 0,
) -> Weights:
    """Minimises smoothed cross-entropy by Adam, without weight decay; each rate falls to 0 on a cosine.

    The stream runs through the rows in epochs, each a new permutation. Rates share batches and dropout, and each gets
    what it would get alone.

    Args:
      views: from the epoch to features float32 [N, d].
      labels: int [N, H].
      rows: which examples to train on.
      sizes: number of classes of each label.
      rates: learning rates.
      epochs: passes over the rows.
      normaliser: subtracted from and divided into the features.
      seed: of initial weights, order and dropout.
    """
    batch = options.batch_size
    steps = max(1, epochs * len(rows) // batch)
    width = len(normaliser.mean)
    per_chunk = max(1, min(_MAX_STEPS, _rows_at_a_time(width) // batch))
    carry = _start(jax.random.key(seed), width, len(rates), sum(sizes), options.init_scale, options.bias_init)
    scales = np.asarray(rates, np.float32)
    settings = {"sizes": sizes, "dropout": options.dropout, "label_smoothing": options.label_smoothing}
    chunks = _chunks(views, labels, rows, steps, per_chunk, batch, options.dropout, seed)
    for number, chunk in enumerate(shown(chunks, "probe", -(-steps // per_chunk), unit="chunk")):
        jax.block_until_ready(carry)  # else chunks pile up on the device faster than they are worked off
        carry = _train(carry, *chunk, normaliser, scales, number * per_chunk, steps, **settings)
    kernel, bias = carry[0]["kernel"], carry[0]["bias"]
    return Weights(kernel, bias, normaliser)


def ranks(weights: Weights, features: np.ndarray, labels: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """How many classes each probe puts before the right one, int32 [R, N, H]."""
    return answers(weights, features, labels, sizes).ranks


def answers(weights: Weights, features: np.ndarray, labels: np.ndarray, sizes: tuple[int, ...]) -> Answers:
    """What each probe says of the features, in the light of the labels int [N, H]."""
    size = min(_rows_at_a_time(features.shape[1]), -(-len(features) // 256) * 256)
    found = []
    for start in range(0, len(features), size):
        x, y = features[start : start + size], labels[start : start + size]
        padding = ((0, size - len(x)), (0, 0))  # one program serves every block
        block = _answer_block(weights, np.pad(x, padding), np.pad(y, padding), sizes=sizes)
        found.append([np.asarray(part)[:, : len(x)] for part in block])
    ranks, scores = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return Answers(ranks, scores if set(sizes) == {2} else None)


def _rows_at_a_time(width: int) -> int:
    return max(1, _BLOCK_BYTES // (4 * width))


def _chunks(
    views: Views,
    labels: np.ndarray,
    rows: np.ndarray,
    steps: int,
    per_chunk: int,
    batch: int,
    dropout: float,
    seed: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(features [K, B, d], labels [K, B, H], dropout's random bits [K, B, d or 0]); zeros past the end."""
    features_of = functools.lru_cache(maxsize=1)(views)
    order_of = functools.lru_cache(maxsize=1)(lambda e: np.random.default_rng([seed, _ORDER, e]).permutation(rows))
    size, count = per_chunk * batch, len(rows)
    for chunk in range(-(-steps // per_chunk)):
        first = chunk * size
        last = min(first + size, steps * batch)
        x = y = None
        for epoch in range(first // count, -(-last // count)):
            features = features_of(epoch)
            if x is None:
                # New arrays each time: on CPU, the device may read the last chunk's where they are.
                x = np.zeros((size, features.shape[1]), np.float32)
                y = np.zeros((size, labels.shape[1]), np.int32)
            start, stop = max(first, epoch * count), min(last, (epoch + 1) * count)
            drawn = order_of(epoch)[start - epoch * count : stop - epoch * count]
            place = slice(start - first, stop - first)
            np.take(features, drawn, axis=0, out=x[place], mode="clip")  # NumPy buffers `out` unless it may clip
            y[place] = labels[drawn]
        bits = _random_bits(x.size if dropout > 0 else 0, (seed, _DROPOUT, chunk))
        yield tuple(part.reshape(per_chunk, batch, -1) for part in (x, y, bits))


def _random_bits(count: int, words: tuple[int, ...]) -> np.ndarray:
    """uint16 [count] of the stream named by `words`: a tenth of the time that JAX's own generator takes on CPU."""
    bits = np.random.Philox(np.random.SeedSequence(words)).random_raw(-(-count // 4))
    return bits.view(np.uint16)[:count]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _start(key: jax.Array, width: int, num_rates: int, classes: int, scale: float, bias: float) -> tuple[Any, Any]:
    """(parameters, Adam's state): every rate starts from the same weights."""
    kernel = scale * jax.random.normal(key, (width, 1, classes))
    params = {
        "kernel": jnp.broadcast_to(kernel, (width, num_rates, classes)),
        "bias": jnp.full((num_rates, classes), bias),
    }
    return params, optax.scale_by_adam().init(params)


@functools.partial(jax.jit, static_argnames=("sizes", "dropout", "label_smoothing"), donate_argnums=0)
def _train(carry, features, labels, bits, normaliser, rates, first, total, *, sizes, dropout, label_smoothing):
    """The carry after a chunk of steps; those from `total` on change nothing."""
    adam = optax.scale_by_adam()

    def loss(params, x, y):
        logits = _logits(params["kernel"], params["bias"], x)
        # The mean over examples and heads, the sum over rates: the gradient of each is its own.
        return head_losses(stack_heads(logits, sizes), y[:, None], sizes, label_smoothing).mean(axis=(0, 2)).sum()

    def step(carry, inputs):
        params, opt_state = carry
        number, x, y, drawn = inputs
        x = (x - normaliser.mean) / normaliser.std
        if dropout > 0:
            x = x * (drawn >= round(dropout * 2**16)) / (1 - dropout)
        updates, opt_state = adam.update(jax.grad(loss)(params, x, y), opt_state)
        scale = -rates * jnp.where(number < total, 0.5 * (1 + jnp.cos(jnp.pi * number / total)), 0.0)
        params = {
            "kernel": params["kernel"] + scale[:, None] * updates["kernel"],
            "bias": params["bias"] + scale[:, None] * updates["bias"],
        }
        return (params, opt_state), None

    count = features.shape[0]
    return jax.lax.scan(step, carry, (first + jnp.arange(count), features, labels, bits))[0]


@functools.partial(jax.jit, static_argnames="sizes")
def _answer_block(weights, features, labels, *, sizes):
    x = (features - weights.statistics.mean) / weights.statistics.std
    logits = stack_heads(_logits(weights.kernel, weights.bias, x), sizes)
    labels = jnp.broadcast_to(labels[:, None], logits.shape[:-1])
    scores = logits[..., -1] - logits[..., 0]  # of two-way labels: log p(1) / p(0)
    return jnp.moveaxis(class_ranks(logits, labels), 1, 0), jnp.moveaxis(scores, 1, 0)


def _logits(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """[B, R, classes]. Full precision: accelerators would multiply in bfloat16 or TF32."""
    return jnp.einsum("bd,drc->brc", x, kernel, precision=jax.lax.Precision.HIGHEST) + bias
