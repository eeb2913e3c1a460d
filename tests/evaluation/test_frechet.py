"""The Frechet evaluator: padding, devices and processes do not count; cached statistics serve only where they fit."""

import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.data.decode import DecodeError
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation import frechet
from soda_jax.evaluation.frechet import Frechet
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.metrics.frechet import FeatureStatistics, frechet_distance
from soda_jax.metrics.inception import Inception
from soda_jax.parallel import sharding

COUNT, SIDE = 45, 8
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
GENERATED = np.random.default_rng(1).uniform(-1, 1, (COUNT, SIDE, SIDE, 3)).astype(np.float32) ** 3
SPEC = ViewSpec(source_resolution=SIDE, target_resolution=SIDE)


class Split:
    labels = {}

    def __init__(self, images=IMAGES, broken=()):
        self.images, self.broken, self.reads = images, broken, 0
        self.bad_files = self if broken else None

    def report(self, error):
        pass

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads += 1
        if index in self.broken:
            return {"image": Broken()}
        return {"image": self.images[index]}


class Broken:
    @property
    def shape(self):
        raise DecodeError("broken.png", "cut short")


def extractor(seed=2, size=5):
    weights = np.random.default_rng(seed).normal(size=(SIDE * SIDE * 3, size)).astype(np.float32)
    return jax.jit(lambda images: jnp.tanh(images.reshape(len(images), -1) @ weights / 8))


def frechet_of(tmp_path, devices=1, **options):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    return Frechet(extractor(**options), "frechet_test", tmp_path, mesh)


def plain(images, **options):
    """The same statistics without batches."""
    images = images if images.dtype == np.uint8 else np.rint((images + 1) * 127.5)
    return FeatureStatistics.of(np.asarray(extractor(**options)(images.astype(np.float32) / 127.5 - 1)))


def score(evaluator, images, batch_size, reference, interval=True):
    generated = evaluator.collect()
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, start + batch_size)
        mask = rows < len(images)
        batch = images[np.minimum(rows, len(images) - 1)].copy()
        batch[~mask] = np.nan
        generated.add(batch, mask)
    return evaluator.score(generated, reference, interval)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_padding_does_not_count(tmp_path, batch_size, devices):
    evaluator = frechet_of(tmp_path, devices)
    reference = evaluator.reference(Split(), SPEC, dataset_name="d", split="test", batch_size=batch_size)
    found = score(evaluator, GENERATED, batch_size, reference)
    assert isinstance(found, Estimate) and (found.count, found.over) == (10, "groups of images")
    np.testing.assert_allclose(found.value, frechet_distance(plain(GENERATED), plain(IMAGES)), rtol=1e-6)
    exact = score(frechet_of(tmp_path / "other"), GENERATED, COUNT, plain(IMAGES))
    np.testing.assert_allclose([found.low, found.high], [exact.low, exact.high], rtol=1e-6)
    assert 0 <= found.low < found.value < found.high


def test_equal_images(tmp_path):
    evaluator = frechet_of(tmp_path)
    reference = evaluator.reference(Split(), SPEC, dataset_name="d", split="test", batch_size=8)
    generated, again = evaluator.collect(), evaluator.collect()
    generated.add(IMAGES.astype(np.float32) / 127.5 - 1)
    again.add(IMAGES)
    assert evaluator.score(generated, reference, interval=False) < 1e-9
    assert evaluator.score(generated, again, interval=False) < 1e-9


def test_many_images_are_summed_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(frechet, "_BLOCK", 16)
    found = score(frechet_of(tmp_path), GENERATED, 10, plain(IMAGES))
    np.testing.assert_allclose(found.value, frechet_distance(plain(GENERATED), plain(IMAGES)), rtol=1e-6)


def test_few_images_have_no_interval(tmp_path, capsys):
    evaluator = frechet_of(tmp_path, size=30)
    found = score(evaluator, GENERATED[:12], 12, plain(IMAGES, size=30))
    assert isinstance(found, float)
    assert "frechet_test: 12 images for 30 features" in capsys.readouterr().out


def test_views_of_an_object_are_left_out_together(tmp_path):
    """Every image nine times: counted as 45 objects the interval is that of single images; as 405, too narrow."""
    evaluator, reference = frechet_of(tmp_path), plain(IMAGES)
    single = score(evaluator, GENERATED, COUNT, reference)
    repeated, units = np.repeat(GENERATED, 9, axis=0), np.repeat(np.arange(COUNT), 9)
    together, apart = evaluator.collect(), evaluator.collect()
    together.add(repeated, units=units)
    apart.add(repeated)
    widths = [found.high - found.low for found in (single, *(evaluator.score(c, reference) for c in (together, apart)))]
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.1)
    assert widths[2] < 0.5 * widths[1]


def test_broken_images_do_not_count(tmp_path):
    broken = (3, 17)
    found = frechet_of(tmp_path).reference(Split(broken=broken), SPEC, dataset_name="d", split="test", batch_size=8)
    expected = plain(np.delete(IMAGES, broken, axis=0))
    assert found.count == expected.count == COUNT - 2
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-6)


