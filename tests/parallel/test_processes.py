"""What the processes agree on, and devices that are not there."""

import os
import subprocess
import sys

import jax
import pytest

from soda_jax.parallel.processes import check_platform, decided_by_first
from soda_jax.parallel.sharding import make_mesh


def test_the_first_process_decides():
    assert decided_by_first(lambda: 3) == 3 and decided_by_first(lambda: None) is None


@pytest.mark.parametrize(
    ("error", "reason"), [(AssertionError(), "here; install"), (RuntimeError("no\nGPU"), r"here \(no GPU\); install")]
)
def test_devices_that_are_not_there(monkeypatch, error, reason):
    def devices(*_):
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    for ask in (check_platform, make_mesh, lambda: decided_by_first(lambda: 3)):
        with pytest.raises(ValueError, match=f"JAX_PLATFORMS=.*: JAX finds no such devices {reason}"):
            ask()


@pytest.mark.parametrize(
    "command",
    [
        ("soda_jax.main", "--config=configs/quickstart.py", "--workdir={folder}/run"),
        ("soda_jax.main", "--config=configs/quickstart.py", "--workdir={folder}/run", "--mode=evaluate"),
        ("soda_jax.tools.describe", "--config=configs/quickstart.py"),
        ("soda_jax.tools.benchmark", "--config=configs/quickstart.py", "--only=train"),
    ],
)
def test_command_lines_say_so(tmp_path, command):
    environment = os.environ | {"JAX_PLATFORMS": "abacus", "PYTHONPATH": os.getcwd()}
    arguments = [part.format(folder=tmp_path) for part in command]
    ended = subprocess.run([sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "error: JAX_PLATFORMS=abacus: JAX finds no such devices here" in ended.stderr
