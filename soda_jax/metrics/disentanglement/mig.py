"""Mutual information gap (Chen et al. 2018), with codes cut into 20 bins as in disentanglement_lib."""

import numpy as np

from soda_jax.metrics.disentanglement.factors import BINS, Kinds, as_classes, binned, codes_matrix, factor_kinds, matrix

_CODES = 256  # codes counted at a time


def mig(codes: np.ndarray, factors: np.ndarray, *, kinds: Kinds = "auto") -> float:
    """Mean over factors of (I(factor; best code) - I(factor; second best)) / H(factor), in [0, 1].

    Args:
      codes: [N, d], two codes or more; each is cut into 20 equally wide bins.
      factors: [N, K]; a continuous one is cut likewise.
      kinds: as for `dci`.

    Raises:
      ValueError: shapes do not fit, a value is not finite, or a factor has one value.
    """
    codes, classes = _checked(codes, factors, kinds)
    if codes.shape[1] < 2:
        raise ValueError("codes have 1 column: a gap needs at least 2 codes")
    information = np.sort(_information(codes, classes), axis=0)
    return float(np.mean((information[-1] - information[-2]) / _entropies(classes)))


def mutual_information(codes: np.ndarray, factors: np.ndarray, *, kinds: Kinds = "auto") -> np.ndarray:
    """I(code; factor) in nats, float64 [d, K]; arguments and errors as for `mig`."""
    return _information(*_checked(codes, factors, kinds))


def _checked(codes: np.ndarray, factors: np.ndarray, kinds: Kinds) -> tuple[np.ndarray, np.ndarray]:
    """Codes as given, and the factors' values as numbers [N, K]."""
    codes, factors = codes_matrix(codes, "codes"), matrix(factors, "factors")
    if len(codes) != len(factors):
        raise ValueError(f"codes have {len(codes)} rows and factors {len(factors)}: give one row of each an example")
    classes = as_classes(factors, factor_kinds(factors, kinds))
    return codes, classes


def _information(codes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    result = np.empty((codes.shape[1], classes.shape[1]))
    for start in range(0, codes.shape[1], _CODES):
        block = binned(codes[:, start : start + _CODES])
        width = block.shape[1]
        places = block + BINS * np.arange(width)
        for k, values in enumerate(classes.T):
            joint = np.stack(
                [np.bincount(places[values == v].ravel(), minlength=BINS * width) for v in range(values.max() + 1)]
            ).reshape(-1, width, BINS)
            shares = joint / len(codes)
            independent = shares.sum(axis=0) * shares.sum(axis=2)[:, :, None]
            ratio = np.where(joint > 0, shares / np.where(joint > 0, independent, 1.0), 1.0)
            result[start : start + width, k] = np.sum(shares * np.log(ratio), axis=(0, 2))
    return result


def _entropies(classes: np.ndarray) -> np.ndarray:
    shares = [np.bincount(values) / len(values) for values in classes.T]
    return np.array([-np.sum(share * np.log(np.where(share > 0, share, 1.0))) for share in shares])
