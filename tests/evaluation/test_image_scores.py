"""Scores of images in batches: against scikit-image and closed forms, whatever the batches and their padding."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from soda_jax.evaluation.frechet import Frechet
from soda_jax.evaluation.image_scores import ImageMetrics, ImageScores, ImageSets
from soda_jax.metrics.bootstrap import mean_estimate
from soda_jax.metrics.frechet import FeatureStatistics, frechet_distance
from soda_jax.metrics.registry import HIGHEST_PSNR

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 256, (12, 16, 16, 3), np.uint8)
SHOWN = np.clip(REAL / 127.5 - 1 + RNG.normal(0, 0.2, REAL.shape), -1, 1).astype(np.float32)
NAMES = ("psnr", "psnr_pooled", "ssim", "ssim_gaussian", "color")


def scored(metrics, size, shown=SHOWN, real=REAL, **options):
    """In batches of `size`, the last one padded with what must not count."""
    scores = ImageScores(metrics, **options)
    for start in range(0, len(shown), size):
        rows = np.minimum(np.arange(start, start + size), len(shown) - 1)
        mask = np.arange(start, start + size) < len(shown)
        images = shown[rows].copy()
        images[~mask] = np.nan
        scores.add(images, real[rows], mask)
    return scores


def test_every_metric_by_scikit_image():
    figures = scored(ImageMetrics.load(NAMES), 4).figures("x")
    assert list(figures) == [f"x/{name}" for name in NAMES]
    pairs = list(zip((SHOWN.astype(np.float64) + 1) / 2, REAL / 255.0, strict=True))
    errors = np.array([np.mean((a - b) ** 2) for a, b in pairs])
    options = {"channel_axis": -1, "data_range": 1}
    gaussian = options | {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = {
        "psnr": np.mean(-10 * np.log10(errors)),
        "psnr_pooled": -10 * np.log10(errors.mean()),
        "ssim": np.mean([structural_similarity(a, b, win_size=7, **options) for a, b in pairs]),
        "ssim_gaussian": np.mean([structural_similarity(a, b, **gaussian) for a, b in pairs]),
        "color": np.mean([np.abs(a.mean((0, 1)) - b.mean((0, 1))) for a, b in pairs]),
    }
    for name, value in expected.items():
        found = figures[f"x/{name}"]
        np.testing.assert_allclose(found.value, value, rtol=1e-5, err_msg=name)
        assert found.low < found.value < found.high and found.count == 12, name
    by_image = mean_estimate(-10 * np.log10(errors))
    np.testing.assert_allclose(
        (figures["x/psnr"].low, figures["x/psnr"].high), (by_image.low, by_image.high), rtol=1e-5
    )


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_and_padding_do_not_matter(size):
    metrics = ImageMetrics.load(NAMES)
    whole, parts = scored(metrics, 12).figures("x"), scored(metrics, size).figures("x")
    for name, figure in whole.items():
        for field in ("value", "low", "high"):
            np.testing.assert_allclose(getattr(parts[name], field), getattr(figure, field), rtol=1e-6, err_msg=name)


def test_several_images_of_an_object_count_together():
    shown, real = SHOWN.reshape(4, 3, 16, 16, 3), REAL.reshape(4, 3, 16, 16, 3)
    metrics = ImageMetrics.load(("psnr",))
    found = scored(metrics, 3, shown, real, over="objects").figures("x")["x/psnr"]
    alone = scored(metrics, 12).figures("x")["x/psnr"]
    np.testing.assert_allclose(found.value, alone.value, rtol=1e-6)
    assert (found.count, found.over) == (4, "objects")
    assert (found.low, found.high) != (alone.low, alone.high)


def test_equal_images_have_the_highest_psnr():
    """Their PSNR is infinite, which would leave no mean."""
    figures = scored(ImageMetrics.load(("psnr", "psnr_pooled")), 12, REAL / np.float32(127.5) - 1).figures("x")
    assert float(figures["x/psnr"]) == float(figures["x/psnr_pooled"]) == HIGHEST_PSNR


def channel_means(images):
    return images.mean(axis=(1, 2))


@pytest.mark.parametrize("size", [5, 12])
def test_frechet_distances(tmp_path, size):
    metrics = ImageMetrics({}, {"frechet_means": Frechet(channel_means, "frechet_means", tmp_path)})
    shifted = np.clip(SHOWN + 0.3, -1, 1)
    real = ImageSets(metrics)
    real.add(REAL[:7], np.ones(7, bool))
    real.add(REAL[[7, 8, 9, 10, 11, 11]], np.array([True] * 5 + [False]))
    found = scored(metrics, size, shifted).figures("x", real)["x/frechet_means"]
    rounded = np.rint((shifted + 1) * 127.5) / 127.5 - 1
    sets = [FeatureStatistics.of(channel_means(images)) for images in (rounded, REAL / 127.5 - 1)]
    np.testing.assert_allclose(float(found), frechet_distance(*sets), rtol=1e-4)


def test_a_frechet_distance_leaves_out_whole_objects(tmp_path):
    metrics = ImageMetrics({}, {"frechet_means": Frechet(channel_means, "frechet_means", tmp_path)})
    rng = np.random.default_rng(3)
    shown, real = (rng.uniform(-1, 1, (12, 3, 8, 8, 3)), rng.integers(0, 256, (12, 3, 8, 8, 3), np.uint8))
    reference = ImageSets(metrics)
    reference.add(real, np.ones(12, bool))
    found = scored(metrics, 5, shown, real, over="objects").figures("x", reference)["x/frechet_means"]
    assert found.low < found.value < found.high and (found.count, found.over) == (10, "groups of objects")
    alone = scored(metrics, 36, shown.reshape(36, 8, 8, 3), real.reshape(36, 8, 8, 3)).figures("x", reference)
    alone = alone["x/frechet_means"]
    np.testing.assert_allclose(alone.value, found.value, rtol=1e-9)
    assert alone.over == "groups of images" and alone.high != found.high


def test_baselines_need_no_frechet_distance(tmp_path):
    metrics = ImageMetrics({}, {"frechet_means": Frechet(channel_means, "frechet_means", tmp_path)})
    assert scored(metrics, 12, frechet=False).figures("x") == {}


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no values to average"):
        ImageScores(ImageMetrics.load(("psnr",))).figures("x")
    empty = ImageScores(ImageMetrics.load(("psnr_pooled",)))
    empty.add(SHOWN[:2], REAL[:2], np.zeros(2, bool))
    with pytest.raises(ValueError, match="no values to average"):
        empty.figures("x")


def test_samples_that_are_no_numbers_are_named():
    shown = SHOWN.copy()
    shown[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 12 values are not finite"):
        scored(ImageMetrics.load(("ssim",)), 12, shown).figures("x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lpips_alexnet", r"lpips_weights='.*empty' holds no alexnet.ckpt"),
        ("frechet_alexnet", r"lpips_weights='.*empty' holds no alexnet.ckpt"),
        ("fid", "there is no file .*nothing.pth"),
        ("clip", "image metric 'clip' is unknown"),
    ],
)
def test_what_is_missing_shows_at_the_start(tmp_path, name, message):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(ValueError, match=message):
        ImageMetrics.load((name,), lpips_weights=str(folder), inception_weights=str(tmp_path / "nothing.pth"))


def test_fid_without_a_path_says_where_to_get_its_weights():
    with pytest.raises(ValueError, match="config.eval.inception_weights is empty: get"):
        ImageMetrics.load(("fid",))
