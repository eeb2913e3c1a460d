"""DCI: disentanglement, completeness, informativeness (Eastwood and Williams 2018), as in disentanglement_lib.

R[i, k] is how much code i helps to predict factor k. A code is disentangled if its row of R is on one factor; a factor
is complete if its column is on one code; D and C are 1 minus the entropies, averaged with the weight of the row or
column. I is how well the factors are predicted from all codes. SODA's Table 4 gives the mean of D, C and I.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from soda_jax.metrics.disentanglement.boosting import METHODS, Fit, fit
from soda_jax.metrics.disentanglement.factors import Kinds, Problem, prepare
from soda_jax.metrics.disentanglement.parallel import cores, processes

Section = tuple[int, int]
_EXACT = 30  # how many times as long as the fast method it takes


@dataclasses.dataclass(frozen=True)
class DCI:
    """What the predictors of K factors from d codes show.

    Attributes:
      importance: float64 [d, K]; a column sums to 1, or to 0 where no code helps.
      disentanglement, completeness: in [0, 1].
      train_scores, test_scores: float64 [K], how well each factor is predicted: the accuracy of a discrete factor; of a
        continuous one R^2, the share of the variance that is explained, at least 0. Their means are informativeness.
      test_errors, test_spread: float64 [M, K]: a score is 1 - sum(errors) / sum(spread). Errors are 0 and 1 of 1 for
        discrete factors, for continuous ones squares of the errors and of the distances to the mean.
    """

    importance: np.ndarray
    disentanglement: float
    completeness: float
    train_scores: np.ndarray
    test_scores: np.ndarray
    test_errors: np.ndarray
    test_spread: np.ndarray

    @property
    def informativeness(self) -> float:
        """Mean of the test scores."""
        return float(self.test_scores.mean())

    @property
    def mean(self) -> float:
        """Mean of D, C and I."""
        return (self.disentanglement + self.completeness + self.informativeness) / 3


def dci(
    train_codes: np.ndarray,
    train_factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    *,
    kinds: Kinds = "auto",
    method: str = "fast",
    jobs: int | None = None,
    seed: int = 0,
) -> DCI:
    """DCI of codes [N, d] and [M, d] for factors [N, K] and [M, K].

    Args:
      kinds: "discrete", "continuous", one of these for each factor, or "auto": up to 100 distinct values are discrete.
      method: "fast" (histograms) or "exact" (scikit-learn, every threshold): see `boosting`.
      jobs: processes; None is one a core, or this one alone for small data.
      seed: settles ties between codes.

    Raises:
      ValueError: for input that `factors.prepare` refuses, or with fewer than two codes or factors.
      ImportError: the method's library is missing.
    """
    sections = [(0, np.shape(train_codes)[-1])]
    return dci_by_section(
        train_codes, train_factors, test_codes, test_factors, sections, kinds=kinds, method=method, jobs=jobs, seed=seed
    )[0]


def dci_by_section(
    train_codes: np.ndarray,
    train_factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    sections: Sequence[Section],
    *,
    kinds: Kinds = "auto",
    method: str = "fast",
    jobs: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[DCI]:
    """DCI of each section of the codes by itself; the factors of all sections share the processes.

    Args:
      sections: dimensions [start, stop) of the codes.
      progress: show on stderr how many of the sections x factors are done.
      The others, and the errors, as for `dci`.
    """
    problem = prepare(train_codes, train_factors, test_codes, test_factors, kinds)
    _check(problem, sections, method)
    fits = _fit_all(problem, list(sections), method, jobs, seed, progress)
    return [_summary(problem, section_fits) for section_fits in fits]


def disentanglement(importance: np.ndarray) -> float:
    """D of importances [d, K]: 1 - entropy of each row over K factors, averaged with the row's weight."""
    return _concentration(importance.T)


def completeness(importance: np.ndarray) -> float:
    """C of importances [d, K]: 1 - entropy of each column over d codes, averaged with the column's weight."""
    return _concentration(importance)