def reads(tmp_path, dataset=None, spec=SPEC, limit=None, split="test", **options):
    """Images read for a reference, and its statistics."""
    dataset = dataset or Split()
    found = frechet_of(tmp_path, **options).reference(
        dataset, spec, dataset_name="set/a:1", split=split, batch_size=8, limit=limit
    )
    return dataset.reads, found


def test_statistics_are_kept(tmp_path, capsys):
    _, first = reads(tmp_path)
    count, second = reads(tmp_path)
    assert count == frechet._SAMPLE
    assert first.count == second.count
    np.testing.assert_array_equal(first.scatter, second.scatter)
    assert [path.name for path in tmp_path.iterdir()] == ["frechet_test_set-a-1_test_8px.npz"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"limit": 20}, "images 45, not 20"),
        ({"dataset": Split(IMAGES[:40])}, "split_size 45, not 40"),
        ({"dataset": Split(IMAGES[::-1])}, "other features of the same images"),
        (
            {"spec": ViewSpec(policy="same", source_resolution=SIDE, target_resolution=SIDE)},
            "policy 'augment', not 'same'",
        ),
        ({"seed": 3}, "other features of the same images: the weights or the images have changed"),
        ({"size": 6}, "other features of the same images"),
    ],
)
def test_statistics_that_do_not_fit(tmp_path, capsys, change, reason):
    reads(tmp_path)
    count, found = reads(tmp_path, **change)
    told = capsys.readouterr().out
    assert reason in told and told.endswith("computing the reference statistics anew\n")
    assert count > frechet._SAMPLE
    kept, again = reads(
        tmp_path, **change | ({"dataset": Split(change["dataset"].images)} if "dataset" in change else {})
    )
    assert kept == frechet._SAMPLE and again.count == found.count
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", None])
def test_damaged_statistics(tmp_path, capsys, content):
    reads(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    count, found = reads(tmp_path)
    assert "damaged" in capsys.readouterr().out
    assert count > frechet._SAMPLE and found.count == COUNT


def test_other_splits_have_their_own_file(tmp_path):
    reads(tmp_path)
    reads(tmp_path, split="train")
    assert reads(tmp_path)[0] == reads(tmp_path, split="train")[0] == frechet._SAMPLE


def test_the_name_fid_is_for_its_network(tmp_path, capsys):
    with pytest.raises(ValueError, match="name='fid' is for the features of metrics.inception alone"):
        Frechet(extractor(), "fid", tmp_path)
    Frechet(Inception({}, "00"), "fid", tmp_path)
    assert "not the weights that FID is defined by" in capsys.readouterr().out
    Frechet(Inception({}, "6726825d"), "fid", tmp_path)
    assert capsys.readouterr().out == ""


def test_errors(tmp_path):
    evaluator = frechet_of(tmp_path)
    with pytest.raises(ValueError, match="the split is empty"):
        evaluator.reference(Split(IMAGES[:0]), SPEC, dataset_name="d", split="test", batch_size=8)
    with pytest.raises(ValueError, match="at least 2 images on each side, and here are 1"):
        evaluator.reference(Split(IMAGES[:1]), SPEC, dataset_name="d", split="test", batch_size=8)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no image was added"):
        evaluator.score(evaluator.collect(), plain(IMAGES))
    generated = evaluator.collect()
    with pytest.raises(ValueError, match="1 of 2 images are not finite: the model's samples have diverged"):
        generated.add(np.where(np.arange(2)[:, None, None, None] == 1, np.nan, GENERATED[:2]))
    with pytest.raises(ValueError, match=r"4 images, mask \(3,\) and units \(3,\): give one of each an image"):
        generated.add(GENERATED[:4], np.ones(3, bool))
    generated.add(GENERATED[:4], np.zeros(4, bool))
    with pytest.raises(ValueError, match="at least 2 images on each side, and here are 0"):
        evaluator.score(generated, plain(IMAGES))
    with pytest.raises(ValueError, match="5 features an example, the other 6"):
        score(evaluator, GENERATED, COUNT, plain(IMAGES, size=6))


PROCESS = """
import sys, numpy as np, jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from tests.evaluation.test_frechet import *
evaluator = Frechet(extractor(), "frechet_test", sys.argv[3])
for _ in range(2):  # computed, then read from disk
    reference = evaluator.reference(Split(), SPEC, dataset_name="d", split="test", batch_size=8)
    jax.experimental.multihost_utils.sync_global_devices("written")
generated = evaluator.collect()
part = GENERATED[jax.process_index() :: 2]
generated.add(part)
print("distance", repr(evaluator.score(generated, reference).value))
"""


def test_two_processes(tmp_path):
    """Each sees half of the images; both find the distance of all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(number), str(tmp_path)],
            cwd=pathlib.Path(__file__).parents[2],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for number in range(2)
    ]
    expected = frechet_distance(plain(GENERATED), plain(IMAGES))
    try:
        for process in processes:
            output = process.communicate(timeout=240)[0]
            assert process.returncode == 0, output
            np.testing.assert_allclose(float(output.split("distance")[-1]), expected, rtol=1e-6)
    finally:
        for process in processes:
            process.kill()
    assert len(list(tmp_path.iterdir())) == 1
