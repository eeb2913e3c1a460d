"""--plan, with a stand-in for the program."""

import json

import pytest

from soda_jax.studies import planning
from tests.studies import made


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """(costs, failures, runs) of a plan of five steps."""

    def measured(study=made.STUDY):
        monkeypatch.setenv("STAND_IN_CALLS", str(tmp_path / "calls"))
        runs = made.runs(tmp_path, study)
        costs, failed, stopped = planning.measure(tmp_path, runs, steps=8, program=made.PROGRAM, tell=lambda line: None)
        assert not stopped
        return costs, failed, runs

    return measured


def test_time_and_disk_of_a_run_follow_from_a_few_steps(tmp_path, plan):
    costs, failed, runs = plan(made.changed({"train.num_steps": 1000}))
    assert not failed and set(costs) == {"SODA", "w/o scale", "one step"}
    # The stand-in says 60 s and 64 images/s: 2 s of 8 steps of 16 images, and 58 s of start.
    assert costs["SODA"].train == pytest.approx(58 + 1000 * 16 / 64)
    assert costs["one step"].train == 0 and costs["one step"].measure > 0
    assert 2000 <= costs["SODA"].disk < 10_000  # two checkpoints of 1,000 bytes are kept
    assert {seed for _, seed, _ in made.calls(tmp_path)} == {"0"}
    assert not (tmp_path / "plan").exists() and not (tmp_path / "SODA").exists()
    assert planning.expected(tmp_path)["SODA"] == pytest.approx(costs["SODA"].seconds)
    text = planning.table(runs, costs, {"SODA": 2_000_000}, jobs=2)
    assert "2.00M" in text and "6 runs, 0.2 hours, 2 at a time" in text


def test_what_cannot_be_trained_shows_in_the_plan(plan, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS", "w_o_scale")
    costs, failed, runs = plan()
    assert set(failed) == {"w/o scale"} and "failed" in planning.table(runs, costs, {}, 1)


def test_a_damaged_plan_is_none(tmp_path):
    assert planning.expected(tmp_path) == {}
    (tmp_path / planning.FILE).write_text(json.dumps({"rows": [1]}))
    assert planning.expected(tmp_path) == {}
