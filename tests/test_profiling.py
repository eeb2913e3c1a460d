"""Traces of a run's steps, and the compiler options of training."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax import chips, compiler
from soda_jax.profiling import WARM_UP, StepTrace, region


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


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_training_options_change_the_program_and_not_the_gradient():
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 8, 8, 16), (3, 3, 16, 16)))

    def gradients(options):
        square = jax.grad(lambda x, kernel: jnp.square(convolution(x, kernel)).sum(), (0, 1))
        return jax.jit(square, compiler_options=options).lower(x, kernel).compile()

    chosen, default = gradients(compiler.training_options("cpu")), gradients(None)
    for mine, theirs in zip(chosen(x, kernel), default(x, kernel), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)
    if "ynn_fusion" in default.as_text():  # what this XLA would do by itself
        assert "ynn_fusion" not in chosen.as_text()


def test_an_unknown_option_is_left_out(monkeypatch):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    monkeypatch.setattr(compiler.jax, "jit", refuse)
    assert compiler.training_options.__wrapped__("cpu") is None


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_other_platforms_keep_their_defaults(platform):
    assert compiler.training_options(platform) is None


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
