"""Features of a whole split: every example once, no padding, whatever the batch size; in memory or in a file."""

import dataclasses
import gc
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from soda_jax import build
from soda_jax.data.datasets import Labels
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation import feature_sets
from soda_jax.evaluation.feature_sets import (
    FeatureSet,
    check_pair,
    collect,
    pixels_side,
    probe_spec,
    probe_views,
    raw_pixels,
)
from tests import tiny

COUNT = 21
SPEC = ViewSpec(num_sources=1, source_resolution=8, target_resolution=8)
TARGETS = {"label": Labels((30,), ("label",)), "factors": Labels((30, 3), ("number", "rest"))}


class Split:
    """Example i is an image of the value i, with i among its labels."""

    labels = TARGETS

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
    np.testing.assert_array_equal(found.labels, expected)
    assert (found.sizes, found.names) == (TARGETS[kind].sizes, TARGETS[kind].names)


def test_a_limit_is_spread_over_the_split():
    found = collect(eval_batches(Split(), SPEC, batch_size=4, limit=7), raw_pixels, task("label"))
    np.testing.assert_array_equal(found.labels[:, 0], np.arange(0, COUNT, 3))


def test_raw_pixels_are_the_first_view_in_0_to_1():
    batch = tiny.batch(4, views=2)
    pixels = raw_pixels(batch)
    assert pixels.shape == (4, 8 * 8 * 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels.reshape(4, 8, 8, 3) * 255, batch["source"][:, 0], atol=1e-4)


def test_raw_pixels_of_larger_images_are_shrunk():
    image = np.repeat(np.repeat(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3), 2, axis=0), 2, axis=1)
    pixels = raw_pixels({"source": image[None, None]})
    np.testing.assert_allclose(pixels.reshape(64, 64, 3) * 255, image[::2, ::2], atol=1e-4)


@pytest.mark.parametrize(
    ("examples", "resolution", "memory", "side"),
    [
        (1_281_167, 256, 4.0, 16),
        (50_000, 32, 4.0, 32),
        (60_000, 256, 4.0, 64),
        (100_000, 64, 4.0, 32),
        (10**9, 64, 4, 8),
    ],
)
def test_pixels_fit_in_memory(examples, resolution, memory, side):
    assert pixels_side(examples, resolution, memory) == side
    batch = {"source": np.zeros((1, 1, resolution, resolution, 3), np.uint8)}
    width = raw_pixels(batch, side).shape[1]
    assert width == 3 * side**2
    assert 4 * width * examples <= memory * 2**30 or side == 8
    if side < min(resolution, 64):
        assert 4 * 4 * width * examples > memory * 2**30  # no fewer than it takes


def mean_pixel(batch):
    return batch["source"].mean(axis=(1, 2, 3, 4))[:, None].repeat(5, axis=1)


def test_what_exceeds_the_memory_goes_to_a_file_and_is_the_same(tmp_path):
    """The file has no name: nothing to remove, and its space is free again with the features."""
    batches = list(eval_batches(Split(), SPEC, batch_size=4))
    whole = collect(batches, mean_pixel, task("label"))
    assert not isinstance(whole.features, np.memmap)
    for bytes_in_memory in (0, 100, 200):  # of 420
        found = collect(batches, mean_pixel, task("label"), memory_gib=bytes_in_memory / 2**30, folder=tmp_path)
        assert isinstance(found.features, np.memmap) and found.features.dtype == np.float32
        np.testing.assert_array_equal(found.features, whole.features)
        np.testing.assert_array_equal(found.labels, whole.labels)
        assert not os.listdir(tmp_path)
    part = found.subset(np.array([3, 1]))
    assert not isinstance(part.features, np.memmap)
    np.testing.assert_array_equal(part.features[:, 0], [3, 1])
    del found
    gc.collect()
    maps = pathlib.Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path) not in maps.read_text()


@pytest.fixture
def good():
    return FeatureSet(np.ones((6, 3), np.float32), np.arange(12).reshape(6, 2) % 3, (3, 3), ("hue", "shape"))


def test_features_are_kept_as_float32(good):
    assert dataclasses.replace(good, features=np.ones((6, 3), np.float64)).features.dtype == np.float32


