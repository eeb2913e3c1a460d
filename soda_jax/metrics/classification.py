"""Classification scores (SODA, Section 4.1 and Appendix E.1): top-k accuracy and F1, with their intervals."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.metrics.bootstrap import LEVEL, RESAMPLES, Estimate

_DRAWS = 1 << 24  # drawn indices held at a time


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
    return jnp.sum((class_ranks(logits, labels) < k) & mask) / jnp.sum(mask)


def class_ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the right one, int32 [...]: 0 where the best guess is right.

    Of classes with equal logits, the one with the smaller number comes first. Where the right class's logit is not a
    number, it comes after all others.

    Args:
      logits: float [..., C].
      labels: int [...] in 0..C-1.
    """
    labels = jnp.asarray(labels)[..., None]
    right = jnp.take_along_axis(logits, labels, axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels
    before = (logits > right) | ((logits == right) & earlier) | jnp.isnan(right)
    return jnp.sum(before, axis=-1, dtype=jnp.int32)


def binary_f1(predictions: jax.Array, labels: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """F1 of the positive class of each of A binary attributes: 2 TP / (2 TP + FP + FN).

    Args:
      predictions: bool or 0/1 [N, A].
      labels: bool or 0/1 [N, A].
      mask: bool [N], False on examples to leave out (padding). All count by default.

    Returns:
      float32 [A] in [0, 1]; 0 for an attribute that is neither predicted nor present.

    Raises:
      ValueError: if the shapes do not agree.
    """
    predictions, labels = jnp.asarray(predictions, bool), jnp.asarray(labels, bool)
    mask = jnp.ones(labels.shape[:1], bool) if mask is None else jnp.asarray(mask, bool)
    if predictions.ndim != 2 or predictions.shape != labels.shape:
        raise ValueError(
            f"predictions have shape {predictions.shape} and labels {labels.shape}: both must be [N, A] and the same"
        )
    if mask.shape != labels.shape[:1]:
        raise ValueError(f"mask has shape {mask.shape}: give {labels.shape[:1]}, one an example")
    counted = mask[:, None]
    hits = jnp.sum(predictions & labels & counted, axis=0)
    errors = jnp.sum((predictions ^ labels) & counted, axis=0)
    return jnp.where(hits > 0, 2 * hits / jnp.maximum(2 * hits + errors, 1), 0.0)


def classification_estimates(
    ranks: np.ndarray,
    labels: np.ndarray,
    sizes: Sequence[int],
    names: Sequence[str],
    *,
    over: str = "images",
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every score of a classifier of several labels, each with its 95 % bootstrap interval over the examples.

    All scores come of the same resamples, which weigh examples instead of copying them. With several runs (classifiers
    trained on other draws), a score is the mean of theirs, and a resample draws both runs and examples.

    Args:
      ranks: int [N, H], or [S, N, H] for S runs: how many classes come before the right one (`class_ranks`).
      labels: int [N, H], the right classes.
      sizes, names: number of classes and name of each label.
      over: what N counts.
      seed: of the resampling.

    Returns:
      NAME: accuracy of each label; "mean" over them where there are several; where there is one, of more than 5
      classes, "NAME_top5"; where all labels are two-way, "NAME_f1" of class 1, and "mean_f1".

    Raises:
      ValueError: if there are no examples, or the shapes do not agree.
    """
    ranks, labels = np.asarray(ranks), np.asarray(labels)
    runs = ranks if ranks.ndim == 3 else ranks[None]
    if runs.shape[1:] != labels.shape or labels.shape[1:] != (len(sizes),) or len(sizes) != len(names):
        raise ValueError(
            f"ranks have shape {ranks.shape} and labels {labels.shape}: give [N, H] or [S, N, H] and [N, H] for "
            f"{len(sizes)} sizes and {len(names)} names"
        )
    if labels.size == 0:
        raise ValueError("there are no examples to score: the split or the selection is empty")
    table = _counted(runs, labels, sizes)
    heads = len(names)

    def figures(sums: np.ndarray) -> np.ndarray:
        """From sums over examples [..., columns] to scores: of each label, then the means of several labels."""
        scores = sums / len(labels)
        if _two_way(sizes):
            right, wrong = sums[..., heads : 2 * heads], sums[..., 2 * heads :]
            f1 = np.where(right > 0, 2 * right / np.maximum(2 * right + wrong, 1), 0.0)
            scores = np.concatenate([scores[..., :heads], f1], axis=-1)
        if heads == 1:
            return scores
        means = [scores[..., i : i + heads].mean(axis=-1, keepdims=True) for i in range(0, scores.shape[-1], heads)]
        return np.concatenate([scores, *means], axis=-1)

    values = figures(table.sum(axis=1, dtype=np.float64)).mean(axis=0)
    drawn = _resampled_means(table, figures, seed)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    over = over if len(runs) == 1 else f"{over}, {len(runs)} seeds"
    return {
        label: Estimate(float(value), float(a), float(b), len(labels), over)
        for label, value, a, b in zip(_labels(sizes, names), values, low, high, strict=True)
    }


def _two_way(sizes: Sequence[int]) -> bool:
    return set(sizes) == {2}


def _has_top5(sizes: Sequence[int]) -> bool:
    return len(sizes) == 1 and sizes[0] > 5


def _labels(sizes: Sequence[int], names: Sequence[str]) -> list[str]:
    """Names of the scores, in the order of `classification_estimates`' figures."""
    f1 = _two_way(sizes)
    labels = [*names, *(f"{name}_f1" for name in names if f1), *(f"{name}_top5" for name in names if _has_top5(sizes))]
    return labels if len(names) == 1 else [*labels, *(["mean", "mean_f1"] if f1 else ["mean"])]


def _counted(runs: np.ndarray, labels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """What is summed over the examples, float32 [S, N, columns]: hits, and for F1 true positives and errors."""
    columns = [runs == 0]
    if _has_top5(sizes):
        columns.append(runs < 5)
    if _two_way(sizes):
        columns += [columns[0] & (labels == 1), ~columns[0]]
    return np.concatenate(columns, axis=-1).astype(np.float32)


def _resampled_means(table: np.ndarray, figures: Callable[[np.ndarray], np.ndarray], seed: int) -> np.ndarray:
    """`figures` of the sums over resampled rows of table [S, N, M], the mean of resampled runs: [resamples, scores]."""
    num_runs, count = table.shape[:2]
    rng = np.random.default_rng(seed)
    of_runs = np.random.default_rng([seed, 1])
    size = max(1, min(RESAMPLES, _DRAWS // count))
    means = []
    for start in range(0, RESAMPLES, size):
        number = min(size, RESAMPLES - start)
        cells = rng.integers(count, size=(number, count)) + count * np.arange(number)[:, None]
        weights = np.bincount(cells.ravel(), minlength=number * count).reshape(number, count).astype(np.float32)
        scores = np.stack([figures(weights @ run) for run in table], axis=1)
        shares = of_runs.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=number) / num_runs
        means.append(np.einsum("rs,rsm->rm", shares, scores))
    return np.concatenate(means)
