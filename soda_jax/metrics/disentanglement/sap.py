"""Separated attribute predictability (Kumar et al. 2018): the lead of the best code for a factor over the second best.

A discrete factor is predicted by a linear support vector machine on one code, scikit-learn's `LinearSVC(C=0.01,
class_weight="balanced")` as in disentanglement_lib. It has two parameters, which Newton's method finds here: sums over
the sorted code give the objective at any point without a pass over the examples.
"""

import numpy as np

from soda_jax.metrics.disentanglement.factors import Kinds, Problem, prepare
from soda_jax.metrics.disentanglement.parallel import processes

PENALTY = 0.01  # LinearSVC's C
_STEPS, _HALVINGS, _TOLERANCE = 100, 30, 1e-10


def sap(
    train_codes: np.ndarray,
    train_factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    *,
    kinds: Kinds = "auto",
    jobs: int | None = None,
) -> float:
    """Mean over factors of the gap between the two codes that predict it best, in [0, 1].

    Args:
      train_codes, train_factors, test_codes, test_factors: [N, d], [N, K], [M, d] and [M, K]; two codes or more.
      kinds: as for `dci`.
      jobs: processes; None is one a core, or this one alone for small data.

    Raises:
      ValueError: for input that `factors.prepare` refuses, or with one code.
    """
    problem = prepare(train_codes, train_factors, test_codes, test_factors, kinds)
    if problem.train_codes.shape[1] < 2:
        raise ValueError("codes have 1 column: a gap needs at least 2 codes")
    best = np.sort(predictabilities(problem, jobs), axis=0)
    return float(np.mean(best[-1] - best[-2]))


def predictabilities(problem: Problem, jobs: int | None = None) -> np.ndarray:
    """How well each code alone predicts each factor, float64 [d, K].

    The accuracy on the test examples of a discrete factor, the squared correlation on the training examples of a
    continuous one.
    """
    from joblib import Parallel, delayed

    columns = zip(problem.train_codes.T, problem.test_codes.T, strict=True)
    jobs = processes(jobs, problem.train_codes.shape[1], problem.train_codes.size * sum(problem.sizes))
    rows = Parallel(n_jobs=jobs, batch_size=16)(
        delayed(_code_scores)(train, test, problem.train_factors, problem.test_factors, problem.sizes)
        for train, test in columns
    )
    return np.array(rows)


def _code_scores(
    train: np.ndarray, test: np.ndarray, train_factors: np.ndarray, test_factors: np.ndarray, sizes: tuple[int, ...]
) -> list[float]:
    """Scores of one code, [N] and [M], for each factor."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    scores = []
    for factor, target, size in zip(train_factors.T, test_factors.T, sizes, strict=True):
        if size == 1:
            centred = train - train.mean()
            spread = np.square(centred).sum() * np.square(factor - factor.mean()).sum()
            scores.append(float(np.square(centred @ (factor - factor.mean())) / spread) if spread > 0 else 0.0)
        else:
            slopes, offsets = linear_svm(train, factor.astype(np.int64), size)
            scores.append(float(np.mean(_classes(test, slopes, offsets) == target)))
    return scores


def _classes(code: np.ndarray, slopes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    decisions = code[:, None] * slopes + offsets
    return decisions[:, 0] > 0 if len(slopes) == 1 else decisions.argmax(axis=1)


def linear_svm(code: np.ndarray, classes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and offsets, [size] each, of one-against-rest squared-hinge machines on one code.

    They minimise (w^2 + b^2) / 2 + sum_i C_i max(0, 1 - y_i (w x_i + b))^2. As in LIBLINEAR, which LinearSVC calls,
    the offset is penalised, and of several classes the balancing weight N / (size n_k) is the positive class's only;
    of two there is one machine, for class 1.

    Args:
      code: float64 [N].
      classes: int [N] in 0..size-1, each of them present.
      size: number of classes.
    """
    counts = np.bincount(classes, minlength=size)
    balanced = len(code) / (size * counts)
    positives = np.arange(size) if size > 2 else np.array([1])
    weights = PENALTY * np.stack([balanced[positives], np.ones(size) if size > 2 else balanced[:1]])
    mean, std = code.mean(), code.std() or 1.0
    sums = _Sums((code - mean) / std, classes, positives)
    # Of the standardised code v x + a: w = v / std, b = a - v mean / std, so that the penalty is a quadratic form.
    penalty = np.array([[(1 + mean**2) / std**2, -mean / std], [-mean / std, 1.0]])
    theta = np.zeros((len(positives), 2))
    value, optimum = _objective(theta, sums, weights, penalty)
    for _ in range(_STEPS):
        step, scale = optimum - theta, np.ones((len(theta), 1))
        for _ in range(_HALVINGS):
            new_value, new_optimum = _objective(theta + scale * step, sums, weights, penalty)
            worse = new_value > value
            if not worse.any():
                break
            scale[worse] /= 2
        taken = np.where(new_value <= value, scale[:, 0], 0.0)[:, None] * step
        theta = theta + taken
        if np.abs(taken).max() <= _TOLERANCE * (1 + np.abs(theta).max()):
            break
        value, optimum = _objective(theta, sums, weights, penalty)
    slopes = theta[:, 0] / std
    return slopes, theta[:, 1] - slopes * mean


