"""The fault drill, small; in full: python -m soda_jax.tools.drill."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from soda_jax.tools.drill import damage
from soda_jax.tools.drill.damage import KINDS, Outcome, corruptions
from soda_jax.tools.drill.runs import being_written, same_bits
from tests import tiny, tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def drill(folder, *arguments):
    command = [sys.executable, "-m", "soda_jax.tools.drill", "--config=tests/drill_config.py"]
    command += [f"--folder={folder / 'drill'}", f"--json={folder / 'found.json'}", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout, json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_two_kills_one_in_writing(tmp_path):
    output, found = drill(tmp_path, "--kills=2", "--kills_in_writing=1", "--corruptions=0", "--stops=")
    assert found["passed"] and found["kills"]["kills"] >= 2 and found["kills"]["in writing"] >= 1
    assert "bit by bit as the undisturbed run" in output and output.endswith("passed\n")


@pytest.mark.slow
def test_all_parts(tmp_path):
    _, found = drill(tmp_path, "--kills=6", "--kills_in_writing=3", "--corruptions=40", "--stops=1,2")
    assert found["passed"] and [stop["processes"] for stop in found["stops"]] == [1, 2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    tiny_checkpoint.write(folder, tiny.get_config(), 5, 10)
    return folder


def test_every_kind_of_damage_is_noticed_or_harmless(workdir, tmp_path):
    outcomes = corruptions(workdir, tmp_path / "scratch", 3 * len(KINDS), seed=1)
    assert [outcome for outcome in outcomes if not outcome.good] == []
    assert {outcome.kind for outcome in outcomes} == KINDS.keys()
    assert sum(outcome.result == "detected" for outcome in outcomes) > len(KINDS)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
def test_without_checksums_the_drill_would_fail(workdir, tmp_path, monkeypatch):
    """What it judges by is what comes out, not what the checksums say."""
    monkeypatch.setattr(damage, "KINDS", {"64 bits flipped": KINDS["64 bits flipped"]})
    monkeypatch.setattr("soda_jax.workdir.checksums.damage", lambda *_: None)
    outcomes = corruptions(workdir, tmp_path / "scratch", 24, seed=2)  # orbax names files at random, and few hits count
    assert any(not outcome.good for outcome in outcomes)


def test_a_writing_is_told_from_what_an_earlier_kill_left(tmp_path):
    left, new = (tmp_path / "checkpoints" / f"{step}.orbax-checkpoint-tmp" / "ema" for step in (5, 10))
    left.mkdir(parents=True)
    (left / "part").touch()
    since = (left / "part").stat().st_mtime + 0.01
    assert being_written(tmp_path, since - 1) and not being_written(tmp_path, since)
    new.mkdir(parents=True)
    assert not being_written(tmp_path, since)
    (new / "part").touch()
    os.utime(new / "part", (since + 1, since + 1))
    assert being_written(tmp_path, since)


def test_outcomes():
    assert Outcome("", "", "detected").good and Outcome("", "", "harmless").good
    assert not Outcome("", "", "silently wrong: x").good


def test_arrays_are_compared_by_their_bits():
    assert same_bits(np.float32([np.nan, 0.0]), np.float32([np.nan, 0.0]))
    assert not same_bits(np.float32([0.0]), np.float32([-0.0]))
    assert not same_bits(np.float32([0.0]), np.float64([0.0]))
