import pytest

from soda_jax.run_record import RunRecord
from soda_jax.tools import finished
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
    RunRecord(workdir, tiny.get_config(), 10)  # started again, for more steps
    assert not finished.is_finished(workdir)


def test_a_damaged_record_is_no_end(tmp_path):
    (tmp_path / "run.json").write_text('{"sessions": [{"finished": tr')
    assert not finished.is_finished(str(tmp_path))
