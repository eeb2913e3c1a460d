import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.positional import sincos_2d, timestep_embedding


def test_timestep_embedding_in_closed_form():
    t = np.array([0, 1, 37, 1000])
    got = np.asarray(timestep_embedding(jnp.asarray(t), 8, max_period=100.0))
    for row, step in enumerate(t):
        for k in range(4):
            angle = step / 100.0 ** (k / 4)
            np.testing.assert_allclose(got[row, [k, 4 + k]], [np.cos(angle), np.sin(angle)], atol=1e-4)


def test_timestep_embedding_has_high_rank_at_the_natural_scale_only():
    t = np.arange(1, 1001, 4)
    natural = np.asarray(timestep_embedding(jnp.asarray(t), 256))
    assert np.linalg.matrix_rank(natural, tol=1e-2) > 100
    assert np.linalg.matrix_rank(np.asarray(timestep_embedding(jnp.asarray(t / 1000), 256)), tol=1e-2) < 10


def test_sincos_2d_in_closed_form():
    table = sincos_2d(3, 5, 8)
    assert table.shape == (15, 8)
    for row in range(3):
        for column in range(5):
            angles = [place / 10_000**k for place in (row, column) for k in (0.0, 0.5)]
            y, x = np.array(angles[:2]), np.array(angles[2:])
            expected = np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)])
            np.testing.assert_allclose(table[row * 5 + column], expected, atol=1e-6)


def test_impossible_widths_are_named():
    with pytest.raises(ValueError, match="even, got 7"):
        timestep_embedding(jnp.arange(3), 7)
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        sincos_2d(2, 2, 6)
