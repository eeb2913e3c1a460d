"""Reconstruction scores: an oracle is perfect, and padding does not count."""

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from soda_jax import sharding
from soda_jax.data.views import ViewSpec
from soda_jax.evaluators.reconstruction import Reconstruction
from soda_jax.inference import Inference
from tests import tiny

COUNT = 11
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
NOISE = np.random.default_rng(1).normal(0, 0.2, (COUNT, 8, 8, 3))
SPEC = ViewSpec(num_sources=1, source_resolution=8, target_resolution=8)


class Split:
    targets = {}

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

    monkeypatch.setattr(found, "encode", lambda variables, source, mask: source[:, 0])
    monkeypatch.setattr(found, "sample", sample)
    return found, firsts


def test_an_oracle_is_perfect(monkeypatch):
    oracle, _ = inference(monkeypatch, 4)
    results = Reconstruction(oracle, Split(), SPEC, None).run({})
    assert results["reconstruction/psnr"] > 100
    np.testing.assert_allclose(results["reconstruction/ssim"], 1.0, atol=1e-5)


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
    np.testing.assert_allclose(results["reconstruction/psnr"], expected_psnr, rtol=1e-4)
    np.testing.assert_allclose(results["reconstruction/ssim"], expected_ssim, rtol=1e-4)
    assert firsts == list(range(0, COUNT, batch_size))


def test_a_limit_counts_so_many_examples(monkeypatch):
    oracle, firsts = inference(monkeypatch, 2)
    assert Reconstruction(oracle, Split(), SPEC, 5).run({})["reconstruction/psnr"] > 100
    assert firsts == [0, 2, 4]
