"""`--mode=plan`: memory and exchanges of a step that is compiled without data."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from soda_jax import build
from soda_jax.config import ConfigError
from soda_jax.parallel import sharding
from soda_jax.performance import hlo, plan, plan_report, step_benchmark
from tests import tiny


def config(**overrides):
    return tiny.get_config(**({"probe__kind": "label", "data__name": "imagenet2012"} | overrides))


def refuse(message):
    raise jax.errors.JaxRuntimeError(message)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "run" / "plan.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "print", lambda *_, **__: None, raising=False)
        return plan.plan(config(), [2, 8], path=str(path)), path


def test_steps(planned):
    figures, path = planned
    assert json.loads(path.read_text()) == json.loads(json.dumps(figures))
    two, eight = figures["steps"]
    assert (two["devices"], two["microbatch"], eight["devices"], eight["microbatch"]) == (2, 8, 8, 2)
    # Every device holds the whole state, and the rest shrinks with its part of the batch.
    train_step = tiny.train_step(config())
    state = jax.eval_shape(train_step.init, tiny.batch(1))
    sizes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if leaf.ndim)
    probe = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.probe))
    assert two["state"] == eight["state"] > sizes - probe
    assert two["state"] < eight["total"] < two["total"]
    line = figures["lines"]["cpu"]
    np.testing.assert_allclose(line["fixed_bytes"] + 2 * line["bytes_per_example"], eight["total"])
    np.testing.assert_allclose(line["fixed_bytes"] + 8 * line["bytes_per_example"], two["total"])
    assert figures["rooflines"] == {}


def test_gradients_are_exchanged_once(planned):
    """All-reduces carry the model's gradients, and little else: statistics and norms."""
    figures, _ = planned
    for step in figures["steps"]:
        reduced = sum(one["size"] for one in step["collectives"] if one["kind"] == "all-reduce")
        probe_parameters = (16 + 1) * 1000
        expected = 4 * (figures["parameters"] + probe_parameters)
        assert expected <= reduced < 1.2 * expected
        assert step["sent"] >= 2 * (step["devices"] - 1) / step["devices"] * expected


def test_what_fits(planned):
    figures, _ = planned
    two, eight = figures["fits"]["2"], figures["fits"]["8"]
    assert two == {size: {"microbatch": 8, "grad_accum_steps": 1} for size in ("16", "32", "80")}
    assert eight == {size: {"microbatch": 2, "grad_accum_steps": 1} for size in ("16", "32", "80")}
    assert "all 8, 1 step" in plan.report(config(), figures)
    # Of a batch that no chip holds, what the line says.
    line, step = figures["lines"]["cpu"], plan.Footprint(**figures["steps"][0])
    room = (0.9 * 16 * 2**30 - line["fixed_bytes"]) / line["bytes_per_example"]
    assert plan._room(step, 0.9 * 16 * 2**30, line) == room > 8
    assert plan._fitting(config(train__batch_size=2**20), 2, room)["microbatch"] == int(room)


@pytest.mark.parametrize(
    "totals",
    [(3_000_000, 2_800_000), (3_000_000, 3_000_000), (3_000_000, 3_000_500), (1_000_000, 4_000_000), (8_000, 8_100)],
)
def test_a_small_model_yields_no_absurd_figures(totals):
    """More examples took less, or as much, or more than all: what one takes cannot be told, but bounded."""
    steps = [plan.Footprint(2, m, 500, total, 0, 0.0, (), 1.0) for m, total in zip((4, 8), totals, strict=True)]
    figures = plan._figures(config(), steps[:1], steps)
    assert figures["lines"] == {"cpu": {"fixed_bytes": 0, "bytes_per_example": totals[1] / 8, "is_bound": True}}
    assert figures["fits"]["2"] == {size: {"microbatch": 8, "grad_accum_steps": 1} for size in ("16", "32", "80")}
    report = plan.report(config(), figures)
    assert "all 8, 1 step" in report and "cannot be told" in report
    assert "-" not in report.split("A step's peak")[1][:30]