def test_without_examples_there_are_no_features():
    with pytest.raises(ValueError, match="the split has no examples"):
        collect([], mean_pixel, task("label"))
    unreadable = next(iter(eval_batches(Split(), SPEC, batch_size=4))) | {"mask": np.zeros(4, bool)}
    with pytest.raises(ValueError, match="the split has no examples.*can be read"):
        collect([unreadable], mean_pixel, task("label"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((5, 3))}, r"features have shape \(5, 3\) and labels \(6, 2\)"),
        ({"names": ("hue",)}, r"as many as there are sizes \(2\) and names \(1\)"),
        ({"features": np.ones((0, 3)), "labels": np.ones((0, 2))}, "no examples"),
        ({"features": np.where(np.arange(18).reshape(6, 3) == 13, np.nan, 1)}, "example 4 of 6 are not finite"),
        ({"features": np.full((6, 3), np.inf)}, "example 0 of 6 are not finite"),
        ({"sizes": (3, 2)}, r"'shape' lies in 0..2: with 2 classes it must lie in 0..1"),
    ],
)
def test_features_that_mean_nothing_are_refused(good, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **change)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({}, {"features": np.ones((6, 2))}, "training features have 3 dimensions and test features 2"),
        ({}, {"names": ("hue", "size")}, "both splits must have the same"),
        ({"labels": np.ones((6, 2), int)}, {}, r"all 6 training examples are of one class \(hue, shape\)"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(good, train, test, message):
    with pytest.raises(ValueError, match=message):
        check_pair(dataclasses.replace(good, **train), dataclasses.replace(good, **test))


def test_targets_of_one_class_are_named(good, capsys):
    check_pair(good, good)
    assert capsys.readouterr().out == ""
    check_pair(dataclasses.replace(good, labels=good.labels * [1, 0]), good)
    assert capsys.readouterr().out == "of one class in all 6 training examples: shape\n"


def test_the_probes_views_are_crops_and_flips_at_its_own_rate():
    spec = ViewSpec("class", 2, 1, augment_source=False, crop_rate=0.95, flip=False, randaugment_rate=0.65)
    found = probe_spec(spec, 0.4)
    assert (found.policy, found.num_sources, found.min_sources) == ("augment", 2, 0)
    assert (found.augment_source, found.crop_rate, found.flip, found.randaugment_rate) == (True, 0.4, False, 0.0)
    with pytest.raises(ValueError, match="config.eval.probe_views: views of cameras"):
        probe_spec(ViewSpec("camera"), 0.65)


def test_views_by_epoch(good):
    extracted = []

    def extract(number):
        extracted.append(number)
        return dataclasses.replace(good, features=np.full((6, 3), number, np.float32))

    assert probe_views("none", 2, extract) is None and not extracted
    views = probe_views("cached", 2, extract)
    assert extracted == [0, 1]
    assert [views(epoch)[0, 0] for epoch in range(5)] == [0, 1, 0, 1, 0] and extracted == [0, 1]
    views = probe_views("epoch", 2, extract)
    assert [views(epoch)[0, 0] for epoch in (0, 5)] == [0, 5] and extracted == [0, 1, 0, 5]
    for arguments, message in ((("always", 2), "choose one of none, cached, epoch"), (("cached", 0), "at least 1")):
        with pytest.raises(ValueError, match=message):
            probe_views(*arguments, extract)


TWO_PROCESSES = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))
import numpy as np
from tests.evaluation import test_feature_sets as here
batches = here.eval_batches(here.Split(), here.SPEC, batch_size=4, process_index=jax.process_index(), process_count=2)
found = here.collect(batches, here.raw_pixels, here.task("label"))
np.testing.assert_array_equal(found.labels[:, 0], np.arange(here.COUNT))
np.testing.assert_allclose(found.features[:, 7] * 255, np.arange(here.COUNT), atol=1e-4)
"""


def test_every_process_gets_the_whole_split(tmp_path):
    port = str(20000 + os.getpid() % 20000)
    root = pathlib.Path(feature_sets.__file__).parents[2]
    command = [sys.executable, "-c", TWO_PROCESSES, port]
    running = [
        subprocess.Popen([*command, str(i)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)
