"""PSNR and SSIM against scikit-image."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics
from skimage.color import rgb2hsv

from soda_jax.metrics import image


def smooth(rng, shape):
    """Random colour gradients: like photographs, neighbouring pixels are close."""
    h, w, c = shape
    y, x = np.mgrid[:h, :w][..., None] / max(h, w)
    a, b, phase = rng.uniform(-6, 6, (3, 1, 1, c))
    return 0.5 + 0.5 * np.sin(a * x + b * y + phase)


def pairs(kind, shape=(32, 40, 3), count=4):
    rng = np.random.default_rng(0)
    for _ in range(count):
        if kind == "noise":
            x, y = rng.uniform(size=(2, *shape))
        elif kind == "photo":
            x = smooth(rng, shape)
            y = x + rng.normal(size=shape) * 0.05
        else:
            x = np.full(shape, 0.97) + rng.normal(size=shape) * 1e-3
            y = np.full(shape, 0.95) + rng.normal(size=shape) * 1e-3
        yield [np.clip(v, 0, 1).astype(np.float32) for v in (x, y)]


@pytest.mark.parametrize("kind", ["noise", "photo", "bright and flat"])
@pytest.mark.parametrize("shape", [(32, 40, 3), (7, 7, 1), (64, 9, 4)])
def test_ssim_is_that_of_scikit_image(kind, shape):
    batch = list(pairs(kind, shape))
    expected = [
        metrics.structural_similarity(x.astype(np.float64), y.astype(np.float64), channel_axis=-1, data_range=1)
        for x, y in batch
    ]
    x, y = np.stack([p[0] for p in batch]), np.stack([p[1] for p in batch])
    np.testing.assert_allclose(image.ssim(x, y), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "photo", "bright and flat"])
@pytest.mark.parametrize("shape", [(32, 40, 3), (11, 11, 1), (64, 13, 4)])
def test_gaussian_ssim_is_that_of_scikit_image(kind, shape):
    batch = list(pairs(kind, shape))
    expected = [
        metrics.structural_similarity(
            x.astype(np.float64),
            y.astype(np.float64),
            channel_axis=-1,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in batch
    ]
    x, y = np.stack([p[0] for p in batch]), np.stack([p[1] for p in batch])
    np.testing.assert_allclose(image.ssim_gaussian(x, y), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "photo", "bright and flat"])
def test_psnr_is_that_of_scikit_image(kind):
    batch = list(pairs(kind))
    expected = [metrics.peak_signal_noise_ratio(x, y, data_range=1) for x, y in batch]
    x, y = np.stack([p[0] for p in batch]), np.stack([p[1] for p in batch])
    np.testing.assert_allclose(image.psnr(x, y), expected, atol=1e-4)


def test_equal_images():
    x = next(pairs("photo"))[0]
    assert image.psnr(x, x) == np.inf
    assert image.psnr_pooled(x, x) == np.inf
    np.testing.assert_allclose(image.ssim(x, x), 1.0, atol=1e-6)
    np.testing.assert_allclose(image.ssim_gaussian(x, x), 1.0, atol=1e-6)


def test_known_psnr():
    """An error of 0.1 everywhere is 20 dB."""
    np.testing.assert_allclose(image.psnr(jnp.full((8, 8, 3), 0.6), jnp.full((8, 8, 3), 0.5)), 20, rtol=1e-6)


def test_pooled_psnr_is_that_of_one_large_image():
    """Images of one size side by side: their pixels' errors are pooled, whichever image they are in."""
    x, y = (np.stack(v) for v in zip(*[*pairs("noise", count=2), *pairs("photo", count=2)], strict=True))
    pooled = metrics.peak_signal_noise_ratio(np.concatenate(x), np.concatenate(y), data_range=1)
    np.testing.assert_allclose(image.psnr_pooled(x, y), pooled, atol=1e-4)
    np.testing.assert_allclose(-10 * np.log10(np.mean(image.mse(x, y))), pooled, atol=1e-4)
    assert pooled < np.mean(image.psnr(x, y)) - 1


def test_pooled_psnr_of_no_images():
    with pytest.raises(ValueError, match="none"):
        image.psnr_pooled(np.zeros((0, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.float32))


def test_colours_are_those_of_scikit_image():
    batch = [*pairs("photo"), *pairs("noise")]
    batch[0][0][:4] = 0.0  # black has no saturation
    x, y = np.stack([p[0] for p in batch]), np.stack([p[1] for p in batch])
    saturations = [np.array([rgb2hsv(image)[..., 1].mean() for image in images]) for images in (x, y)]
    np.testing.assert_allclose(image.saturation_error(x, y), np.abs(saturations[0] - saturations[1]), atol=1e-6)
    colours = np.abs(x.mean((1, 2)) - y.mean((1, 2))).mean(-1)
    np.testing.assert_allclose(image.mean_color_error(x, y), colours, atol=1e-6)


def test_a_tint_shows_in_colours():
    grey = np.repeat(np.random.default_rng(0).uniform(0.3, 0.7, (2, 8, 8, 1)), 3, axis=-1).astype(np.float32)
    tinted = grey + np.array([0.1, 0.0, -0.1], np.float32)
    np.testing.assert_allclose(image.mean_color_error(tinted, grey), 0.2 / 3, rtol=1e-4)
    assert (image.saturation_error(tinted, grey) > 0.2).all()
    np.testing.assert_allclose(image.saturation_error(grey * 1.2, grey), 0.0, atol=1e-6)


@pytest.mark.parametrize("metric", [image.psnr, image.ssim, image.ssim_gaussian])
@pytest.mark.parametrize("batch", [1, 7])
def test_batching_changes_nothing(metric, batch):
    x, y = (np.stack(v) for v in zip(*pairs("photo", (16, 20, 3), count=8), strict=True))
    starts = range(0, 8, batch)
    parts = [metric(x[i : i + batch], y[i : i + batch]) for i in starts]
    np.testing.assert_allclose(np.concatenate(parts), metric(x, y), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "metric", [image.mse, image.psnr, image.ssim, image.ssim_gaussian, image.mean_color_error, image.saturation_error]
)
def test_one_value_for_each_image(metric):
    x = np.random.default_rng(0).uniform(size=(2, 3, 12, 12, 3)).astype(np.float32)
    y = x[::-1, ::-1]
    values = metric(x, y)
    assert values.shape == (2, 3) and values.dtype == np.float32
    np.testing.assert_allclose(values[1, 2], metric(x[1, 2], y[1, 2]), rtol=1e-5)


@pytest.mark.parametrize(
    "metric",
    [
        image.mse,
        image.psnr,
        image.psnr_pooled,
        image.ssim,
        image.ssim_gaussian,
        image.mean_color_error,
        image.saturation_error,
    ],
)
def test_bad_images_are_refused(metric):
    x = np.zeros((2, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="must be"):
        metric(x, x[:, :7])
    with pytest.raises(ValueError, match="uint8"):
        metric(x.astype(np.uint8), x)
    with pytest.raises(ValueError, match="H, W, C"):
        metric(x[0, 0], x[0, 0])


def test_ssim_needs_room_for_its_window():
    x = np.zeros((2, 8, 6, 3), np.float32)
    with pytest.raises(ValueError, match="8 x 6"):
        image.ssim(x, x)
    x = np.zeros((2, 10, 12, 3), np.float32)
    with pytest.raises(ValueError, match="10 x 12.*11 x 11"):
        image.ssim_gaussian(x, x)
