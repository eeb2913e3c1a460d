"""Boosted trees that predict a factor from codes, and how much each code contributes.

The trees are scikit-learn's default `GradientBoostingClassifier`, as disentanglement_lib fits them (Locatello et al.
2019; SODA's Appendix E.3 follows it): 100 rounds of depth 3 at rate 0.1, one tree a class and round, splits by the
reduction of the residuals' squared error, leaves by a Newton step. A continuous factor has `GradientBoostingRegressor`.

`exact` calls scikit-learn, which tries every threshold of every code in every node: hours at 10,000 x 2048. `fast`
grows the same trees on histograms, by LightGBM, with three things of its own:
- LightGBM's own losses would choose other splits and count gains otherwise (weighted by the second derivative). It gets
  residuals of ours with second derivatives of 1, which makes its gain scikit-learn's; the Newton steps follow here.
- Bins of equal count cut beside the gap that separates a factor's values, and the few examples on the wrong side then
  draw in other codes. Half of the 254 cuts of a code lie where they part a value from the others best.
- Of codes that split equally well LightGBM takes the first, scikit-learn a random one. Noise does it here.
"""

import dataclasses

import numpy as np

METHODS = ("fast", "exact")
ROUNDS, RATE, DEPTH = 100, 0.1, 3  # scikit-learn's defaults
BINS = 255
QUANTILES = 16  # a continuous factor is parted at
# Relative noise on a feature's gain: of features that split equally well (copies) a random one wins, as in sklearn.
TIE_NOISE = 1e-9


@dataclasses.dataclass(frozen=True)
class Fit:
    """A factor's predictor.

    Attributes:
      importance: float64 [d], each code's share of the error's reduction: sums to 1, or is all 0 without any split.
      train, test: predictions float64 [N] and [M]: of a discrete factor the number of the value.
    """

    importance: np.ndarray
    train: np.ndarray
    test: np.ndarray


def fit(
    train_codes: np.ndarray,
    factor: np.ndarray,
    test_codes: np.ndarray,
    *,
    size: int,
    method: str = "fast",
    seed: int = 0,
    threads: int = 1,
) -> Fit:
    """Boosts trees on one factor.

    Args:
      train_codes, test_codes: float32 [N, d] and [M, d].
      factor: [N], numbers 0..size-1 of a discrete factor's values, or a continuous factor's values.
      size: number of values; 1 for a continuous factor.
      method: "fast" or "exact".
      seed: settles which of equally good codes a split takes.
      threads: of the fast method.

    Raises:
      ValueError: for an unknown method.
      ImportError: the method's library is missing or does not load; the message says what to install.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose {' or '.join(METHODS)}")
    if (train_codes == train_codes[0]).all():  # a collapsed encoder; LightGBM takes no data without features
        loss = loss_of(factor, size)
        prediction = loss.predict(loss.start)[0]
        return Fit(np.zeros(train_codes.shape[1]), *(np.full(len(c), prediction) for c in (train_codes, test_codes)))
    if method == "exact":
        return _fit_exact(train_codes, factor, test_codes, size, seed)
    return _fit_fast(train_codes, factor, test_codes, size, seed, threads)


def _fit_exact(train_codes: np.ndarray, factor: np.ndarray, test_codes: np.ndarray, size: int, seed: int) -> Fit:
    try:
        from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
    except ImportError as error:
        raise ImportError("the exact method needs scikit-learn: pip install scikit-learn") from error
    kind = GradientBoostingRegressor if size == 1 else GradientBoostingClassifier
    model = kind(random_state=seed).fit(train_codes, factor)
    return Fit(model.feature_importances_, model.predict(train_codes), model.predict(test_codes))


def _fit_fast(
    train_codes: np.ndarray, factor: np.ndarray, test_codes: np.ndarray, size: int, seed: int, threads: int
) -> Fit:
    lightgbm = _lightgbm()
    train_codes, test_codes = _binned(train_codes, test_codes, _indicators(factor, size))
    loss, rng, noise = loss_of(factor, size), np.random.default_rng(seed), np.zeros(())
    booster = _booster(lightgbm, train_codes, loss.trees, threads)
    scores = np.repeat(loss.start, len(factor), axis=0)
    for number in range(ROUNDS):
        # Every other round the opposite of the last: two copies get the same share.
        noise = 1 - noise if number % 2 else rng.random(train_codes.shape[1])
        booster.reset_parameter({"feature_contri": (1 + TIE_NOISE * noise).tolist()})
        residuals, curvature = loss.derivatives(scores)
        gradients = -residuals if loss.trees > 1 else -residuals[:, 0]
        # LightGBM's own scores, which it offers here, lack the Newton steps.
        if booster.update(fobj=lambda *_, g=gradients: (g, np.ones_like(g))):
            break  # no split reduces the error any more
        leaves = booster.predict(train_codes, pred_leaf=True, start_iteration=number, num_iteration=1)
        for tree, leaf in enumerate(leaves.reshape(len(factor), -1).T.astype(np.int64)):
            steps = (
                RATE * loss.step * _ratio(np.bincount(leaf, residuals[:, tree]), np.bincount(leaf, curvature[:, tree]))
            )
            scores[:, tree] += steps[leaf]
            for index, step in enumerate(steps):
                booster.set_leaf_output(number * loss.trees + tree, index, step)
    gains = booster.feature_importance("gain")
    total = gains.sum()
    test_scores = loss.start + booster.predict(test_codes, raw_score=True).reshape(len(test_codes), -1)
    return Fit(gains / total if total > 0 else gains, loss.predict(scores), loss.predict(test_scores))


def _indicators(factor: np.ndarray, size: int) -> np.ndarray:
    """What tells values of the factor from the others, float32 [N, J]: each value, or beyond each of some quantiles."""
    if size == 1:
        marks = factor[:, None] > np.quantile(factor, np.arange(1, QUANTILES) / QUANTILES)
    else:
        marks = factor[:, None] == np.arange(size if size > 2 else 1)
    return marks.astype(np.float32)


def _binned(train: np.ndarray, test: np.ndarray, indicators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [N, d] and [M, d] as numbers of bins, float32 0..BINS-1."""
    binned = np.empty(train.shape, np.float32), np.empty(test.shape, np.float32)
    indicators = (indicators - indicators.mean(axis=0)) / np.maximum(indicators.std(axis=0), 1e-6)
    for column, code in enumerate(train.T):
        cuts = _cuts(code.astype(np.float64), indicators)
        for out, codes in zip(binned, (train, test), strict=True):
            out[:, column] = np.searchsorted(cuts, codes[:, column])
    return binned


