import collections
import itertools
import multiprocessing
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
from soda_jax.data import workers

ROOT = pathlib.Path(__file__).parents[2]
SHARED = pathlib.Path(workers.SHARED_MEMORY)
MEBIBYTE = 1 << 20
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="measures /dev/shm")


class Flat:
    """Images of one colour, which is their index."""

    labels = {}

    def __init__(self, side, size=4096):
        self.side, self.size = side, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"image": np.full((self.side, self.side, 3), index % 256, np.uint8), "label": np.int32(index)}


class Numbers:
    """Batches whose rows tell their place, for `iterate` alone."""

    def __init__(self, rows, example_bytes, count):
        self.rows, self.example_bytes, self.count = rows, example_bytes, count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return self.part(number, 0, self.rows)

    def part(self, number, first, last):
        return {
            "id": np.arange(first, last) + number * self.rows,
            "image": np.full((last - first, self.example_bytes), number % 256, np.uint8),
        }


def _plain(side):
    return data.ViewSpec(
        "same", source_resolution=side, target_resolution=side, augment_source=False, augment_target=False
    )


def test_bytes_of_an_example_are_estimated_from_above_and_closely(free_scenes):
    specs = {
        Flat(50): data.ViewSpec(source_resolution=40, target_resolution=30, num_sources=2),
        free_scenes: data.ViewSpec("camera", num_sources=3, source_resolution=32, target_resolution=32),
    }
    for dataset, spec in specs.items():
        batch = data.train_batches(dataset, spec, batch_size=4, seed=0)[0]
        actual = sum(values.nbytes for values in batch.values()) / 4
        assert actual <= spec.example_bytes <= actual + 1000


@pytest.mark.parametrize("policy", ["augment", "camera"])
def test_parts_joined_are_the_whole(policy, free_scenes):
    dataset = free_scenes if policy == "camera" else Flat(20, 50)
    spec = data.ViewSpec(policy, source_resolution=16, target_resolution=12, min_sources=1, num_sources=2)
    batches = data.train_batches(dataset, spec, batch_size=24, seed=0, process_index=1, process_count=2)
    for step in (0, 4, 5):  # of the small set, step 4 spans two epochs
        whole = batches[step]
        parts = [batches.part(step, first, last) for first, last in itertools.pairwise((0, 1, 5, 12))]
        for key, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), values, err_msg=key)


@pytest.mark.parametrize(("num_workers", "start"), [(1, 0), (3, 2)])
def test_pieces_change_neither_batches_nor_their_end(num_workers, start):
    batches = Numbers(rows=7, example_bytes=MEBIBYTE, count=5)  # 2 pieces for one worker, 6 for three
    iterator = workers.iterate(batches, start, num_workers=num_workers)
    found = list(iterator)
    iterator.close()
    iterator.close()
    assert list(iterator) == [] and len(found) == 5 - start
    for number, batch in enumerate(found, start):
        for key, values in batches[number].items():
            np.testing.assert_array_equal(batch[key], values)
            assert type(batch[key]) is np.ndarray and batch[key].flags.owndata  # nothing stays shared


def test_shared_memory_does_not_grow_with_the_workers():
    """The configs' own batches: about two of them, whatever the number of workers."""
    rows, example = 4096, 3 * (224**2 + 128**2)
    for count in (1, 2, 4, 16, 64):
        needed = workers.shared_memory_bytes(rows, example, count)
        assert 1.9 * rows * example < needed < 2.6 * rows * example
    assert workers.shared_memory_bytes(rows, example, 16, prefetch=4) > 1.7 * needed
    assert workers.shared_memory_bytes(rows, example, 0) == 0
    # Small batches are not cut to crumbs: a piece has a megabyte, or is a whole batch.
    assert workers.shared_memory_bytes(64, 6144, 16) < 16 * 5 * MEBIBYTE


