"""Inversion of denoisers whose data is known: closed forms, and the way there and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from soda_jax.diffusion import Diffusion, invert_in_batches, make_inverter, make_sampler

SHAPE = (4, 4, 3)
MEAN, STD = 0.1, 0.2
KINDS = [("inverted", "eps"), ("inverted", "v"), ("linear", "eps"), ("linear", "v")]
IMAGES = np.random.default_rng(0).normal(MEAN, STD, (3, *SHAPE)).clip(-1, 1).astype(np.float32)
Z = np.array([[0.1, -0.1], [0.2, 0.1], [-0.2, 0.0]], np.float32)
MASK = np.ones_like(Z)


@functools.cache
def chain(schedule="linear", prediction="v"):
    return Diffusion.create(schedule, 1000, prediction)


def told(training, image_of):
    """The denoiser that sees the image `image_of(x_t, signal, noise variance, z, mask)` in x_t."""

    def denoise(variables, x_t, t, z, section_mask):
        del variables
        signal, variance = (jnp.asarray(table, jnp.float32)[t] for table in (np.sqrt(training.abar), 1 - training.abar))
        signal, variance = signal[:, None, None, None], variance[:, None, None, None]
        x_0 = image_of(x_t, signal, variance, z, section_mask)
        noise = jnp.sqrt(variance)
        eps = (x_t - signal * x_0) / noise
        return eps if training.prediction == "eps" else signal * eps - noise * x_0

    return denoise


def gaussian(x_t, signal, variance, z, section_mask, std=STD):
    """Of pixels N(MEAN + z shown, std^2): the posterior mean."""
    mean = MEAN + jnp.sum(z * section_mask, axis=-1)[:, None, None, None]
    return mean + signal * std**2 / (signal**2 * std**2 + variance) * (x_t - signal * mean)


def spread(x_t, signal, variance, z, section_mask):
    """Of images as natural ones are: a few directions wide, most of them narrow."""
    return gaussian(x_t, signal, variance, z, section_mask, std=jnp.asarray(spectrum()).reshape(SHAPE))


def spectrum():
    std = np.arange(1, np.prod(SHAPE) + 1) ** -1.0
    return 0.3 * std / np.sqrt(np.mean(std**2))


def two_values(x_t, signal, variance, z, section_mask):
    """Of pixels around -0.5 or 0.5, in closed form: neither linear nor of one slope."""
    total = signal**2 * STD**2 + variance
    weights = jax.nn.sigmoid(2 * 0.5 * signal * x_t / total)
    mean = 0.5 * (2 * weights - 1)
    return mean + signal * STD**2 / total * (x_t - signal * mean)


@functools.cache
def pair(kind, image_of, num_steps, guided=False, **settings):
    """(inverter, sampler that comes back) of one chain."""
    training = chain(*kind)
    denoise = told(training, image_of)
    inverter = make_inverter(denoise, training, num_steps=num_steps, guided=guided, **settings)
    back = {"method": "ddim", "num_steps": num_steps, "clip_x0": False, "guided": guided}
    return inverter, make_sampler(denoise, training, image_shape=SHAPE, **back)


def there_and_back(kind, image_of, num_steps, images=IMAGES, scale=1.0, **settings):
    """(x_T, root of the mean squared error after sampling from it)."""
    inverter, sampler = pair(kind, image_of, num_steps, **settings)
    x_t = inverter({}, images, Z, MASK, scale)
    found = sampler({}, jax.random.key(0), np.arange(len(images)), Z, MASK, scale, x_t)["images"]
    return np.asarray(x_t), np.sqrt(np.mean((np.asarray(found) - images) ** 2))


def gaussian_noise(kind, num_steps):
    """x_T of IMAGES in float64: every DDIM step is affine in x_t, so it is undone by one division."""
    abar = chain(*kind).respace(num_steps).abar
    mean, x_t = MEAN + Z.sum(1, dtype=np.float64)[:, None, None, None], IMAGES.astype(np.float64)
    for before, now in zip(abar[:-1], abar[1:], strict=True):
        gain = np.sqrt(now) * STD**2 / (now * STD**2 + 1 - now)
        direction = np.sqrt((1 - before) / (1 - now))
        factor = np.sqrt(before) * gain + direction * (1 - np.sqrt(now) * gain)
        x_t = np.sqrt(now) * mean + (x_t - np.sqrt(before) * mean) / factor
    return x_t


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_gaussian_images_have_the_noise_of_the_closed_form_and_come_back(kind):
    x_t, error = there_and_back(kind, gaussian, 20)
    assert error < 1e-4
    np.testing.assert_allclose(x_t, gaussian_noise(kind, 20), atol=2e-3)


def test_many_steps_find_the_noise_of_the_flow():
    """Of infinitely many steps: x_t keeps its place in the Gaussian of its step (Song et al. 2021, Equation 14)."""
    x_t, _ = there_and_back(("linear", "v"), gaussian, 1000)
    mean, last = MEAN + Z.sum(1)[:, None, None, None], chain().abar[-1]
    flow = np.sqrt(last) * mean + np.sqrt(last * STD**2 + 1 - last) * (IMAGES - mean) / STD
    np.testing.assert_allclose(x_t, flow, rtol=0.01, atol=1e-3)
    assert np.abs(x_t).max() > 2


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("image_of", [spread, two_values])
def test_slopes_that_differ_and_bend(kind, image_of):
    """What the denoiser has made comes back; the first step of "inverted" alone adds an eighth of the noise."""
    noise = np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(np.float32)
    images = pair(kind, image_of, 50)[1]({}, jax.random.key(0), np.arange(3), Z, MASK, 1.0, noise)["images"]
    _, error = there_and_back(kind, image_of, 50, np.asarray(images))
    assert error < (1e-2 if kind[0] == "inverted" else 1e-3)


def test_iterations_solve_what_plain_inversion_leaves():
    kind = ("linear", "v")
    images = (np.random.default_rng(2).normal(size=(3, *SHAPE)) * spectrum().reshape(SHAPE)).astype(np.float32)
    images = images.clip(-1, 1)
    errors = [there_and_back(kind, spread, 50, images, iterations=count)[1] for count in (1, 3, 5, 8)]
    assert all(after < before / 2 for before, after in zip(errors, errors[1:], strict=False)), errors


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("num_steps", [1, 2])
def test_few_steps_stay_finite(kind, num_steps):
    x_t, _ = there_and_back(kind, two_values, num_steps)
    assert np.isfinite(x_t).all()


def test_guided_steps_are_solved_as_they_are():
    _, error = there_and_back(("linear", "v"), gaussian, 50, guided=True, scale=2.0)
    assert error < 1e-3
    # Guidance of the mean by z moves it by s: the guided noise is the unguided one of a latent twice as long.
    guided, _ = there_and_back(("linear", "v"), gaussian, 50, guided=True, scale=2.0)
    inverter, _ = pair(("linear", "v"), gaussian, 50)
    np.testing.assert_allclose(guided, inverter({}, IMAGES, 2 * Z, MASK), atol=2e-3)


@pytest.mark.parametrize(("num_devices", "batch_size"), [(None, 1), (None, 2), (None, 3), (None, 8), (1, 4), (4, 4)])
def test_batches_and_devices_do_not_matter(num_devices, batch_size):
    if num_devices and jax.device_count() < num_devices:
        pytest.skip(f"needs {num_devices} devices")
    sharding = None
    if num_devices:
        types = {"axis_types": (AxisType.Auto,), "devices": jax.devices()[:num_devices]}
        sharding = NamedSharding(jax.make_mesh((num_devices,), ("data",), **types), PartitionSpec("data"))
    inverter, _ = pair(("linear", "v"), two_values, 50)
    found = invert_in_batches(inverter, {}, IMAGES, Z, MASK, batch_size=batch_size, sharding=sharding)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(found, there_and_back(("linear", "v"), two_values, 50)[0], atol=1e-3)


def test_the_condition_is_prepared_once():
    training = chain()
    denoise = told(training, gaussian)
    inverter = make_inverter(denoise, training, num_steps=20, prepare=lambda factor, z: factor * z)
    np.testing.assert_allclose(
        inverter(0.5, IMAGES, 2 * Z, MASK), pair(("linear", "v"), gaussian, 20)[0]({}, IMAGES, Z, MASK), atol=1e-3
    )


def test_bad_arguments_are_refused():
    denoise = told(chain(), gaussian)
    with pytest.raises(ValueError, match="iterations is 0"):
        make_inverter(denoise, chain(), num_steps=5, iterations=0)
    with pytest.raises(ValueError, match="num_steps is 1001"):
        make_inverter(denoise, chain(), num_steps=1001)
    inverter = make_inverter(denoise, chain(), num_steps=5)
    with pytest.raises(ValueError, match=r"images has shape \(4, 4, 3\)"):
        inverter({}, IMAGES[0], Z, MASK)
    with pytest.raises(ValueError, match="z has shape"):
        inverter({}, IMAGES, Z[:2], MASK)
    with pytest.raises(ValueError, match=r"section_mask has shape \(3,\)"):
        inverter({}, IMAGES, Z, MASK[:, 0])
    with pytest.raises(ValueError, match="there are no images"):
        invert_in_batches(inverter, {}, IMAGES[:0], Z[:0], MASK[:0], batch_size=1)
    with pytest.raises(ValueError, match="z has shape.*the number of images, 3"):
        invert_in_batches(inverter, {}, IMAGES, Z[:2], MASK, batch_size=1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        invert_in_batches(inverter, {}, IMAGES, Z, MASK, batch_size=0)
