"""Codes and the factors of variation behind them: what every disentanglement metric takes, and its checks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

KINDS = ("discrete", "continuous")
MAX_VALUES = 100  # "auto": a factor with more distinct values is continuous
LARGEST = 1e140  # squares of more, summed over the examples, overflow float64
BINS = 20  # equally wide, as Locatello et al. 2019 cut codes

Kinds = str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Codes and factors after all checks.

    Attributes:
      train_codes, test_codes: float32 [N, d] and [M, d].
      train_factors, test_factors: float64 [N, K] and [M, K]. Of a discrete factor the number of the value, 0 and up in
        the order of the values in training, -1 for a value that training lacks; a continuous one as given.
      kinds: "discrete" or "continuous", one a factor.
      sizes: number of values of each discrete factor, 1 for a continuous one.
    """

    train_codes: np.ndarray
    train_factors: np.ndarray
    test_codes: np.ndarray
    test_factors: np.ndarray
    kinds: tuple[str, ...]
    sizes: tuple[int, ...]


def prepare(
    train_codes: np.ndarray,
    train_factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    kinds: Kinds = "auto",
) -> Problem:
    """Checks and converts matrices of codes [N, d], [M, d] and factors [N, K], [M, K].

    Args:
      kinds: "discrete", "continuous" or, for all factors or each by itself, a sequence of these; "auto" takes a factor
        with at most `MAX_VALUES` distinct values as discrete.

    Raises:
      ValueError: a split is empty, lengths or widths differ, a value is not a finite number or is out of
        range, or a factor has one value.
    """
    splits = {}
    for split, codes, factors in (("train", train_codes, train_factors), ("test", test_codes, test_factors)):
        codes, factors = codes_matrix(codes, f"{split}_codes"), matrix(factors, f"{split}_factors")
        if len(codes) != len(factors):
            raise ValueError(
                f"{split}_codes have {len(codes)} rows and {split}_factors {len(factors)}: "
                "give one row of each an example, in the same order"
            )
        splits[split] = codes, factors
    for index, name in enumerate(("codes", "factors")):
        widths = [splits[split][index].shape[1] for split in ("train", "test")]
        if widths[0] != widths[1]:
            raise ValueError(f"train_{name} have {widths[0]} columns and test_{name} {widths[1]}: give the same ones")
    named = factor_kinds(splits["train"][1], kinds)
    pairs = [
        _numbered(train, test) if kind == "discrete" else (train, test)
        for train, test, kind in zip(splits["train"][1].T, splits["test"][1].T, named, strict=True)
    ]
    train_columns, test_columns = (np.stack(columns, axis=1).astype(np.float64) for columns in zip(*pairs, strict=True))
    sizes = tuple(
        int(column.max()) + 1 if kind == "discrete" else 1 for column, kind in zip(train_columns.T, named, strict=True)
    )
    train, test = (splits[split][0].astype(np.float32) for split in ("train", "test"))
    return Problem(train, train_columns, test, test_columns, named, sizes)


def matrix(values: np.ndarray, name: str) -> np.ndarray:
    """`values` as an array [N, columns]; a ValueError unless it is one of finite numbers with at least one row.

    One column may be given as [N].
    """
    values = np.asarray(values)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise ValueError(f"{name} have shape {values.shape}: give a matrix, one row an example")
    if values.size == 0:
        raise ValueError(f"{name} have shape {values.shape}: there is nothing to measure on; the split is empty")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} have dtype {values.dtype}: give numbers (a class as its number)")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise ValueError(f"{name} have values that are not finite in {len(rows)} rows, the first is row {rows[0]}")
    if values.dtype.kind == "f" and float(np.abs(values).max()) > LARGEST:
        raise ValueError(f"{name} reach {np.abs(values).max():.3g}, whose squares are beyond any number: scale them")
    return values


def codes_matrix(values: np.ndarray, name: str) -> np.ndarray:
    """`matrix` of codes, which are measured as float32; a ValueError too if that cannot hold them.

    Values below its range would become zeros, and a code of none but these a constant.
    """
    values = matrix(values, name)
    limits = np.finfo(np.float32)
    largest = max(abs(float(values.max())), abs(float(values.min())))
    if largest > float(limits.max) or 0 < largest < float(limits.tiny):
        raise ValueError(
            f"{name} reach {largest:.3g}, which float32 cannot hold ({limits.tiny:.1e} to {limits.max:.1e}): scale them"
        )
    return values


def factor_kinds(factors: np.ndarray, kinds: Kinds = "auto") -> tuple[str, ...]:
    """The kind of each column of training factors [N, K]; arguments and errors as for `prepare`."""
    count = factors.shape[1]
    chosen = [kinds] * count if isinstance(kinds, str) else list(kinds)
    if len(chosen) != count:
        raise ValueError(f"kinds={tuple(chosen)} name {len(chosen)} factors: there are {count}")
    for column, kind in enumerate(chosen):
        if kind not in ("auto", *KINDS):
            raise ValueError(f"kinds={kind!r} of factor {column}: choose auto, {' or '.join(KINDS)}")
        distinct = len(np.unique(factors[:, column]))
        if distinct < 2:
            raise ValueError(
                f"factor {column} has one value, {factors[0, column]:g}, in all of the training examples: "
                "nothing can be learnt about it; leave it out, or take more examples"
            )
        if kind == "auto":
            chosen[column] = "discrete" if distinct <= MAX_VALUES else "continuous"
    return tuple(chosen)


def draw_varying(factors: np.ndarray, count: int, rng: np.random.Generator, replace: bool = False) -> np.ndarray:
    """`count` random rows of factors [N, K] in random order, among them two values of each factor that has them.

    At random a rare value is missed now and then, and its factor then has nothing to tell. For each such factor the
    first row in random order with another value takes a place. Only `replace` draws a row more than once.
    """
    order = rng.permutation(len(factors))
    if replace:
        order = np.concatenate([rng.integers(len(factors), size=count), order])
    needed: list[int] = []
    while True:
        rows = np.concatenate([np.array(needed, order.dtype), order[~np.isin(order, needed)]])
        drawn, rest = rows[:count], rows[count:]
        lacking = np.flatnonzero((factors[drawn] == factors[drawn[0]]).all(axis=0))
        found = [rest[factors[rest, k] != factors[drawn[0], k]][:1] for k in lacking]
        wanted = list(dict.fromkeys(int(row[0]) for row in found if len(row)))
        if not wanted or len(needed) + len(wanted) > count:
            return drawn
        needed += wanted


def binned(columns: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Each column of [N, d] cut into equally wide bins from its least to its greatest value: int [N, d], 0..bins-1."""
    columns = columns.astype(np.float64)
    low, high = columns.min(axis=0), columns.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum(((columns - low) / width * bins).astype(np.int64), bins - 1)


def as_classes(factors: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Factors [N, K] as numbers of values, int [N, K]: a continuous factor's are its bins."""
    classes = np.empty(factors.shape, np.int64)
    for column, kind in enumerate(kinds):
        values = factors[:, column]
        numbers = np.unique(values, return_inverse=True)[1] if kind == "discrete" else binned(values[:, None])[:, 0]
        classes[:, column] = numbers
    return classes


def _numbered(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, numbers = np.unique(train, return_inverse=True)
    places = np.minimum(np.searchsorted(values, test), len(values) - 1)
    return numbers, np.where(values[places] == test, places, -1)
