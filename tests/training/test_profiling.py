"""Traces of a run's steps, and the compiler options of training."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from soda_jax.performance import chips
from soda_jax.training.profiling import WARM_UP, StepTrace, region


def run(trace, start, stop):
    step_fn = jax.jit(lambda x: jnp.sin(x) + 1)
    x = jnp.ones(4)
    for step in range(start, stop):
        trace.before_step(step, [x])
        with trace.step(step):
            with region("input"):
                x = x * 2
            with region("dispatch"):
                x = step_fn(x)
    trace.close()


def events(workdir):
    (path,) = workdir.glob("profile/**/perfetto_trace.json.gz")
    with gzip.open(path) as file:
        return json.load(file)["traceEvents"]


def test_the_trace_holds_the_steps_and_their_regions(tmp_path, capsys):
    run(StepTrace(str(tmp_path), 7, 3), 7, 7 + WARM_UP + 6)
    named = [event for event in events(tmp_path) if event.get("name") in ("input", "dispatch", "train")]
    assert [event["name"] for event in named].count("input") == 3
    assert [event["name"] for event in named].count("dispatch") == 3
    numbers = {int(event["args"]["step_num"]) for event in named if event["name"] == "train"}
    assert numbers == {7 + WARM_UP, 8 + WARM_UP, 9 + WARM_UP}
    assert str(tmp_path / "profile") in capsys.readouterr().out


def test_a_run_that_ends_in_the_trace_keeps_it(tmp_path):
    run(StepTrace(str(tmp_path), 0, 100), 0, WARM_UP + 2)
    assert any(event.get("name") == "dispatch" for event in events(tmp_path))


@pytest.mark.parametrize(("steps", "active"), [(0, True), (3, False)])
def test_without_a_trace_nothing_is_written(tmp_path, steps, active):
    run(StepTrace(str(tmp_path), 0, steps, active), 0, WARM_UP + 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-16GB", 125),
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_peaks_of_known_chips(kind, teraflops):
    assert chips.peak_flops(kind) == teraflops * 1e12


def test_a_cpus_peak_is_unknown():
    assert chips.peak_flops("cpu") is None
