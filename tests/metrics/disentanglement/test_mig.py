import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from soda_jax.metrics.disentanglement import mig, mutual_information

GRID = np.stack(np.meshgrid(*map(np.arange, (2, 3, 4)), indexing="ij"), axis=-1).reshape(-1, 3)  # independent factors


def test_mutual_information_is_scikit_learns():
    rng = np.random.default_rng(0)
    factors = np.concatenate([np.tile(GRID, (20, 1)), rng.normal(size=(480, 1))], axis=1)
    codes = factors @ rng.normal(size=(4, 300)) + rng.normal(size=(480, 300))  # more codes than are counted at a time
    cut = [np.digitize(c, np.histogram(c, 20)[1][:-1]) for c in codes.T]
    classes = [*factors[:, :3].T.astype(int), np.digitize(factors[:, 3], np.histogram(factors[:, 3], 20)[1][:-1])]
    expected = [[mutual_info_score(values, code) for values in classes] for code in cut]
    np.testing.assert_allclose(mutual_information(codes, factors), expected, atol=1e-10)


def test_identity_and_copies():
    assert mig(GRID, GRID) == pytest.approx(1.0)
    assert mig(np.concatenate([GRID, 1 - GRID], axis=1), GRID) == pytest.approx(0.0, abs=1e-12)


def test_a_copy_in_every_other_factor():
    codes = np.concatenate([GRID, GRID[:, :1]], axis=1)
    assert mig(codes, GRID) == pytest.approx(2 / 3)


def test_rotation_is_far_below_identity():
    factors = np.tile(GRID, (20, 1))
    centred = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert mig(centred @ rotation, factors) < 0.3


def test_collapsed_codes_score_zero():
    assert mig(np.ones((24, 3)), GRID) == 0.0


def test_one_code_has_no_gap():
    with pytest.raises(ValueError, match="at least 2 codes"):
        mig(GRID[:, :1], GRID)