def _cuts(code: np.ndarray, indicators: np.ndarray) -> np.ndarray:
    """At most BINS - 1 thresholds of a code [N]: all there are, or the parting ones and others at equal distances."""
    order = np.argsort(code)
    code = code[order]
    places = np.flatnonzero(code[1:] > code[:-1])  # a threshold lies behind these
    if len(places) >= BINS:
        # Where a value is more frequent on one side than on the other, the sum of its indicator peaks.
        sums = np.cumsum(indicators[order], axis=0)[places]
        peaks = np.concatenate([sums.argmax(axis=0), sums.argmin(axis=0)])
        strength = np.abs(np.concatenate([sums.max(axis=0), sums.min(axis=0)]))
        peaks = np.unique(peaks[np.argsort(-strength)[: BINS // 2]])
        regular = np.linspace(0, len(places) - 1, BINS - 1 - len(peaks)).astype(np.int64)
        places = places[np.union1d(peaks, regular)]
    return (code[places] + code[places + 1]) / 2


def _booster(lightgbm, codes: np.ndarray, trees: int, threads: int):
    """A LightGBM booster of `trees` trees a round on codes [N, d], without any regularisation of its own."""
    params = {
        "objective": "none",
        "num_class": trees,
        "max_depth": DEPTH,
        "num_leaves": 2**DEPTH,
        "max_bin": BINS,
        "min_data_in_bin": 1,
        "bin_construct_sample_cnt": len(codes),
        "min_data_in_leaf": 1,
        "min_sum_hessian_in_leaf": 0,
        "lambda_l2": 0,
        "feature_pre_filter": False,
        "enable_bundle": False,
        "use_missing": False,
        "boost_from_average": False,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    return lightgbm.Booster(params, lightgbm.Dataset(codes, params=params).construct())


def _lightgbm():
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError("the fast method needs LightGBM: pip install lightgbm; or use the exact method") from error
    except OSError as error:  # its wheels bring no OpenMP runtime
        raise ImportError(
            f"LightGBM does not load ({error}): install the OpenMP runtime (Debian: apt install libgomp1; macOS: "
            "brew install libomp); or use the exact method"
        ) from error
    return lightgbm


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """0 where the denominator vanishes, as scikit-learn has it."""
    small = np.abs(denominator) < 1e-150
    return np.where(small, 0.0, numerator / np.where(small, 1.0, denominator))


class _Squared:
    """Continuous factors: squared error; a leaf is the mean of its residuals."""

    trees, step = 1, 1.0

    def __init__(self, factor: np.ndarray):
        self._factor = factor[:, None]
        self.start = self._factor.mean(axis=0, keepdims=True)

    def derivatives(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and second derivatives at scores [N, trees], each [N, trees]."""
        residuals = self._factor - scores
        return residuals, np.ones_like(residuals)

    def predict(self, scores: np.ndarray) -> np.ndarray:
        return scores[:, 0]


class _Binomial:
    """Two values: log loss of one score."""

    trees, step = 1, 1.0

    def __init__(self, factor: np.ndarray):
        self._factor = factor[:, None]
        share = self._factor.mean(axis=0, keepdims=True)
        self.start = np.log(share / (1 - share))

    def derivatives(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chance = 1 / (1 + np.exp(-scores))
        return self._factor - chance, chance * (1 - chance)

    def predict(self, scores: np.ndarray) -> np.ndarray:
        return (scores[:, 0] >= 0).astype(np.float64)


class _Multinomial:
    """More values: cross-entropy of one score a value, stepped one by one (Friedman 2001, algorithm 6)."""

    def __init__(self, factor: np.ndarray, size: int):
        self._one_hot = np.eye(size)[factor.astype(np.int64)]
        self.start = np.log(self._one_hot.mean(axis=0, keepdims=True))
        self.trees, self.step = size, (size - 1) / size

    def derivatives(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        return self._one_hot - chances, chances * (1 - chances)

    def predict(self, scores: np.ndarray) -> np.ndarray:
        return scores.argmax(axis=1).astype(np.float64)


def loss_of(factor: np.ndarray, size: int) -> _Squared | _Binomial | _Multinomial:
    """The loss for a factor [N] of `size` values, 1 for a continuous one."""
    if size == 1:
        return _Squared(factor)
    return _Binomial(factor) if size == 2 else _Multinomial(factor, size)