def _mounted(monkeypatch, free, total):
    found = collections.namedtuple("Found", "f_bavail f_blocks f_frsize")(free // 4096, total // 4096, 4096)
    monkeypatch.setattr(os, "statvfs", lambda path: found)


def test_too_little_shared_memory_is_refused_with_a_remedy(monkeypatch):
    _mounted(monkeypatch, 64 * MEBIBYTE, 64 * MEBIBYTE)  # Docker's
    batches = data.train_batches(Flat(20), _plain(256), batch_size=4096, seed=0)
    with pytest.raises(
        ValueError, match=r"num_workers=16.* need [\d,]+ MiB .* 64 of its 64 MiB .*--shm-size=\d+m.*\(0 "
    ):
        data.iterate(batches, num_workers=16)
    small = data.train_batches(Flat(20), _plain(64), batch_size=512, seed=0)  # 12.6 MB
    with pytest.raises(workers.SharedMemoryError, match=r"lower config.data.num_workers \((9|1\d) fits\)"):
        data.iterate(small, num_workers=64)
    needed = workers.shared_memory_bytes(small.rows, small.example_bytes, 8)
    _mounted(monkeypatch, needed + 4096, 64 * MEBIBYTE)
    workers.check_shared_memory(small.rows, small.example_bytes, 8)
    _mounted(monkeypatch, needed - 4096, 64 * MEBIBYTE)
    with pytest.raises(workers.SharedMemoryError, match="num_workers=8"):
        workers.check_shared_memory(small.rows, small.example_bytes, 8)


def test_threads_need_no_shared_memory_and_not_every_system_has_a_limit(monkeypatch):
    batches = data.train_batches(Flat(20), _plain(16), batch_size=8, seed=0)
    _mounted(monkeypatch, 0, 0)
    assert next(data.iterate(batches, num_workers=0))["id"].tolist() == list(range(8))
    monkeypatch.undo()
    monkeypatch.setattr(workers, "SHARED_MEMORY", "/no/such/folder")
    workers.check_shared_memory(1 << 40, 1 << 20, 16)


def _shared_bytes(example_bytes):
    """Of the arrays of whole examples of a size that no other program's examples have."""
    found = 0
    for path in SHARED.glob("psm_*"):
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # freed meanwhile
            continue
        found += 0 if size % example_bytes else size
    return found


def _private_bytes(process):
    for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024


def _held(batches, num_workers):
    """Bytes in shared memory at their largest, and private bytes of the workers at rest, of an iterator that waits."""
    iterator = workers.iterate(batches, num_workers=num_workers)
    for _ in range(2 * num_workers):
        next(iterator)
    largest, previous, still = 0, -1, 0
    deadline = time.monotonic() + 60
    while still < 8 and time.monotonic() < deadline:
        time.sleep(0.1)
        now = _shared_bytes(batches.example_bytes)
        largest, still, previous = max(largest, now), still + 1 if now == previous else 0, now
    private = sum(_private_bytes(child.pid) for child in multiprocessing.active_children())
    iterator.close()
    return largest, private


@needs_shared
def test_workers_hold_no_more_than_is_said():
    batches = Numbers(rows=64, example_bytes=MEBIBYTE // 4 + 1 + os.getpid() % 10_000, count=1 << 30)
    whole = batches.rows * batches.example_bytes  # 16 MiB and more
    for count in (1, 3):
        largest, _ = _held(batches, count)
        limit = workers.shared_memory_bytes(batches.rows, batches.example_bytes, count)
        assert whole < largest <= limit <= 3 * whole


@pytest.mark.slow
@needs_shared
def test_sixteen_workers_hold_no_more_than_one():
    batches = Numbers(rows=512, example_bytes=MEBIBYTE // 8 + 1 + os.getpid() % 10_000, count=1 << 30)
    whole = batches.rows * batches.example_bytes  # 64 MiB and more
    small = Numbers(rows=1, example_bytes=8, count=1 << 30)
    for count in (1, 4, 16):
        largest, private = _held(batches, count)
        limit = workers.shared_memory_bytes(batches.rows, batches.example_bytes, count)
        assert whole < largest <= limit <= 3 * whole
        assert private - _held(small, count)[1] < 2 * whole


class Killed(Numbers):
    """Ends its worker by the signal that a full /dev/shm sends."""

    def __init__(self, number):
        super().__init__(rows=2, example_bytes=10, count=4)
        self.number = number

    def part(self, number, first, last):
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (signal.SIGBUS, workers.SharedMemoryError, "is full.*--shm-size"),
        (signal.SIGKILL, RuntimeError, "exit code -9"),
    ],
)
def test_a_worker_that_is_killed_is_no_end_of_the_data(number, error, message):
    iterator = workers.iterate(Killed(number), num_workers=1)
    with pytest.raises(error, match=message):
        next(iterator)
    iterator.close()


# Keeps the iterator in the module until the interpreter ends.
ENDS = """
import sys
from absl import flags
from soda_jax import data
if __name__ == "__main__":
    flags.FLAGS(sys.argv)
    source = data.load_dataset("folder", sys.argv[1], "train")
    spec = data.ViewSpec(source_resolution=8, target_resolution=8)
    batches = data.iterate(data.train_batches(source, spec, batch_size=4, seed=0), num_workers=1)
    print(len(next(batches)["target"]))
"""


def test_a_program_may_end_without_closing(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / f"{number}.png")
    (tmp_path / "run.py").write_text(ENDS)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "images")]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "4\n", "")
