import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.positional import coordinate_encoding, sincos_2d, timestep_embedding, top_frequency


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


@pytest.mark.parametrize(("scale_form", "top"), [("2pi/s", 2 * np.pi / 0.05), ("1/(2pi s)", 1 / (2 * np.pi * 0.05))])
def test_coordinate_encoding_in_closed_form(scale_form, top):
    """Ten channels over three coordinates: 4, 3 and 3, so frequencies top, 1 with and without the last cosine."""
    assert top_frequency(0.05, scale_form) == pytest.approx(top)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5, 3))
    expected = []
    for coordinate, width in zip(np.moveaxis(x, -1, 0), (4, 3, 3), strict=True):
        phase = [coordinate * top, coordinate * 1.0]
        expected += [np.sin(phase[0]), np.sin(phase[1]), np.cos(phase[0]), np.cos(phase[1])][:width]
    got = coordinate_encoding(jnp.asarray(x), 10, top_frequency(0.05, scale_form))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.stack(expected, -1), atol=2e-5)


def test_frequencies_are_geometric_from_the_scale_down_to_one():
    """Slopes of the sines at 0 are the frequencies."""
    eps, top = 1e-7, top_frequency(1e-4, "2pi/s")
    slopes = np.asarray(coordinate_encoding(jnp.asarray([[eps]]), 12, top))[0, :6] / eps
    np.testing.assert_allclose(slopes, [62831.85 ** (1 - k / 5) for k in range(6)], rtol=1e-4)


@pytest.mark.parametrize("coordinates", [2, 3, 5, 6, 7, 9])
@pytest.mark.parametrize("dim", [18, 25, 48, 512])
def test_coordinate_encoding_has_the_width_asked_for(dim, coordinates):
    encoded = jax.eval_shape(lambda x: coordinate_encoding(x, dim, 100.0), jnp.zeros((4, coordinates)))
    assert encoded.shape == (4, dim)


def test_the_slowest_sine_tells_all_coordinates_apart():
    x = jnp.linspace(-1, 1, 101)[:, None]
    assert (np.diff(coordinate_encoding(x, 8, 1e4)[:, 3]) > 0).all()


def test_impossible_encodings_are_named():
    with pytest.raises(ValueError, match="width 5 is too small for 3 coordinates: use at least 6"):
        coordinate_encoding(jnp.zeros((1, 3)), 5, 100.0)
    with pytest.raises(ValueError, match="'pi': choose one of 2pi/s, 1"):
        top_frequency(1.0, "pi")
