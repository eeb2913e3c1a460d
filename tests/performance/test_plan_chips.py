"""`--mode=plan` for real chips: its figures and tables, without their compilers."""

import dataclasses
import json

import numpy as np
import pytest

from soda_jax.config import ConfigError
from soda_jax.parallel import sharding
from soda_jax.performance import plan, topologies
from soda_jax.performance.traffic import Share
from tests import tiny

GIB = 2**30
H100, V5E = "NVIDIA H100 80GB HBM3", "TPU v5 lite"
TRAFFIC = {
    H100: (Share("convolutions, forward", 90, 67 * 10**9, 0), Share("norms", 700, 33_500_000, 0)),
    V5E: (Share("norms", 20, 81_900_000, 40_950_000),),
}


def config(**overrides):
    return tiny.get_config(**({"data__name": "imagenet2012"} | overrides))


@pytest.fixture
def planned(monkeypatch, tmp_path, capsys):
    """plan(names, **overrides): (figures, what was printed, batches measured); four examples take a GiB."""
    kinds = {"h100:2": (2, H100), "h100": (1, H100), "v5e:2x2": (4, V5E)}
    current, batches = [], []

    def devices(name):
        current.append(kinds[name])
        return name

    def make_mesh(name, _):
        return dataclasses.make_dataclass("Mesh", ["size", "name"])(kinds[name][0], name)

    def measure(config, mesh, quickly):
        count, chip = kinds[mesh.name]
        batches.append(config.train.batch_size)
        microbatch = config.train.batch_size // (count * config.train.grad_accum_steps)
        total = GIB + microbatch * GIB // 4
        return plan.Footprint(
            count, microbatch, GIB, total, 0, 0.0, (), 9.0, chip=chip, temporaries=total - GIB, traffic=TRAFFIC[chip]
        )

    monkeypatch.setattr(topologies, "devices", devices)
    monkeypatch.setattr(sharding, "make_mesh", make_mesh)
    monkeypatch.setattr(plan, "measure", measure)
    # What the model costs is asked on the devices that are here.
    monkeypatch.setattr(plan, "counted_model", lambda _: (None, {"params": {"w": np.zeros(10**6)}}))
    monkeypatch.setattr(plan, "train_flops", lambda *_: 989.4e9)

    def run(names, **overrides):
        path = tmp_path / "plan.json"
        figures = plan.plan(config(**overrides), [], names, str(path))
        assert json.loads(path.read_text()) == json.loads(json.dumps(figures))
        return figures, capsys.readouterr().out, batches

    return run


def row(report, start):
    (line,) = [line for line in report.splitlines() if line.strip().startswith(start)]
    return line.split()


@pytest.mark.parametrize(("platform", "little"), [("tpu", True), ("cuda", False), ("cpu", False)])
def test_little_effort_is_for_tpus(platform, little):
    assert ("exec_time_optimization_effort" in (plan.compiler_options(platform, quickly=True) or {})) == little
    assert plan.compiler_options(platform, quickly=False) == plan.compiler_options(platform, quickly=platform == "cpu")


def test_chips_have_their_own_memory_and_line(planned):
    figures, report, batches = planned(["h100:2", "v5e:2x2"], train__batch_size=4096)
    assert batches == [4096, 4096, 2048, 2048]  # a second point for each chip
    assert figures["lines"].keys() == {H100, V5E}
    assert figures["lines"][V5E] == {"fixed_bytes": GIB, "bytes_per_example": GIB / 4, "is_bound": False}
    # (0.9 * 80 - 1) * 4 and (0.9 * 16 - 1) * 4 examples, of 2048 and 1024 a device.
    assert figures["fits"] == {
        "h100:2": {"80": {"microbatch": 284, "grad_accum_steps": 8}},
        "v5e:2x2": {"16": {"microbatch": 53, "grad_accum_steps": 32}},
    }
    assert "284, 8 steps" in report and "53, 32 steps" in report
    assert f"A step's peak on {H100} = 1.00 GiB + 256.0 MiB an example" in report
    assert [step["place"] for step in figures["steps"]] == ["h100:2", "v5e:2x2"]


def test_one_chip_in_two_numbers_needs_no_third_step(planned):
    figures, _, batches = planned(["h100", "h100:2"])
    assert batches == [16, 16] and figures["lines"][H100]["bytes_per_example"] == GIB / 4
    assert figures["fits"]["h100"] == {"80": {"microbatch": 16, "grad_accum_steps": 1}}


def test_the_roofline(planned):
    figures, report, _ = planned(["h100", "v5e:2x2"], train__batch_size=4000)
    # 67 GB at 3350 GB/s; 4000 examples of a thousandth of the peak's second.
    expected = {"traffic": 0.02001, "arithmetic": 4.0, "at_least": 4.0, "in_turn": 4.02001}
    assert figures["rooflines"]["h100"] == pytest.approx(expected)
    assert figures["rooflines"]["v5e:2x2"]["traffic"] == pytest.approx(1e-4)
    rows = [line.split() for line in report.splitlines() if line.strip().startswith("h100 ")]
    assert ["h100", "20.0", "4,000.0", "4,000.0", "4,020.0", "995", "to", "1,000"] in rows
    assert all(part in report for part in ("launches of kernels", "cuDNN", "exchanges between chips", "the host"))


def test_traffic_by_source(planned):
    _, report, _ = planned(["h100", "v5e:2x2"])
    assert row(report, "convolutions, forward") == ["convolutions,", "forward", "67.0", "(90)"]
    assert row(report, "norms") == ["norms", "0.034", "(700)", "0.082", "(20)"]
    assert row(report, "all ") == ["all", "67.0", "(790)", "0.082", "(20)"]
    assert row(report, "of it padding")[-2:] == ["0%", "50%"]
    assert "kernels a step" in report and "temporaries GiB" in report


def test_a_refused_step_has_no_roofline(planned, monkeypatch):
    refused = plan.Footprint(4, 4, GIB, 43 * GIB, 0, None, (), 9.0, "v5e:2x2", V5E)
    assert plan.roofline(refused.chip, refused.traffic, 1e12) is None
    figures = {
        "steps": [dataclasses.asdict(refused)],
        "lines": {V5E: {"fixed_bytes": 0.0, "bytes_per_example": 11 * GIB, "is_bound": True}},
        "fits": {"v5e:2x2": {"16": {"microbatch": 1, "grad_accum_steps": 4}}},
        "rooflines": {},
        "flops_per_example": 1e12,
        "parameters": 10**6,
    }
    report = plan.report(config(), figures)
    assert report.count("unknown") == 3 and "43.00" in report and "roofline" not in report
    assert "at least 1, 4 steps" in report


def test_a_batch_that_does_not_divide_is_refused_before_anything_compiles(planned):
    with pytest.raises(ConfigError, match="config.train.batch_size=18: must be a multiple"):
        planned(["h100", "v5e:2x2"], train__batch_size=18)
