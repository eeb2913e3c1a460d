"""The table of image metrics: every entry can be computed, and better is in the direction that it names."""

import numpy as np
import pytest

from soda_jax.metrics.registry import IMAGE_METRICS, Weights

WITHOUT_WEIGHTS = ("psnr", "psnr_pooled", "ssim", "ssim_gaussian", "color", "saturation")


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_it_compares_either_pairs_or_sets(name):
    metric = IMAGE_METRICS[name]
    assert (metric.pairs is None) != (metric.network is None)
    assert metric.pool is None or metric.pairs is not None


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_closer_image_is_better_in_its_direction(name):
    metric, rng = IMAGE_METRICS[name], np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (5, 16, 16, 3)).astype(np.float32)
    noise = rng.normal(size=truth.shape).astype(np.float32)
    pool = metric.pool or np.mean
    near, far = (float(pool(metric.pairs(Weights())(np.clip(truth + s * noise, -1, 1), truth))) for s in (0.05, 0.5))
    assert (near > far) == (metric.direction == "up")


@pytest.mark.parametrize("name", [name for name in IMAGE_METRICS if name not in WITHOUT_WEIGHTS])
def test_the_others_look_for_their_weights(name, tmp_path):
    metric = IMAGE_METRICS[name]
    with pytest.raises(ValueError, match="no alexnet.ckpt|no vgg16.ckpt|no file .*none.pth"):
        (metric.pairs or metric.network)(Weights(str(tmp_path), str(tmp_path / "none.pth")))
