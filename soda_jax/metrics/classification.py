"""Classification scores (SODA, Section 4.1 and Appendix E.1): top-k accuracy, k-NN and F1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def top_k_accuracy(logits: jax.Array, labels: jax.Array, *, k: int = 1, mask: jax.Array | None = None) -> jax.Array:
    """Share of the examples whose class is among the k with the highest logits.

    Of classes with equal logits, the one with the smaller number comes first.

    Args:
      logits: float [N, C].
      labels: int [N] in 0..C-1.
      k: how many guesses count.
      mask: bool [N], False on examples to leave out (padding). All count by default.

    Returns:
      float32 scalar in [0, 1]; nan if the mask leaves no example.

    Raises:
      ValueError: unless 1 <= k <= C and the shapes agree.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k is {k}: there are {logits.shape[-1]} classes to rank")
    mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask, bool)
    if logits.ndim != 2 or logits.shape[:1] != labels.shape or mask.shape != labels.shape:
        raise ValueError(
            f"logits have shape {logits.shape}, labels {labels.shape} and mask {mask.shape}: give [N, C], [N] and [N]"
        )
    guesses = jax.lax.top_k(logits, k)[1]
    correct = jnp.any(guesses == labels[:, None], axis=-1)
    return jnp.sum(correct & mask) / jnp.sum(mask)


def binary_f1(predictions: jax.Array, targets: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """F1 of the positive class of each of A binary attributes: 2 TP / (2 TP + FP + FN).

    Args:
      predictions: bool or 0/1 [N, A].
      targets: bool or 0/1 [N, A].
      mask: bool [N], False on examples to leave out (padding). All count by default.

    Returns:
      float32 [A] in [0, 1]; 0 for an attribute that is neither predicted nor present.

    Raises:
      ValueError: if the shapes do not agree.
    """
    predictions, targets = jnp.asarray(predictions, bool), jnp.asarray(targets, bool)
    mask = jnp.ones(targets.shape[:1], bool) if mask is None else jnp.asarray(mask, bool)
    if predictions.ndim != 2 or predictions.shape != targets.shape:
        raise ValueError(
            f"predictions have shape {predictions.shape} and targets {targets.shape}: both must be [N, A] and the same"
        )
    if mask.shape != targets.shape[:1]:
        raise ValueError(f"mask has shape {mask.shape}: give {targets.shape[:1]}, one an example")
    counted = mask[:, None]
    hits = jnp.sum(predictions & targets & counted, axis=0)
    errors = jnp.sum((predictions ^ targets) & counted, axis=0)
    return jnp.where(hits > 0, 2 * hits / jnp.maximum(2 * hits + errors, 1), 0.0)


def knn_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int,
    block_size: int = 1024,
) -> np.ndarray:
    """Classes by a vote of the k nearest training examples, weighted as DINO does.

    Nearest by cosine similarity; a neighbour's vote counts exp(similarity / temperature) (Caron et
    al. 2021; Wu et al. 2018, Section 3.4). The search is exact, in blocks of training and test
    examples: the training features stay on the device, similarities take block_size^2 floats.

    Args:
      train_features: float [N, D].
      train_labels: int [N] in 0..num_classes-1.
      test_features: float [M, D].
      k: number of neighbours, 1..N.
      temperature: softness of the vote, above 0.
      num_classes: number of classes.
      block_size: examples compared at a time.

    Returns:
      int32 [M], the class of each test example; of equal votes, the smaller class.

    Raises:
      ValueError: for values out of range or shapes that do not agree.
    """
    train_features, train_labels = np.asarray(train_features), np.asarray(train_labels)
    test_features = np.asarray(test_features)
    _check_knn(train_features, train_labels, test_features, k, temperature, num_classes, block_size)
    gallery = jnp.asarray(_blocks(train_features, min(block_size, len(train_features))))
    labels = jnp.asarray(train_labels, jnp.int32)
    classify = functools.partial(_knn_block, k=k, num_classes=num_classes, num_train=len(train_features))
    queries = _blocks(test_features, min(block_size, len(test_features)))
    votes = [classify(gallery, labels, block, np.float32(temperature)) for block in queries]
    return np.concatenate([np.asarray(v) for v in votes])[: len(test_features)]


@functools.partial(jax.jit, static_argnames=("k", "num_classes", "num_train"))
def _knn_block(gallery, labels, queries, temperature, *, k, num_classes, num_train):
    """Classes int32 [m] of queries [m, D] against a gallery [blocks, n, D]."""
    queries = _normalise(queries)
    block = gallery.shape[1]

    def merge(best, numbered):
        number, features = numbered
        index = number * block + jnp.arange(block)
        # Full precision: by default, accelerators multiply in bfloat16 or TF32.
        similarity = jnp.matmul(queries, _normalise(features).T, precision=jax.lax.Precision.HIGHEST)
        similarity = jnp.where(index < num_train, similarity, -jnp.inf)
        # The best so far stand first: of equal similarities the earlier example is kept.
        similarities = jnp.concatenate([best[0], similarity], axis=1)
        indices = jnp.concatenate([best[1], jnp.broadcast_to(index, similarity.shape)], axis=1)
        top, where = jax.lax.top_k(similarities, k)
        return (top, jnp.take_along_axis(indices, where, axis=1)), None

    start = (
        jnp.full((len(queries), k), -jnp.inf),
        jnp.zeros((len(queries), k), jnp.int32),
    )
    numbers = jnp.arange(len(gallery))
    (similarity, index), _ = jax.lax.scan(merge, start, (numbers, gallery))
    # Relative to the nearest, which changes no vote's share and cannot overflow.
    weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
    is_class = labels[index][..., None] == jnp.arange(num_classes)
    return jnp.argmax(jnp.sum(weight[..., None] * is_class, axis=1), axis=-1).astype(jnp.int32)


def _normalise(x: jax.Array) -> jax.Array:
    """Rows of unit length; zero rows stay zero."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _blocks(x: np.ndarray, size: int) -> np.ndarray:
    """[N, D] as [ceil(N / size), size, D], padded with zeros."""
    count = -(-len(x) // size)
    padded = np.zeros((count * size, x.shape[1]), np.float32)
    padded[: len(x)] = x
    return padded.reshape(count, size, x.shape[1])


def _check_knn(train, labels, test, k, temperature, num_classes, block_size) -> None:
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train_features have shape {train.shape} and test_features {test.shape}: give [N, D] and [M, D]"
        )
    if labels.shape != train.shape[:1]:
        raise ValueError(f"train_labels have shape {labels.shape}: give {train.shape[:1]}")
    if not len(train) or not len(test):
        raise ValueError(f"{len(train)} training and {len(test)} test features: give at least 1")
    if not 1 <= k <= len(train):
        raise ValueError(f"k is {k}: there are {len(train)} training examples")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"train_labels lie in {labels.min()}..{labels.max()}: with num_classes {num_classes} "
            f"they must lie in 0..{num_classes - 1}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be above 0")
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}: it must be at least 1")