def _concentration(weights: np.ndarray) -> float:
    """1 - entropy over its maximum of each column of [n, m], averaged by the columns' sums; 0 for all zeros."""
    sums = weights.sum(axis=0)
    if sums.sum() == 0:
        return 0.0
    shares = weights / np.where(sums > 0, sums, 1.0)
    entropies = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=0) / np.log(len(weights))
    return float(np.sum((1 - entropies) * sums) / sums.sum())


def _check(problem: Problem, sections: Sequence[Section], method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose {' or '.join(METHODS)}")
    if len(problem.kinds) < 2:
        raise ValueError("there is 1 factor: disentanglement tells factors apart, so give at least 2 columns")
    width = problem.train_codes.shape[1]
    for start, stop in sections:
        if not 0 <= start < stop <= width:
            raise ValueError(f"section {start}:{stop} of the codes: they have dimensions 0:{width}")
        if stop - start < 2:
            raise ValueError(f"section {start}:{stop} has 1 code: completeness tells codes apart, so give at least 2")


def _fit_all(
    problem: Problem, sections: list[Section], method: str, jobs: int | None, seed: int, progress: bool
) -> list[list[Fit]]:
    """The fits of each section's factors."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    def cost(task: tuple[Section, int]) -> int:
        (start, stop), factor = task
        return (stop - start) * problem.sizes[factor] * len(problem.train_codes)

    # The longest first, so that no process is left alone with one at the end.
    tasks = sorted(((section, k) for section in sections for k in range(len(problem.kinds))), key=cost, reverse=True)
    workers = processes(jobs, len(tasks), sum(map(cost, tasks)) * (_EXACT if method == "exact" else 1))
    threads = (jobs or cores()) // workers if workers > 1 else 1
    # Its processes import afresh: a fork of one that runs JAX may hang. They map the codes instead of copying them.
    parallel = Parallel(n_jobs=workers, backend="loky", return_as="generator")
    fits = parallel(
        delayed(_fit_section)(problem.train_codes, problem.train_factors, problem.test_codes, task, options)
        for task in tasks
        for options in [{"size": problem.sizes[task[1]], "method": method, "seed": seed, "threads": threads}]
    )
    done = dict(zip(tasks, tqdm(fits, "DCI", len(tasks), disable=not progress, unit="factor"), strict=True))
    return [[done[section, k] for k in range(len(problem.kinds))] for section in sections]


def _fit_section(
    train_codes: np.ndarray, factors: np.ndarray, test_codes: np.ndarray, task: tuple[Section, int], options: dict
) -> Fit:
    (start, stop), factor = task
    columns = (np.ascontiguousarray(codes[:, start:stop]) for codes in (train_codes, test_codes))
    train, test = columns
    return fit(train, factors[:, factor], test, **options)


def _summary(problem: Problem, fits: list[Fit]) -> DCI:
    importance = np.stack([fit.importance for fit in fits], axis=1)
    errors, spread, train_scores = [], [], []
    for k, (kind, fitted) in enumerate(zip(problem.kinds, fits, strict=True)):
        train_error, train_spread = _errors(kind, problem.train_factors[:, k], fitted.train)
        test_error, test_spread = _errors(kind, problem.test_factors[:, k], fitted.test)
        train_scores.append(scores(train_error, train_spread))
        errors.append(test_error)
        spread.append(test_spread)
    test_errors, test_spread = np.stack(errors, axis=1), np.stack(spread, axis=1)
    return DCI(
        importance,
        disentanglement(importance),
        completeness(importance),
        np.array(train_scores),
        scores(test_errors, test_spread),
        test_errors,
        test_spread,
    )


def scores(errors: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """1 - errors / spread, each summed over the first axis of [M, ...]; at least 0, and 0 without any spread."""
    total = spread.sum(axis=0)
    return np.where(total > 0, np.maximum(0.0, 1 - errors.sum(axis=0) / np.where(total > 0, total, 1.0)), 0.0)


def _errors(kind: str, factor: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if kind == "discrete":
        return (factor != predicted).astype(np.float64), np.ones(len(factor))
    return np.square(factor - predicted), np.square(factor - factor.mean())
