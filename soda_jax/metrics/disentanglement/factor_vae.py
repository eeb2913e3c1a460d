"""The FactorVAE score (Kim and Mnih 2018): which code varies least while one factor is held fixed tells the factor."""

import numpy as np

from soda_jax.metrics.disentanglement.factors import Kinds, as_classes, prepare

TRAIN_VOTES, TEST_VOTES, BATCH = 10_000, 5_000, 64  # as in disentanglement_lib
_FLOATS = 1 << 23  # codes drawn at a time


def factor_vae_score(
    train_codes: np.ndarray,
    train_factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    *,
    kinds: Kinds = "auto",
    train_votes: int = TRAIN_VOTES,
    test_votes: int = TEST_VOTES,
    batch: int = BATCH,
    threshold: float = 0.0,
    seed: int = 0,
) -> float:
    """Accuracy of telling the fixed factor by a majority vote; chance is 1 / K.

    A vote draws a factor, the value of it that a random example has, and `batch` examples with that value, and names
    the code with the least variance among them, each in units of its variance over all training examples. A code stands
    for the factor that fixed it most often in the votes from the training examples; the score is the share of votes
    from the test examples that this gets right. Codes that never vary, or vary less than `threshold` says, take no
    part; if all are such, the score is 0.

    Args:
      train_codes, train_factors, test_codes, test_factors: [N, d], [N, K], [M, d] and [M, K]. Held fixed is a discrete
        factor's value or one of 20 equally wide bins of a continuous one.
      kinds: as for `dci`.
      train_votes, test_votes: number of votes.
      batch: examples a vote, drawn with replacement.
      threshold: least standard deviation of a code over the training examples, in the code's units. disentanglement_lib
        has 0; the scripts of DisDiff have .05.
      seed: of the draws.

    Raises:
      ValueError: for input that `factors.prepare` refuses, a threshold below 0, or a factor of which no two examples
        share a value.
    """
    problem = prepare(train_codes, train_factors, test_codes, test_factors, kinds)
    variances = problem.train_codes.var(axis=0, dtype=np.float64)
    active = kept_columns(problem.train_codes, threshold)
    if not active.any():
        return 0.0
    rng = np.random.default_rng(seed)
    tables = []
    for codes, factors, votes in (
        (problem.train_codes, problem.train_factors, train_votes),
        (problem.test_codes, problem.test_factors, test_votes),
    ):
        scaled = codes[:, active] / np.sqrt(variances[active]).astype(np.float32)
        tables.append(_votes(scaled, as_classes(factors, problem.kinds), votes, batch, rng))
    named = tables[0].argmax(axis=1)
    return float(tables[1][np.arange(len(named)), named].sum() / test_votes)


def kept_columns(train_codes: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Which of codes [N, d] take part in the score, bool [d]: those that vary, by `threshold` at least.

    The standard deviation is the unbiased variance's root, as disentanglement_lib's. At 0 that keeps all codes, of
    which one that never varies divides 0 by 0; here it is left out.

    Raises:
      ValueError: for a threshold below 0 or not finite.
    """
    if not 0 <= threshold < np.inf:
        raise ValueError(f"threshold={threshold}: give a standard deviation, 0 or more")
    variances = train_codes.var(axis=0, dtype=np.float64)
    unbiased = variances * len(train_codes) / max(1, len(train_codes) - 1)
    return (variances > 0) & (np.sqrt(unbiased) >= threshold)


def _votes(codes: np.ndarray, classes: np.ndarray, votes: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    """How often each code [d] varied least while each factor [K] was fixed: int [d, K]."""
    orders, starts, sizes = zip(*(_groups(values, k) for k, values in enumerate(classes.T)), strict=True)
    table = np.zeros((codes.shape[1], len(orders)), np.int64)
    at_a_time = max(1, _FLOATS // (batch * codes.shape[1]))
    for first in range(0, votes, at_a_time):
        factors = rng.integers(len(orders), size=min(at_a_time, votes - first))
        rows = np.empty((len(factors), batch), np.int64)
        for place, factor in enumerate(factors):
            # A random place lies in some value's group: frequent values come up more often.
            group = np.searchsorted(starts[factor], rng.integers(len(orders[factor])), "right") - 1
            drawn = rng.integers(sizes[factor][group], size=batch)
            rows[place] = orders[factor][starts[factor][group] + drawn]
        np.add.at(table, (codes[rows].var(axis=1).argmin(axis=1), factors), 1)
    return table


def _groups(values: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples ordered by value, without values that only one has; where each value's begin, and how many it has."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(numbers, kind="stable")
    order, sizes = order[counts[numbers[order]] > 1], counts[counts > 1]
    if len(order) == 0:
        raise ValueError(f"factor {factor}: no two of {len(values)} examples share a value; give more examples")
    return order, np.cumsum(sizes) - sizes, sizes
