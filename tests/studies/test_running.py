"""Runs with a stand-in for the program: order, failures, stops, other runners, changed definitions."""

import dataclasses
import json
import os
import threading
import time

import pytest

from soda_jax.cli import available_cores
from soda_jax.studies import folder as folders
from soda_jax.studies.runs import read_marker, write_marker
from soda_jax.workdir.lock import folder_lock
from tests.studies import made

MODES = ["train", "evaluate"]


def test_every_run_is_trained_and_measured_once(tmp_path, monkeypatch):
    _, outcome, runs = made.carried_out(tmp_path, monkeypatch)
    assert sorted(outcome.done) == sorted(run.name for run in runs) and all(run.is_done for run in runs)
    assert not outcome.failed and not outcome.left and not outcome.elsewhere and not outcome.stopped
    found = made.calls(tmp_path)
    assert [mode for row, seed, mode in found if (row, seed) == ("SODA", "0")] == MODES
    assert [mode for row, seed, mode in found if (row, seed) == ("one_step", "1")] == ["evaluate", "sample"]
    linked = tmp_path / "one_step" / "seed1" / "checkpoints"
    assert linked.is_symlink() and linked.resolve() == (tmp_path / "SODA" / "seed1" / "checkpoints").resolve()
    assert read_marker(tmp_path / "SODA" / "seed0")["seconds"]["train"] == 60.0

    _, again, _ = made.carried_out(tmp_path, monkeypatch)
    assert len(again.done) == 6 and made.calls(tmp_path) == found  # finished ones are skipped


def test_a_row_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS", "w_o_scale")
    told = []
    _, outcome, _ = made.carried_out(tmp_path, monkeypatch, tell=told.append)
    assert set(outcome.failed) == {"w/o scale, seed 0", "w/o scale, seed 1"} and len(outcome.done) == 4
    assert any("FAILED" in line and "this row cannot be trained" in line for line in told)
    assert not read_marker(tmp_path / "w_o_scale" / "seed0")["measured_as"]

    monkeypatch.delenv("STAND_IN_FAILS")
    _, outcome, _ = made.carried_out(tmp_path, monkeypatch)  # broken ones are resumed
    assert len(outcome.done) == 6 and not outcome.failed


def test_what_measures_a_checkpoint_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS", "SODA")
    _, outcome, _ = made.carried_out(tmp_path, monkeypatch)
    assert outcome.left == ["one step, seed 0", "one step, seed 1"]


def test_two_runners_share_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_SECONDS", "0.3")
    outcomes = []

    def work():
        outcomes.append(made.carried_out(tmp_path, monkeypatch, only={"SODA", "w/o scale"})[1])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = made.calls(tmp_path)
    assert len(found) == len(set(found)) == 8  # nothing twice
    assert all(outcome.elsewhere or len(outcome.done) == 4 for outcome in outcomes)
    assert all(run.is_done for run in made.runs(tmp_path) if run.source is None)


def test_several_jobs_at_a_time(tmp_path, monkeypatch):
    _, outcome, _ = made.carried_out(tmp_path, monkeypatch, jobs=3, gpus=["0", "1"])
    assert len(outcome.done) == 6 and len(made.calls(tmp_path)) == 12


@pytest.mark.skipif(available_cores() < 2 or not hasattr(os, "sched_setaffinity"), reason="needs two cores to share")
def test_jobs_share_the_cores(tmp_path, monkeypatch):
    mine = os.sched_getaffinity(0)
    monkeypatch.setenv("STAND_IN_CORES", str(tmp_path / "cores"))
    monkeypatch.setenv("STAND_IN_SECONDS", "0.3")
    made.carried_out(tmp_path, monkeypatch, jobs=2)
    assert os.sched_getaffinity(0) == mine
    shares = {tuple(json.loads(line)) for line in (tmp_path / "cores").read_text().splitlines()}
    assert shares == {tuple(sorted(mine)[0::2]), tuple(sorted(mine)[1::2])}


