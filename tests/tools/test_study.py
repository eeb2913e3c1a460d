"""The command `tools.study`, with a stand-in for what it starts."""

import functools
import json

import pytest

from soda_jax.studies import planning
from soda_jax.studies.running import Runner
from soda_jax.tools import study
from tests.studies import made


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command on the made study; returns (exit code or message, what it printed)."""
    file = tmp_path / "mine.py"
    file.write_text("from tests.studies import made\n\ndef get_study():\n    return made.STUDY\n")
    monkeypatch.setenv("STAND_IN_CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(study, "Runner", functools.partial(Runner, program=made.PROGRAM))
    monkeypatch.setattr(study.planning, "measure", functools.partial(planning.measure, program=made.PROGRAM))
    monkeypatch.setattr(study, "_on_signals", lambda stop: None)
    counted = {"SODA": 2_000_000, "w/o scale": 1_900_000}
    monkeypatch.setattr(study.folder.fairness, "parameters", lambda config: counted["SODA"])

    def run(*flags, name=None):
        with pytest.raises(SystemExit) as end:
            study.main([f"--study={name or file}", f"--workdir={tmp_path / 'study'}", *flags])
        captured = capsys.readouterr()
        return end.value.code, captured.out + captured.err

    return run


def test_it_runs_resumes_and_writes_the_page(tmp_path, command):
    code, text = command("--only=SODA,w_o_scale", "--seeds=1")
    assert code == 0 and "2 runs done" in text and "about" in text
    code, text = command("--jobs=2")
    assert code == 0 and "2 of 6 runs are done already" in text and "6 runs done" in text
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [run["done"] for run in record["runs"]] == [True] * 6 and record["rows"][2]["parameters"] == 2_000_000
    assert len(record["digest"]) == 64 and (tmp_path / "study" / "study.html").exists()
    (tmp_path / "study" / "study.md").unlink()
    assert command("--page")[0] == 0 and (tmp_path / "study" / "study.md").exists()


def test_a_row_that_fails_is_named_by_the_exit_code(command, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS", "w_o_scale")
    code, text = command("--seeds=1")
    assert code == 1 and "FAILED: w/o scale, seed 0" in text and "2 runs done" in text


def test_a_changed_field_is_refused_until_it_is_told_to_discard(command):
    assert command("--seeds=1", "--only=SODA")[0] == 0
    changed = "--config.optim.learning_rate=0.25"
    code, text = command("--seeds=1", changed)
    assert "1 of 3 runs" in code and f"SODA, seed 0: its training (now has {changed})" in code
    code, text = command("--seeds=1", changed, "--discard")
    assert code == 0 and "SODA, seed 0: removed all of it" in text and "3 runs done" in text


def test_plan_trains_nothing(tmp_path, command):
    code, text = command("--plan", "--plan_steps=8")
    assert code == 0 and "6 runs, " in text and "GiB of disk" in text
    assert (tmp_path / "study" / "plan.json").exists() and not (tmp_path / "study" / "SODA").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size=huge"], "the study made has no such size; use cpu"),
        (["--only=SODE"], "no row is called SODE; they are SODA, w/o scale, one step"),
        (["--jobs=0"], "--jobs=0: give a positive number"),
        (["--seed=3"], "unexpected arguments: --seed=3"),
        (["--config.train.num_stepz=3"], "num_step"),
        (["--config.data.root"], "unexpected arguments"),
        (["--checkpoint=x"], "trains several models"),
    ],
)
def test_wrong_flags_end_with_one_line(command, flags, message):
    code, text = command(*flags)
    assert message in f"{code}{text}"


def test_an_unknown_study_lists_ours(command):
    code, _ = command(name="modulations")
    assert "give a file, or one of modulation, disentanglement" in code and "did you mean modulation" in code
