"""launch/slurm_study.sh, with stand-ins for Slurm and Python."""

import re
import signal

import pytest

from tests.launch.stand_ins import LAUNCH, wait_for

FLAGS = ("--study=modulation", "--workdir=/r", "--only=w/o layer mask")


@pytest.mark.parametrize(("ends", "code", "requeued"), [(0, 0, False), (1, 1, False), (143, 0, True)])
def test_a_stopped_task_is_queued_again(stand, ends, code, requeued):
    stand = stand("python", "srun", "scontrol")
    stand.does(srun=f"exit {ends}")
    found = stand.run("slurm_study.sh", *FLAGS, SLURM_JOB_ID="11", SLURM_CPUS_PER_TASK="8")
    assert found[0] == code
    (srun,) = [call for call in stand.calls if call[0] == "srun"]
    assert srun[-6:] == ["python", "-m", "soda_jax.tools.study", *FLAGS]
    assert (["scontrol", "requeue", "11"] in stand.calls) is requeued


def test_it_outlives_the_signal_that_makes_its_runs_save(stand):
    stand = stand("python", "srun", "scontrol")
    stand.does(srun="touch $FOLDER/up; sleep 1; touch $FOLDER/saved; exit 143")
    process = stand.start("slurm_study.sh", *FLAGS, SLURM_JOB_ID="11")
    wait_for((stand.folder / "up").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (stand.folder / "saved").exists() and ["scontrol", "requeue", "11"] in stand.calls


def test_it_needs_a_workdir_and_asks_for_a_signal_before_the_end(stand):
    stand = stand("python", "srun", "scontrol")
    code, _, errors = stand.run("slurm_study.sh", "--study=modulation")
    assert code == 2 and "usage: sbatch launch/slurm_study.sh" in errors
    options = dict(
        re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", (LAUNCH / "slurm_study.sh").read_text(), re.MULTILINE)
    )
    assert options["signal"].startswith("TERM@") and "requeue" in options and "array" in options