class _Sums:
    """Of the sorted code's first j values, those in a class and the others: number, sum, sum of squares."""

    def __init__(self, code: np.ndarray, classes: np.ndarray, positives: np.ndarray):
        order = np.argsort(code)
        self.code = code[order]
        powers = np.stack([np.ones_like(code), self.code, np.square(self.code)], axis=-1)  # [N, 3]
        inside = (classes[order, None] == positives)[..., None] * powers[:, None]  # [N, K, 3]
        zero = np.zeros((1, len(positives), 3))
        every = np.cumsum(powers, axis=0)[:, None]
        self.inside = np.concatenate([zero, np.cumsum(inside, axis=0)])
        self._every = np.concatenate([zero[:, :1], every])

    def below_margin(self, slopes: np.ndarray, offsets: np.ndarray, sign: int) -> np.ndarray:
        """Sums [K, 3] of the positives (sign 1) or the others (-1) with sign (slope x + offset) < 1."""
        heads = np.arange(len(slopes))

        def prefix(places: np.ndarray) -> np.ndarray:
            inside = self.inside[places, heads]
            return inside if sign == 1 else self._every[places, 0] - inside

        slopes, room = sign * slopes, 1 - sign * offsets  # slope x < room
        edges = room / np.where(slopes == 0, 1.0, slopes)
        below = prefix(np.searchsorted(self.code, edges, "left"))
        total = prefix(np.full(len(slopes), len(self.code)))
        above = total - prefix(np.searchsorted(self.code, edges, "right"))
        flat = np.where((room > 0)[:, None], total, 0.0)
        return np.where((slopes > 0)[:, None], below, np.where((slopes < 0)[:, None], above, flat))


def _objective(
    theta: np.ndarray, sums: _Sums, weights: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The objective [K] at (slope, offset) [K, 2], and the minimum [K, 2] of the quadratic that it is there."""
    slopes, offsets = theta.T
    value = np.einsum("ki,ij,kj->k", theta, penalty, theta) / 2
    matrix, right = np.tile(penalty, (len(theta), 1, 1)), np.zeros_like(theta)
    for sign, weight in ((1, weights[0]), (-1, weights[1])):
        number, first, second = sums.below_margin(slopes, offsets, sign).T
        square = slopes**2 * second + 2 * slopes * offsets * first + offsets**2 * number
        value += weight * (number - 2 * sign * (slopes * first + offsets * number) + square)
        moments = np.stack([np.stack([second, first], -1), np.stack([first, number], -1)], axis=-2)
        matrix += 2 * weight[:, None, None] * moments
        right += 2 * sign * weight[:, None] * np.stack([first, number], -1)
    return value, np.linalg.solve(matrix, right[..., None])[..., 0]
