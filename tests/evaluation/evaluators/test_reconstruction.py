"""Reconstruction scores: an oracle is perfect, and padding does not count."""

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.evaluators.reconstruction import Reconstruction
from soda_jax.evaluation.frechet import Frechet
from soda_jax.evaluation.image_scores import ImageMetrics
from soda_jax.inference.engine import Inference
from soda_jax.metrics.frechet import FeatureStatistics, frechet_distance
from soda_jax.parallel import sharding
from tests import tiny

COUNT = 11
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
NOISE = np.random.default_rng(1).normal(0, 0.2, (COUNT, 8, 8, 3))
SPEC = ViewSpec(num_sources=1, source_resolution=8, target_resolution=8)


class Split:
    labels = {}

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"image": IMAGES[index]}


def inference(monkeypatch, batch_size, disturb=None, spoil_padding=False):
    """An `Inference` whose latents are the images and whose samples show them, disturbed by `disturb[index]`.

    Returns (inference, the first indices asked for).
    """
    found = Inference(tiny.get_config(sampling__batch_size=batch_size), sharding.make_mesh(jax.devices()[:1]))
    firsts = []

    def sample(variables, z, *, seed, first_index):
        indices = first_index + np.arange(len(z))
        firsts.append(first_index)
        images = z.astype(np.float32) / 127.5 - 1
        if disturb is not None:
            images = images + disturb[np.minimum(indices, COUNT - 1)]
        if spoil_padding:
            images[indices >= COUNT] = np.nan
        return {"images": np.clip(images, -1, 1)}

    monkeypatch.setattr(found, "encode", lambda variables, dataset, mask: dataset[:, 0])
    monkeypatch.setattr(found, "sample", sample)
    return found, firsts


def test_an_oracle_is_perfect(monkeypatch):
    oracle, _ = inference(monkeypatch, 4)
    results = Reconstruction(oracle, Split(), SPEC, None).run({})
    assert results["reconstruction/psnr"].value > 100
    np.testing.assert_allclose(results["reconstruction/ssim"].value, 1.0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_means_of_scikit_image_over_every_example(monkeypatch, batch_size):
    """The noise is keyed by the example's place, so the batch size changes neither it nor the scores."""
    disturbed, firsts = inference(monkeypatch, batch_size, NOISE, spoil_padding=True)
    results = Reconstruction(disturbed, Split(), SPEC, None).run({})
    truth = IMAGES / 255.0
    shown = (np.clip(IMAGES / 127.5 - 1 + NOISE, -1, 1) + 1) / 2
    expected_psnr = np.mean([peak_signal_noise_ratio(t, s, data_range=1) for t, s in zip(truth, shown, strict=True)])
    expected_ssim = np.mean(
        [structural_similarity(t, s, channel_axis=-1, data_range=1) for t, s in zip(truth, shown, strict=True)]
    )
    np.testing.assert_allclose(results["reconstruction/psnr"].value, expected_psnr, rtol=1e-4)
    np.testing.assert_allclose(results["reconstruction/ssim"].value, expected_ssim, rtol=1e-4)
    assert results["reconstruction/psnr"].count == COUNT
    assert firsts == list(range(0, COUNT, batch_size))


def test_a_limit_counts_so_many_examples(monkeypatch):
    oracle, firsts = inference(monkeypatch, 2)
    assert Reconstruction(oracle, Split(), SPEC, 5).run({})["reconstruction/psnr"].value > 100
    assert firsts == [0, 2, 4]


def test_one_image_for_all_as_the_baseline(monkeypatch):
    oracle, firsts = inference(monkeypatch, 4)
    mean = (IMAGES / 255.0).mean(axis=0).astype(np.float32)
    found = Reconstruction(oracle, Split(), SPEC, None).baseline(mean)["reconstruction/psnr"]
    expected = [peak_signal_noise_ratio(image / 255.0, mean, data_range=1) for image in IMAGES]
    np.testing.assert_allclose(found.value, np.mean(expected), rtol=1e-5)
    assert firsts == []


class Split16(Split):
    """Other images than those sampled, and a few more."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"image": np.roll(IMAGES[index % COUNT], index, axis=0)}


def means(images):
    """Two features: the means of red and green."""
    return images.mean(axis=(1, 2))[:, :2]


def test_frechet_distance_from_the_whole_split(monkeypatch, tmp_path):
    """Generated from five examples, the reference from all; neither the batch size nor padding counts."""
    metrics = ImageMetrics({}, {"frechet_means": Frechet(means, "frechet_means", tmp_path)})
    values = []
    for batch_size in (2, 8):
        oracle, _ = inference(monkeypatch, batch_size, spoil_padding=True)
        evaluator = Reconstruction(oracle, Split16(), SPEC, 5, metrics, dataset_name="random", split="test")
        values.append(float(evaluator.run({})["reconstruction/frechet_means"]))
    shown = np.stack([Split16()[index]["image"] for index in np.arange(5) * 16 // 5]) / 127.5 - 1
    real = np.stack([Split16()[index]["image"] for index in range(16)]) / 127.5 - 1
    sets = [FeatureStatistics.of(means(images)) for images in (shown, real)]
    np.testing.assert_allclose(values, frechet_distance(*sets), rtol=1e-4)
