"""Classification scores (SODA, Section 4.1 and Appendix E.1): top-k accuracy and F1, with their intervals.

And the average precision of two-way labels, by which diffusion autoencoders compare their codes of CelebA.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.metrics.bootstrap import LEVEL, RESAMPLES, Estimate

_DRAWS = 1 << 24  # drawn indices held at a time
_WEIGHTS = 1 << 20  # weights sorted and summed at a time: what stays in a cache


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


def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area below the steps of precision over recall, as the threshold falls: sum over n of (R_n - R_{n-1}) P_n.

    Examples of equal scores pass the threshold together.

    Args:
      scores: float [N]; higher for what is rather of class 1. What is not a number comes last.
      labels: bool or 0/1 [N].
      weights: [R, N], of R samples of the examples at once; one of each by default.

    Returns:
      float64 [R] in [0, 1]; 0 where no example is of class 1.

    Raises:
      ValueError: if the shapes do not agree, or there are no examples.
    """
    scores, labels = np.asarray(scores), np.asarray(labels, bool)
    weights = np.ones((1, scores.size)) if weights is None else np.asarray(weights)
    if not (scores.ndim == 1 and scores.size) or labels.shape != scores.shape or weights.shape[1:] != scores.shape:
        raise ValueError(
            f"scores have shape {scores.shape}, labels {labels.shape} and weights {weights.shape}: give [N], [N] and "
            "[R, N], of at least one example"
        )
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(order) - 1)  # of the groups of equal scores
    found = []
    size = max(1, _WEIGHTS // len(order))
    for start in range(0, len(weights), size):
        drawn = weights[start : start + size, order]
        seen = np.cumsum(drawn, axis=1, dtype=np.float64)[:, ends]
        hits = np.cumsum(drawn * labels[order], axis=1, dtype=np.float64)[:, ends]
        precision = hits / np.where(seen > 0, seen, 1.0)
        total = hits[:, -1]
        area = (np.diff(hits, prepend=0.0, axis=1) * precision).sum(axis=1)
        found.append(area / np.where(total > 0, total, 1.0))
    return np.concatenate(found)


def classification_estimates(
    ranks: np.ndarray,
    labels: np.ndarray,
    sizes: Sequence[int],
    names: Sequence[str],
    *,
    scores: np.ndarray | None = None,
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
      scores: float of the shape of `ranks`, of two-way labels: higher for what is rather of class 1.
      over: what N counts.
      seed: of the resampling.

    Returns:
      NAME: accuracy of each label; "mean" over them where there are several; where there is one, of more than 5
      classes, "NAME_top5"; where all labels are two-way, "NAME_f1" of class 1, and "mean_f1"; with scores also
      "NAME_ap", its `average_precision`, and "mean_ap".

    Raises:
      ValueError: if there are no examples, the shapes do not agree, or scores are given of labels that are not two-way.
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
    if scores is not None and not (_two_way(sizes) and np.shape(scores) == ranks.shape):
        raise ValueError(
            f"scores have shape {np.shape(scores)}: give {ranks.shape}, as ranks have, of labels of two classes; the "
            f"labels have {', '.join(map(str, sizes))}"
        )
    figures = _figures(runs, labels, sizes, None if scores is None else np.reshape(scores, runs.shape))
    values = np.mean([figures(np.ones((1, len(labels)), np.float32), run)[0] for run in range(len(runs))], axis=0)
    drawn = _resampled_means(figures, len(runs), len(labels), seed)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    over = over if len(runs) == 1 else f"{over}, {len(runs)} seeds"
    return {
        label: Estimate(float(value), float(a), float(b), len(labels), over)
        for label, value, a, b in zip(_labels(sizes, names, scores is not None), values, low, high, strict=True)
    }


def _figures(
    runs: np.ndarray, labels: np.ndarray, sizes: Sequence[int], scores: np.ndarray | None
) -> Callable[[np.ndarray, int], np.ndarray]:
    """From weights of the examples [R, N] and a run's number to its figures [R, M], in the order of `_labels`."""
    table, heads = _counted(runs, labels, sizes), len(sizes)

    def figures(weights: np.ndarray, run: int) -> np.ndarray:
        sums = (weights @ table[run]).astype(np.float64)
        found = sums / len(labels)
        if _two_way(sizes):
            right, wrong = sums[:, heads : 2 * heads], sums[:, 2 * heads :]
            f1 = np.where(right > 0, 2 * right / np.maximum(2 * right + wrong, 1), 0.0)
            found = np.concatenate([found[:, :heads], f1], axis=1)
        if scores is not None:
            areas = [average_precision(scores[run, :, i], labels[:, i] == 1, weights) for i in range(heads)]
            found = np.concatenate([found, np.stack(areas, axis=1)], axis=1)
        if heads == 1:
            return found
        means = [found[:, i : i + heads].mean(axis=1, keepdims=True) for i in range(0, found.shape[1], heads)]
        return np.concatenate([found, *means], axis=1)

    return figures


def _two_way(sizes: Sequence[int]) -> bool:
    return set(sizes) == {2}


def _has_top5(sizes: Sequence[int]) -> bool:
    return len(sizes) == 1 and sizes[0] > 5


def _labels(sizes: Sequence[int], names: Sequence[str], scored: bool) -> list[str]:
    """Names of the figures, in the order of `_figures`; `scored`: average precisions are among them."""
    endings = [""] + ["_f1"] * _two_way(sizes) + ["_ap"] * scored + ["_top5"] * _has_top5(sizes)
    labels = [f"{name}{ending}" for ending in endings for name in names]
    return labels if len(names) == 1 else [*labels, *(f"mean{ending}" for ending in endings)]


def _counted(runs: np.ndarray, labels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """What is summed over the examples, float32 [S, N, columns]: hits, and for F1 true positives and errors."""
    columns = [runs == 0]
    if _has_top5(sizes):
        columns.append(runs < 5)
    if _two_way(sizes):
        columns += [columns[0] & (labels == 1), ~columns[0]]
    return np.concatenate(columns, axis=-1).astype(np.float32)


def _resampled_means(
    figures: Callable[[np.ndarray, int], np.ndarray], num_runs: int, count: int, seed: int
) -> np.ndarray:
    """`figures` of resamples of `count` examples, the mean of resampled runs: [resamples, figures]."""
    rng = np.random.default_rng(seed)
    of_runs = np.random.default_rng([seed, 1])
    size = max(1, min(RESAMPLES, _DRAWS // count))
    means = []
    for start in range(0, RESAMPLES, size):
        number = min(size, RESAMPLES - start)
        cells = rng.integers(count, size=(number, count)) + count * np.arange(number)[:, None]
        weights = np.bincount(cells.ravel(), minlength=number * count).reshape(number, count).astype(np.float32)
        scores = np.stack([figures(weights, run) for run in range(num_runs)], axis=1)
        shares = of_runs.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=number) / num_runs
        means.append(np.einsum("rs,rsm->rm", shares, scores))
    return np.concatenate(means)
