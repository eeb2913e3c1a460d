"""Diversity: closed forms for samples of known spread; seeds, not batches, make the difference."""

import itertools

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.evaluators.diversity import Diversity
from soda_jax.evaluation.image_scores import ImageMetrics
from soda_jax.inference.engine import Inference
from soda_jax.parallel import sharding
from tests import tiny

COUNT, SEEDS = 11, 3
SPEC = ViewSpec(num_sources=1, source_resolution=8, target_resolution=8)
SAMPLES = np.random.default_rng(0).uniform(-1, 1, (SEEDS, COUNT, 8, 8, 3)).astype(np.float32)


class Split:
    labels = {}

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), index, np.uint8)}


def diversity(monkeypatch, batch_size, samples=SAMPLES, **options):
    """An evaluator whose samples are `samples[seed, index]`; padding is no number."""
    found = Inference(tiny.get_config(sampling__batch_size=batch_size), sharding.make_mesh(jax.devices()[:1]))

    def sample(variables, z, *, seed, first_index):
        indices = first_index + np.arange(len(z))
        np.testing.assert_array_equal(z[:, 0, 0, 0], np.minimum(indices, COUNT - 1))
        images = samples[seed - 10, np.minimum(indices, COUNT - 1)].copy()
        images[indices >= COUNT] = np.nan
        return {"images": images}

    monkeypatch.setattr(found, "encode", lambda variables, dataset, mask: dataset[:, 0])
    monkeypatch.setattr(found, "sample", sample)
    return Diversity(found, Split(), SPEC, None, seeds=SEEDS, **options).run({}, seed=10)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_spread_and_pairs_by_hand(monkeypatch, batch_size):
    found = diversity(monkeypatch, batch_size)
    assert list(found) == ["diversity/std", "diversity/psnr", "diversity/ssim"]
    unit = (SAMPLES.astype(np.float64) + 1) / 2
    np.testing.assert_allclose(found["diversity/std"].value, unit.std(axis=0, ddof=1).mean(), rtol=1e-6)
    pairs = itertools.combinations(unit, 2)
    psnr = [[peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*pair, strict=True)] for pair in pairs]
    np.testing.assert_allclose(found["diversity/psnr"].value, np.mean(psnr), rtol=1e-5)
    assert found["diversity/psnr"].count == COUNT


def test_equal_samples_have_none(monkeypatch):
    found = diversity(monkeypatch, 4, np.broadcast_to(SAMPLES[:1], SAMPLES.shape))
    assert found["diversity/std"].value == found["diversity/std"].high == 0
    np.testing.assert_allclose(found["diversity/ssim"].value, 1, atol=1e-6)


def test_only_what_compares_pairs(monkeypatch):
    found = diversity(monkeypatch, 4, metrics=ImageMetrics.load(("psnr_pooled", "ssim")))
    assert list(found) == ["diversity/std", "diversity/ssim"]


def test_one_sample_is_not_enough():
    with pytest.raises(ValueError, match="seeds=1: one sample has nothing to differ from"):
        Diversity(None, Split(), SPEC, None, seeds=1)
