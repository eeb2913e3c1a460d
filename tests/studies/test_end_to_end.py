"""A study of two rows and two seeds, trained for real, killed on its way, and the same study in one go."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "soda_jax.tools.study", "--study=tests/studies/study_file.py")
ROWS = ("SODA", "w_o_layer_mask")
TIMES = ("images_per_second", "seconds")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = {"SODA_STUDY_CACHE": str(tmp_path_factory.mktemp("cache")), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return os.environ | cache


def start(environment, workdir, *flags):
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}", *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def finished(process):
    output = process.communicate(timeout=3000)[0]
    assert process.returncode == 0, output
    return output


def kill(process, run):
    """SIGKILL to a runner and to what it trains, once that has saved."""
    deadline = time.monotonic() + 1500
    while not (run / "checkpoints" / "10" / "meta").is_dir() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    trainer = json.loads((run / "lock").read_text())["pid"]
    for pid in (process.pid, trainer):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, environment):
    """(a study that was killed and taken up again, its first run in one go)."""
    killed, whole = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("whole")
    kill(start(environment, killed), killed / "SODA" / "seed0")
    assert not list(killed.rglob("evaluation_*.json"))
    text = finished(start(environment, killed))
    assert "4 runs done" in text and "FAILED" not in text
    finished(start(environment, whole, "--only=SODA", "--seeds=1"))
    return killed, whole


def evaluation(run):
    (path,) = run.glob("evaluation_*.json")
    return json.loads(path.read_text())


def psnr(run):
    return evaluation(run)["results"]["SODA"]["reconstruction/psnr"]["value"]


def test_a_killed_study_ends_bit_by_bit_as_one_that_was_not(folders):
    killed, whole = (folder / "SODA" / "seed0" for folder in folders)
    starts = [len(json.loads((run / "run.json").read_text())["sessions"]) for run in (killed, whole)]
    assert starts == [2, 1]
    assert evaluation(killed)["weights"] == evaluation(whole)["weights"]  # SHA-256 of the averaged weights
    assert evaluation(killed)["results"] == evaluation(whole)["results"]
    lines = []
    for run in (killed, whole):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        lines.append([{k: v for k, v in row.items() if not k.endswith(TIMES)} for row in rows if row["step"] > 10])
    assert lines[0] == lines[1]


def test_the_table_is_what_numpy_makes_of_the_evaluations(folders):
    killed, _ = folders
    record = json.loads((killed / "study.json").read_text())
    figures = {row: np.array([psnr(killed / row / f"seed{seed}") for seed in (0, 1)]) for row in ROWS}
    half = stats.t.ppf(0.975, 1) / np.sqrt(2)
    for row in record["rows"]:
        cell = row["figures"]["psnr"]
        assert cell["value"] == pytest.approx(figures[row["folder"]].mean())
        assert cell["high"] - cell["value"] == pytest.approx(half * figures[row["folder"]].std(ddof=1))
        assert row["parameters"] > 1000
    difference = figures["SODA"] - figures["w_o_layer_mask"]
    first, second = record["claims"]
    assert first["difference"]["value"] == pytest.approx(difference.mean())
    low = difference.mean() - half * difference.std(ddof=1)
    high = difference.mean() + half * difference.std(ddof=1)
    assert (first["difference"]["low"], first["difference"]["high"]) == pytest.approx((low, high))
    expected = "holds" if low > 0 else "does not hold" if high < 0 else "open"
    assert first["verdict"] == expected
    assert second["verdict"] == {"holds": "does not hold", "does not hold": "holds", "open": "open"}[expected]
    assert all(run["done"] and run["images"] == 30 * 8 and run["hardware"] for run in record["runs"])
    assert (killed / "study.html").exists() and "A tiny study" in (killed / "study.md").read_text()


def test_every_run_is_an_ordinary_workdir(folders, tmp_path):
    from soda_jax.reporting import page

    html, _ = page.write(str(folders[0] / "w_o_layer_mask" / "seed1"), output=str(tmp_path))
    assert "w/o layer mask" in html.read_text()
