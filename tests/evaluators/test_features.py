"""Features of a whole split: every example once, no padding, whatever the batch size."""

import numpy as np
import pytest

from soda_jax import build
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.sources import Targets
from soda_jax.data.views import ViewSpec
from soda_jax.evaluators.features import collect, raw_pixels
from tests import tiny

COUNT = 21
SPEC = ViewSpec(num_sources=1, source_resolution=8, target_resolution=8)
TARGETS = {"label": Targets((30,), ("label",)), "factors": Targets((30, 3), ("number", "rest"))}


class Split:
    """Example i is an image of the value i, with i among its targets."""

    targets = TARGETS

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {
            "image": np.full((8, 8, 3), index, np.uint8),
            "label": np.int32(index),
            "factors": np.array([index, index % 3], np.int32),
        }


def task(kind):
    return build.probe_task(tiny.get_config(probe__kind=kind), TARGETS)


@pytest.mark.parametrize("batch_size", [1, 8, 21, 64])
@pytest.mark.parametrize("kind", ["label", "factors"])
def test_every_example_counts_once(batch_size, kind):
    shapes = []

    def extract(batch):
        shapes.append(batch["source"].shape[0])
        return batch["source"].mean(axis=(1, 2, 3, 4))[:, None]

    found = collect(eval_batches(Split(), SPEC, batch_size=batch_size), extract, task(kind))
    assert set(shapes) == {batch_size}  # padded, one compiled program would do
    np.testing.assert_array_equal(found.features[:, 0], np.arange(COUNT))
    assert found.features.dtype == np.float32
    expected = {"label": [[i] for i in range(COUNT)], "factors": [[i, i % 3] for i in range(COUNT)]}[kind]
    np.testing.assert_array_equal(found.targets, expected)
    assert (found.sizes, found.names) == (TARGETS[kind].sizes, TARGETS[kind].names)


def test_a_limit_is_spread_over_the_split():
    found = collect(eval_batches(Split(), SPEC, batch_size=4, limit=7), raw_pixels, task("label"))
    np.testing.assert_array_equal(found.targets[:, 0], np.arange(0, COUNT, 3))


def test_raw_pixels_are_the_first_view_in_0_to_1():
    batch = tiny.batch(4, views=2)
    pixels = raw_pixels(batch)
    assert pixels.shape == (4, 8 * 8 * 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels.reshape(4, 8, 8, 3) * 255, batch["source"][:, 0], atol=1e-4)
