import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from soda_jax import data

ROOT = pathlib.Path(__file__).parents[2]


class Numbered:
    """Noise images whose label is their index."""

    labels = {}

    def __init__(self, size):
        self.images = np.random.default_rng(size).integers(0, 256, (size, 20, 24, 3), np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": np.int32(index)}


SPEC = data.ViewSpec(source_resolution=16, target_resolution=12)
SOURCE = Numbered(50)


def _assert_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def _joined(parts):
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_batch_has_the_documented_keys_shapes_and_types():
    batch = data.train_batches(SOURCE, SPEC, batch_size=8, seed=0)[0]
    described = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert described == {
        "source": ((8, 1, 16, 16, 3), "uint8"),
        "source_mask": ((8, 1), "bool"),
        "source_window": ((8, 1, 4), "float32"),
        "target": ((8, 12, 12, 3), "uint8"),
        "target_window": ((8, 4), "float32"),
        "label": ((8,), "int32"),
        "id": ((8,), "int32"),
    }
    assert batch["id"].tolist() == list(range(8))


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_global_batch(process_count):
    whole = data.train_batches(SOURCE, SPEC, batch_size=8, seed=3)
    parts = [
        data.train_batches(SOURCE, SPEC, batch_size=8, seed=3, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    for step in (0, 1, 6, 1000):  # Step 6 spans two epochs.
        _assert_equal(_joined([part[step] for part in parts]), whole[step])


def test_every_example_once_per_epoch_in_a_new_order():
    batches = data.train_batches(SOURCE, SPEC, batch_size=8, seed=0)
    labels = np.concatenate([batches[step]["label"] for step in range(25)])
    epochs = labels.reshape(4, 50)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(50), (4, 1)))
    for first, second in itertools.combinations(epochs, 2):
        assert np.mean(first == second) < 0.2


def test_augmentations_differ_between_epochs_and_examples():
    batches = data.train_batches(Numbered(1), SPEC, batch_size=40, seed=0)
    labels = np.concatenate([batches[0]["target"], batches[1]["target"]]).reshape(80, -1)
    assert len(np.unique(labels, axis=0)) > 70  # A twentieth is the plain centre.


def test_a_split_smaller_than_the_batch_repeats():
    labels = data.train_batches(Numbered(3), SPEC, batch_size=8, seed=0)[0]["label"]
    assert np.bincount(labels).max() == 3 and np.bincount(labels).min() >= 2


def test_seeds_differ_and_repeat():
    first, again, other = (data.train_batches(SOURCE, SPEC, batch_size=8, seed=seed)[2] for seed in (0, 0, 1))
    _assert_equal(first, again)
    assert not np.array_equal(first["label"], other["label"])
    alone = data.train_batches(Numbered(1), SPEC, batch_size=8, seed=0)[0]
    assert not np.array_equal(alone["target"], data.train_batches(Numbered(1), SPEC, batch_size=8, seed=1)[0]["target"])


def test_random_access_needs_no_order():
    batches = data.train_batches(SOURCE, SPEC, batch_size=8, seed=0)
    later = batches[9]
    for step in range(9):
        batches[step]
    _assert_equal(batches[9], later)


def test_iterate_from_k_skips_k():
    batches = data.train_batches(SOURCE, SPEC, batch_size=8, seed=0)
    skipped = itertools.islice(data.iterate(batches), 5, 9)
    for step, first, second in zip(range(5, 9), skipped, data.iterate(batches, 5), strict=False):
        _assert_equal(first, second)
        _assert_equal(first, batches[step])


def test_workers_change_nothing(scenes):
    spec = data.ViewSpec(source_resolution=32, target_resolution=32)
    batches = data.train_batches(scenes, spec, batch_size=16, seed=0)
    iterator = data.iterate(batches, 3, num_workers=2)
    for step in range(3, 8):
        _assert_equal(next(iterator), batches[step])
    iterator.close()


# Says the numbers of its workers, and goes on until it is killed.
WORKERS = """
import multiprocessing, sys, time
from absl import flags
from soda_jax import data
if __name__ == "__main__":
    flags.FLAGS(sys.argv)
    source = data.load_dataset("folder", sys.argv[1], "train")
    spec = data.ViewSpec(source_resolution=8, target_resolution=8)
    batches = data.iterate(data.train_batches(source, spec, batch_size=4, seed=0), num_workers=2)
    next(batches), next(batches)  # one of each worker
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def _runs(number):
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks for the processes in /proc")
def test_workers_end_with_a_killed_run_and_not_by_signals_to_all(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / f"{number}.png")
    (tmp_path / "run.py").write_text(WORKERS)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "images")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    for number in workers:
        os.kill(number, signal.SIGTERM)
        os.kill(number, signal.SIGINT)
    time.sleep(0.3)
    assert all(map(_runs, workers))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def test_multi_view_batches(free_scenes):
    spec = data.ViewSpec("camera", num_sources=2, source_resolution=32, target_resolution=32)
    batch = data.train_batches(free_scenes, spec, batch_size=4, seed=0)[0]
    assert batch["source"].shape == (4, 2, 32, 32, 3)
    assert batch["source_pose"].shape == (4, 2, 4, 4) and batch["target_pose"].shape == (4, 4, 4)
    assert batch["source_intrinsics"].shape == (4, 2, 4)
    assert batch["target_intrinsics"].shape == (4, 4) and batch["factors"].shape == (4, 5)
    evaluated = next(data.eval_batches(free_scenes, spec, batch_size=4, limit=4))
    assert evaluated.keys() == batch.keys() - {"id"} | {"index", "mask"}


@pytest.mark.parametrize("size", [48, 50, 3])
@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_counts_every_example_once(size, process_count):
    dataset = Numbered(size)
    runs = [
        list(data.eval_batches(dataset, SPEC, batch_size=8, process_index=i, process_count=process_count))
        for i in range(process_count)
    ]
    assert {len(run) for run in runs} == {-(-size // 8)}
    batches = [batch for run in runs for batch in run]
    assert {batch["target"].shape for batch in batches} == {(8 // process_count, 12, 12, 3)}
    everything = _joined(batches)
    real = everything["mask"]
    assert real.dtype == bool and everything["index"].dtype == np.int32
    np.testing.assert_array_equal(np.sort(everything["index"][real]), np.arange(size))
    np.testing.assert_array_equal(everything["index"][real], everything["label"][real])
    assert np.all(everything["index"][~real] >= size)
    assert len(np.unique(everything["index"])) == len(real)
    for image, index in zip(everything["target"][real], everything["index"][real], strict=True):
        expected = data.eval_views(dataset[index], SPEC)["target"]
        np.testing.assert_array_equal(image, expected)


def test_evaluation_limit_spreads_over_the_split():
    batches = list(data.eval_batches(SOURCE, SPEC, batch_size=4, limit=10))
    joined = _joined(batches)
    assert len(batches) == 3 and joined["mask"].sum() == 10
    assert joined["index"][joined["mask"]].tolist() == list(range(0, 50, 5))
    generous = _joined(list(data.eval_batches(SOURCE, SPEC, batch_size=8, limit=500)))
    assert generous["mask"].sum() == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9, "process_count": 2}, "batch_size=9 .* process_count=2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 8, "process_index": 1}, "process_index=1"),
    ],
)
def test_bad_divisions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.train_batches(SOURCE, SPEC, seed=0, **options)
    with pytest.raises(ValueError, match=message):
        data.eval_batches(SOURCE, SPEC, **options)


def test_empty_split_and_bad_limit():
    with pytest.raises(ValueError, match="split is empty"):
        data.train_batches(Numbered(0), SPEC, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="limit=0"):
        data.eval_batches(SOURCE, SPEC, batch_size=2, limit=0)
    batches = data.train_batches(SOURCE, SPEC, batch_size=8, seed=0)
    with pytest.raises(ValueError, match="start=-1"):
        data.iterate(batches, -1)


VARIED = data.ViewSpec(source_resolution=4, target_resolution=4, num_sources=4, min_sources=2)


def _counts(steps, **options):
    batches = data.train_batches(SOURCE, VARIED, **({"batch_size": 2, "seed": 0} | options))
    return [batches[step]["source"].shape[1] for step in steps]


def test_steps_show_each_number_of_sources_as_often():
    steps = 600
    counts = np.bincount(_counts(range(steps)), minlength=5)
    assert counts[:2].sum() == 0 and counts.sum() == steps
    assert (np.square(counts[2:] - steps / 3) / (steps / 3)).sum() < 13.8  # of chi-square with 2 degrees, 99.9%
    follows = np.array(_counts(range(steps)))
    assert abs(np.corrcoef(follows[1:], follows[:-1])[0, 1]) < 4 / np.sqrt(steps)


def test_the_number_of_sources_follows_from_seed_and_step_alone():
    first = _counts(range(20))
    assert _counts(reversed(range(20))) == first[::-1]  # a resumed run begins anywhere
    assert _counts(range(20), seed=1) != first
    assert _counts(range(20), batch_size=8) == first
    for index in range(2):
        assert _counts(range(20), batch_size=8, process_index=index, process_count=2) == first
    batches = data.train_batches(SOURCE, VARIED, batch_size=8, seed=0)
    for step in range(4):
        _assert_equal(batches[step], _joined([batches.part(step, 0, 3), batches.part(step, 3, 8)]))


def test_evaluations_show_all_sources():
    for seed in (None, 0):
        for batch in data.eval_batches(SOURCE, VARIED, batch_size=20, augment_seed=seed):
            assert batch["source"].shape[1] == 4 and batch["source_mask"].all()
