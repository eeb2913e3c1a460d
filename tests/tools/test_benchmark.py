import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from PIL import Image

from soda_jax.configs import folder
from soda_jax.performance import data_benchmark, data_report
from soda_jax.performance.data_benchmark import Case, Rate

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs") / "made"
    data_benchmark.write_photographs(root, 6, 120, 160)
    return root


def test_photographs_are_as_hard_to_decode_as_real_ones(photographs):
    files = sorted((photographs / "train").iterdir())
    assert len(files) == 6
    for path in files:
        with Image.open(path) as image:
            assert image.size == (160, 120) and image.format == "JPEG"
            pixels = np.asarray(image)
        bits = 8 * path.stat().st_size / (120 * 160)
        assert 1 < bits < 6  # A flat picture takes a tenth of a bit, noise more than 8.
        assert pixels.std() > 30
    assert len({path.read_bytes() for path in files}) == 6


def test_measure_counts_images_a_second_and_core(monkeypatch):
    seconds = [0.0]

    def batches():
        while True:
            seconds[0] += 2.0
            yield None

    monkeypatch.setattr(data_benchmark.time, "process_time", lambda: seconds[0])
    monkeypatch.setattr(data_benchmark.time, "perf_counter", lambda: seconds[0])
    assert data_benchmark.measure(batches(), 10, 5, workers=0) == 5.0
    assert data_benchmark.measure(batches(), 40, 5, workers=4) == 5.0


@pytest.mark.parametrize("randaugment", [False, True])
def test_compare_measures_the_same_work(photographs, randaugment):
    case = Case("made", str(photographs), randaugment)
    spec = case.spec()
    assert (spec.source_resolution, spec.target_resolution) == (256, 128)
    assert spec.randaugment_rate == (0.65 if randaugment else 0)
    (row,) = data_benchmark.compare([case], images=32, repeats=2, workers=0, torchvision=False)
    assert row["images"] == "made" and len(row["soda_jax"].values) == 2
    assert 10 < row["soda_jax"].median < 100_000


def test_table_shows_median_spread_and_ratio():
    row = {"images": "x", "root": "y", "randaugment": True}
    row |= {"soda_jax": Rate((900.0, 1000.0, 1250.0)), "torchvision": Rate((400.0, 390.0, 410.0))}
    table = data_report.data_table([row])
    assert "1,000 (900-1,250)" in table and "400 (390-410)" in table and "2.50" in table
    assert "crop, flip, RandAugment" in table
    assert "torchvision" not in data_report.data_table([{k: v for k, v in row.items() if k != "torchvision"}])


def test_verdict_in_closed_form():
    slow = data_benchmark.verdict(rate=100.0, cores=4, batch_size=800, step_seconds=1.0)
    assert "4 cores prepare a batch of 800 in 2 s" in slow and "the data is the bottleneck; 8.0 cores" in slow
    fast = data_benchmark.verdict(rate=100.0, cores=1, batch_size=50, step_seconds=1.0)
    assert (
        "1 core prepares a batch of 50 in 0.5 s" in fast and "the device is the bottleneck; it needs 0.5 cores" in fast
    )


def test_command_line_measures_a_folder_and_writes_json(photographs, tmp_path):
    command = [sys.executable, "-m", "soda_jax.tools.benchmark", "--only=data", "--repeats=2", "--images=32"]
    result = subprocess.run(
        [*command, f"--root={photographs}", f"--json={tmp_path / 'out.json'}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "median (lowest-highest) of 2 runs" in result.stdout
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["randaugment"] for row in report["data"]["rows"]] == [False, True]
    assert all(rate > 0 for row in report["data"]["rows"] for rate in row["soda_jax"])
    assert report["machine"]["cores"] >= 1
    result = subprocess.run([*command, "--root=/nowhere"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "error: root='/nowhere' is not a folder" in result.stderr


def test_a_configs_own_pipeline(photographs, capsys):
    config = folder.get_config("small")
    config.data.root = str(photographs)
    options = flags.FlagValues()
    flags.DEFINE_float("step_seconds", 10.0, "", flag_values=options)
    flags.DEFINE_integer("repeats", 2, "", flag_values=options)
    flags.DEFINE_integer("images", 64, "", flag_values=options)
    flags.DEFINE_integer("workers", 0, "", flag_values=options)
    options.mark_as_parsed()
    report = data_report.data(options, config)
    assert report["dataset"] == "folder" and len(report["rate"]) == 2
    assert "the device is the bottleneck" in report["verdict"]
    assert report["verdict"] in capsys.readouterr().out


def test_the_command_line_measures_a_config():
    """By a process of its own: the devices are split before anything asks for them."""
    command = [sys.executable, "-m", "soda_jax.tools.benchmark", "--config=tests/drill_config.py", "--only=encode"]
    done = subprocess.run([*command, "--repeats=1", "--seconds=0.01"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "encode, float32" in done.stdout
