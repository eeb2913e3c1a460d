"""The tiny config's step, compiled for chips that are not here: its kernels and traffic stay what they were."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from soda_jax.performance import topologies

ROOT = pathlib.Path(__file__).parents[2]
# (kernels of a step, bytes of a chip's memory that a step moves, by the chip's examples). Whoever makes a step leaner
# writes the new ones here: `python -m soda_jax.main --mode=plan` with the arguments below prints both.
RECORDED = {"h100": (698, 7_151_000), "v5e:2x2": (3_268, 4_634_000)}
MARGIN = 1.25
# What shapes a program elsewhere in the tests, and must not here.
OF_TESTS = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "platform"),
    [("h100", "gpu"), ("v5e:2x2", "tpu")],
)
def test_kernels_and_traffic(tmp_path, name, platform):
    if (reason := topologies.missing(platform)) is not None:
        pytest.skip(f"{reason}")
    command = [sys.executable, "-m", "soda_jax.main", "--mode=plan", f"--workdir={tmp_path}/run"]
    command += [f"--config=tests/tiny_config.py:{tmp_path}", "--config.model.dtype=bfloat16"]
    done = subprocess.run(
        [*command, f"--plan_topology={name}"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key not in OF_TESTS},
        text=True,
        capture_output=True,
        timeout=1200,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "A step by the roofline" in done.stdout and "convolutions, backward" in done.stdout
    (step,) = json.loads((tmp_path / "run" / "plan.json").read_text())["steps"]
    kernels = sum(share["kernels"] for share in step["traffic"])
    moved = sum(share["moved"] for share in step["traffic"]) / step["microbatch"]
    recorded_kernels, recorded_moved = RECORDED[name]
    assert kernels <= MARGIN * recorded_kernels and moved <= MARGIN * recorded_moved, (kernels, moved)
