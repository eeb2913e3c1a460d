import pytest

from soda_jax.tools import finished
from soda_jax.workdir.run_record import NO_IMPROVEMENT, RunRecord, ask_for_length
from tests import tiny


def test_a_run_is_finished_at_its_last_step_only(tmp_path):
    workdir = str(tmp_path)
    assert not finished.is_finished(workdir)  # never started
    record = RunRecord(workdir, tiny.get_config(), 0)
    record.update(5)  # as after a save, or after a signal
    assert not finished.is_finished(workdir)
    arguments = [f"--workdir={workdir}", "--wait_seconds=0"]
    with pytest.raises(SystemExit) as ended:
        finished.main(arguments)
    assert ended.value.code == 1
    record.finish(10)
    assert finished.is_finished(workdir)
    assert finished.main(arguments) is None


@pytest.mark.parametrize(("steps", "expected"), [(10, True), (5, True), (11, False)])
def test_a_run_that_is_asked_for_more_steps_is_not_finished(tmp_path, steps, expected):
    """From the moment on that it is started again, however early it is stopped."""
    workdir = str(tmp_path)
    ask_for_length(workdir, tiny.get_config().train)  # a first start has nothing to take back
    assert not (tmp_path / "run.json").exists()
    RunRecord(workdir, tiny.get_config(train__num_steps=10), 0).finish(10)
    ask_for_length(workdir, tiny.get_config(train__num_steps=steps).train)
    assert finished.is_finished(workdir) is expected
    again = RunRecord(workdir, tiny.get_config(train__num_steps=steps), 10)
    assert not finished.is_finished(workdir)
    again.finish(max(10, steps))
    assert finished.is_finished(workdir)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, True),
        ({"train__patience": 5}, True),
        ({"train__patience": 21}, False),
        ({"train__patience": 0}, False),
        ({"train__monitor": "probe/mean"}, False),
        ({"train__num_steps": 40}, True),  # which it reached
        ({"train__num_steps": 40, "train__patience": 21}, True),
    ],
)
def test_a_run_that_did_not_improve_is_finished_until_it_is_to_wait_longer(tmp_path, asked, expected):
    workdir, settings = str(tmp_path), {"train__num_steps": 100, "train__monitor": "eval/loss", "train__patience": 20}
    RunRecord(workdir, tiny.get_config(**settings), 0).finish(40, NO_IMPROVEMENT)
    assert finished.is_finished(workdir)
    ask_for_length(workdir, tiny.get_config(**(settings | asked)).train)
    assert finished.is_finished(workdir) is expected


def test_a_damaged_record_is_no_end(tmp_path):
    (tmp_path / "run.json").write_text('{"sessions": [{"finished": tr')
    assert not finished.is_finished(str(tmp_path))