def test_no_core_waits_for_a_job_without_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_CORES", str(tmp_path / "cores"))
    made.carried_out(
        tmp_path, monkeypatch, dataclasses.replace(made.STUDY, rows=made.STUDY.rows[:1], claims=()), jobs=9
    )
    shares = [json.loads(line) for line in (tmp_path / "cores").read_text().splitlines()]
    assert min(map(len, shares)) >= available_cores() // 2  # of two runs


def test_a_run_that_trains_elsewhere_is_left_to_it(tmp_path, monkeypatch):
    """As where a runner was killed, but not the program that it had started."""
    run = made.runs(tmp_path)[0]
    write_marker(run.folder, {"trained_as": run.trained_as, "measured_as": None})
    with folder_lock(str(run.folder)):
        _, outcome, _ = made.carried_out(tmp_path, monkeypatch)
    assert outcome.elsewhere == ["SODA, seed 0"] and "one step, seed 0" in outcome.left


def test_a_stop_ends_the_programs_and_starts_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_SECONDS", "60")
    runner = []

    def tell(line):
        if "training" in line:
            threading.Timer(1.0, lambda: runner[0].stop()).start()

    from soda_jax.studies.running import Runner

    monkeypatch.setenv("STAND_IN_CALLS", str(tmp_path / "calls"))
    runs = made.runs(tmp_path)
    runner.append(Runner(tmp_path, runs, program=made.PROGRAM, tell=tell))
    begin = time.monotonic()
    outcome = runner[0].run()
    assert outcome.stopped and time.monotonic() - begin < 30
    assert sorted(outcome.left) == sorted(run.name for run in runs) and len(made.calls(tmp_path)) <= 1


def test_time_left_follows_what_was_measured(tmp_path, monkeypatch):
    told = []
    made.carried_out(tmp_path, monkeypatch, tell=told.append, expected={"SODA": 7200.0})
    assert "about" in told[0] and "h" in told[0].split("about")[1]
    assert any("done in" in line and "6 of 6" in line for line in told)


def test_a_changed_definition_names_what_no_longer_fits(tmp_path, monkeypatch):
    made.carried_out(tmp_path, monkeypatch)
    other = made.changed({"optim.learning_rate": 0.5})
    with pytest.raises(ValueError, match=r"6 of 6 runs .* no longer fit") as error:
        made.carried_out(tmp_path, monkeypatch, other)
    assert "w/o scale, seed 1: its training (now has --config.optim.learning_rate=0.5)" in str(error.value)
    assert "--discard" in str(error.value)

    measured = made.changed({"eval.probe_epochs": 3})
    with pytest.raises(ValueError, match="its figures, not its training"):
        made.carried_out(tmp_path, monkeypatch, measured)
    before = len(made.calls(tmp_path))
    runs = made.runs(tmp_path, measured)
    removed = folders.open_folder(tmp_path, measured, "cpu", runs, throw_away=True)
    assert len(removed) == 6 and "removed its figures" in removed[0]
    _, outcome, _ = made.carried_out(tmp_path, monkeypatch, measured)
    assert len(outcome.done) == 6
    assert "train" not in [mode for _, _, mode in made.calls(tmp_path)[before:]]  # only measured again


def test_a_longer_row_list_keeps_what_is_there(tmp_path, monkeypatch):
    made.carried_out(tmp_path, monkeypatch)
    more = dataclasses.replace(made.STUDY, rows=(*made.STUDY.rows, made.Row("w/o mask", "w/o layer mask")))
    _, outcome, _ = made.carried_out(tmp_path, monkeypatch, more)
    assert len(outcome.done) == 8 and len(made.calls(tmp_path)) == 16


def test_folders_of_other_studies_and_of_none_are_refused(tmp_path, monkeypatch):
    made.carried_out(tmp_path, monkeypatch)
    renamed = dataclasses.replace(made.STUDY, name="another")
    with pytest.raises(ValueError, match="holds the study made at size cpu; use another folder"):
        made.carried_out(tmp_path, monkeypatch, renamed)
    other = tmp_path / "other"
    (other / "SODA" / "seed0").mkdir(parents=True)
    (other / "SODA" / "seed0" / "notes.txt").touch()
    with pytest.raises(ValueError, match="no study made what lies in"):
        made.carried_out(other, monkeypatch)
    assert (other / "SODA" / "seed0" / "notes.txt").exists()
