"""Evaluation's order with training's random views: what the offline probe is trained on."""

import numpy as np
import pytest

from soda_jax import data

SPEC = data.ViewSpec(source_resolution=16, target_resolution=12, crop_rate=0.65)


class Numbered:
    """Noise images whose label is their index."""

    labels = {}

    def __init__(self, size):
        self.images = np.random.default_rng(size).integers(0, 256, (size, 20, 24, 3), np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": np.int32(index)}


def examples(size=50, spec=SPEC, **options):
    batches = data.eval_batches(Numbered(size), spec, **options)
    joined = [{key: value[batch["mask"]] for key, value in batch.items()} for batch in batches]
    return {key: np.concatenate([part[key] for part in joined]) for key in joined[0]}


def test_the_order_is_evaluations_and_the_views_are_random():
    plain, augmented = examples(batch_size=8), examples(batch_size=8, augment_seed=0)
    np.testing.assert_array_equal(augmented["label"], plain["label"])
    np.testing.assert_array_equal(augmented["index"], np.arange(50))
    assert (augmented["source_window"] != plain["source_window"]).any(axis=(1, 2)).sum() > 20


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_views_depend_on_the_example_and_the_seed_alone(batch_size):
    whole = examples(batch_size=50, augment_seed=3)
    found = examples(batch_size=batch_size, augment_seed=3)
    for key in whole:
        np.testing.assert_array_equal(found[key], whole[key], err_msg=key)
    other = examples(batch_size=50, augment_seed=4)
    assert (whole["source"] != other["source"]).any(axis=(1, 2, 3, 4)).sum() > 30
    some = examples(batch_size=batch_size, augment_seed=3, limit=10)
    np.testing.assert_array_equal(some["source"], whole["source"][::5])


def test_the_share_of_crops_and_flips_is_the_specs():
    windows = examples(2000, batch_size=500, augment_seed=0)["source_window"][:, 0]
    centre = examples(2, batch_size=2)["source_window"][0, 0]
    np.testing.assert_allclose(np.mean((windows != centre).any(axis=1)), 0.65, atol=0.035)
    np.testing.assert_allclose(np.mean(windows[:, 0] > windows[:, 2]), 0.325, atol=0.035)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="augment_seed=-1"):
        examples(batch_size=8, augment_seed=-1)