def test_a_small_model_of_a_large_batch():
    """So many examples take no more than that many of the measured steps, which each fit their share."""
    steps = [plan.Footprint(2, m, 500, 3 * 2**30, 0, 0.0, (), 1.0) for m in (4, 8)]
    fixed, per_example, is_bound = plan._line(steps)
    line = {"fixed_bytes": fixed, "bytes_per_example": per_example}
    found = plan._fitting(config(train__batch_size=4096), 2, plan._room(steps[0], 0.9 * 16 * 2**30, line))
    assert found == {"microbatch": int(0.9 * 16 / (3 / 8)), "grad_accum_steps": 64}
    assert is_bound and plan_report._fit_text(found, is_bound, 2048) == "at least 38, 64 steps"


def test_a_single_microbatch_bounds_too():
    step = plan.Footprint(1, 8, 500, 16 * 2**30, 0, 0.0, (), 1.0)
    figures = plan._figures(config(), [step], [step])
    assert figures["lines"]["cpu"]["is_bound"] and figures["fits"]["1"]["16"]["microbatch"] == 7
    assert "may not fit" in plan.report(
        config(train__batch_size=10**6 + 3),
        figures | {"fits": {"1": {str(chip): {"microbatch": 0, "grad_accum_steps": None} for chip in (16, 32, 80)}}},
    )


def test_fewest_microbatches():
    of_4096 = config(train__batch_size=4096)
    assert plan._fitting(of_4096, 8, 512.0) == {"microbatch": 512, "grad_accum_steps": 1}
    assert plan._fitting(of_4096, 8, 100.3) == {"microbatch": 100, "grad_accum_steps": 8}
    assert plan._fitting(of_4096, 8, 15_400_425_369.0) == {"microbatch": 512, "grad_accum_steps": 1}
    assert plan._fitting(of_4096, 8, 0.5) == {"microbatch": 0, "grad_accum_steps": None}
    assert plan._fitting(of_4096, 8, -3.0) == {"microbatch": 0, "grad_accum_steps": None}


def test_flops_are_those_of_the_benchmark_whatever_is_computed_again(planned):
    two = plan.Footprint(**planned[0]["steps"][0])
    again = config(model__encoder__remat="blocks", model__denoiser__remat="blocks")
    found = plan._figures(again, [two], [two])
    assert found["flops_per_example"] == planned[0]["flops_per_example"] == step_benchmark._model_flops(again)["train"]
    assert found["parameters"] == planned[0]["parameters"]


def test_steps_of_fewer_sources_are_told_of(planned):
    two = plan.Footprint(**planned[0]["steps"][0])
    varied = config(data__num_sources=3, data__min_sources=1)
    figures = plan._figures(varied, [two], [two])
    most, mean = figures["flops_per_example"], figures["mean_flops_per_example"]
    report = " ".join(plan.report(varied, figures).split())
    assert "a step that shows 3 sources, the most. Steps show 1 to 3" in report
    assert f"{1 - mean / most:.0%} less" in report and mean < most
    assert "sources" not in plan.report(config(), planned[0])


def test_evaluations_count_where_they_gather_what_is_split(monkeypatch, planned):
    assert all(step["evaluation"] == 0 for step in planned[0]["steps"])
    assert "An evaluation in training" not in plan.report(config(), planned[0])
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 8)
    monkeypatch.setattr(plan, "print", lambda *_, **__: None, raising=False)
    # The step is not what is asked about here, nor is its compiler's time.
    lowered = type("Lowered", (), {"compile": lambda *_, **__: refuse("Used 0.5K of 0.1K hbm")})()
    monkeypatch.setattr(plan.jax, "jit", lambda *_, **__: type("Jit", (), {"lower": lambda *_: lowered})())
    settings = config(train__fsdp=2)
    split = plan.measure(settings, sharding.make_mesh(jax.devices()[:4], 2))
    monkeypatch.undo()
    example = plan.abstract_batch(settings, sharding.make_mesh(jax.devices()[:1]), 1)
    state = jax.eval_shape(build.train_step(settings, plan.probe_labels(settings)).init, example)
    whole = (state.ema_params, state.ema_batch_stats, state.probe)
    gathered = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(whole))
    assert split.state < planned[0]["steps"][0]["state"] and split.evaluation == split.state + gathered
    assert split.total == 512 and split.peak == split.evaluation

    # What fits a step fits only if an evaluation does too; the line through the steps stays theirs.
    large = dataclasses.replace(split, total=2**30, evaluation=20 * 2**30)
    samples = [large, dataclasses.replace(large, microbatch=2 * large.microbatch, total=2**31)]
    figures = plan._figures(settings, [large], samples)
    assert figures["lines"]["cpu"]["fixed_bytes"] == 0
    fits = figures["fits"]["4"]
    assert fits["16"] == {"microbatch": 0, "grad_accum_steps": None} and fits["32"]["grad_accum_steps"] == 1
    report = plan.report(settings, figures)
    assert "An evaluation in training" in report and "20.00 GiB on 4 devices" in report
    assert "20.00" in next(line for line in report.splitlines() if line.lstrip().startswith("4 "))


@pytest.mark.slow
def test_a_split_state(monkeypatch, planned):
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 8)
    split = plan.measure(config(train__fsdp=4), sharding.make_mesh(jax.devices()[:4], 4))
    whole = planned[0]["steps"][0]["state"]
    assert whole / 4 < split.state < whole / 3
    kinds = {one.kind for one in split.collectives}
    assert "all-gather" in kinds and {one.group for one in split.collectives} == {4}


def test_one_number_of_devices_is_measured_twice(monkeypatch, planned, capsys):
    """Once more at half the microbatch: two points make the line."""
    eight = planned[0]["steps"][1]
    exchanged = tuple(hlo.Collective(**one) for one in eight["collectives"])

    def measure(config, mesh, quickly):
        microbatch = config.train.batch_size // mesh.size
        fields = {"devices": mesh.size, "microbatch": microbatch, "total": 5000 + 70 * microbatch}
        return plan.Footprint(**(eight | {"collectives": exchanged} | fields))

    monkeypatch.setattr(plan, "measure", measure)
    figures = plan.plan(config(train__batch_size=32), [4])
    assert figures["lines"]["cpu"] == {"fixed_bytes": 5000, "bytes_per_example": 70, "is_bound": False}
    assert [step["microbatch"] for step in figures["steps"]] == [8]
    report = capsys.readouterr().out
    assert "batch 32 in 1 microbatches" in report and "all-reduce" in report and "80 GiB" in report


def test_poses_have_their_shapes():
    posed = tiny.posed_config(data__name="shapenet")
    batch = plan.abstract_batch(posed, sharding.make_mesh(jax.devices()[:1]), 4)
    expected = tiny.posed_batch(4)
    for key, value in batch.items():
        if key not in ("label", "attributes", "factors"):
            assert (value.shape, value.dtype) == (expected[key].shape, expected[key].dtype), key


def test_devices_that_are_not_there():
    with pytest.raises(ValueError, match=r"--plan_devices=\[9\]: must lie in 1..8"):
        plan.plan(config(), [9])
    with pytest.raises(ConfigError, match="config.train.batch_size=12: must be a multiple"):
        plan.plan(config(train__batch_size=12), [8])


def test_a_step_that_exceeds_the_chip(monkeypatch, planned):
    """A TPU's compiler refuses it, and says what it would take."""
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 43.51G of 15.75G hbm. Exceeded ..."
    refuse = jax.errors.JaxRuntimeError(message)

    class Lowered:
        def compile(self, **_):
            raise refuse

    monkeypatch.setattr(plan.jax, "jit", lambda *_, **__: type("Jit", (), {"lower": lambda *_: Lowered()})())
    found = plan.measure(config(), sharding.make_mesh(jax.devices()[:2]))
    assert (found.total, found.sent, found.collectives) == (int(43.51 * 2**30), None, ())
    figures = planned[0] | {"steps": [dataclasses.asdict(found)]}
    assert "unknown" in plan.report(config(), figures) and "43.51" in plan.report(config(), figures)
    refuse = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        plan.measure(config(), sharding.make_mesh(jax.devices()[:2]))
