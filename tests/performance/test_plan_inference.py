"""The plan of encoding and sampling, on simulated devices."""

import json

import numpy as np
import pytest

from soda_jax.performance import plan_inference
from soda_jax.performance.traffic import Share
from tests import tiny


@pytest.mark.parametrize("make", [tiny.get_config, pytest.param(tiny.posed_config, marks=pytest.mark.slow)])
def test_each_device_has_its_part_of_both(tmp_path, capsys, make):
    config = make(eval__batch_size=8, sampling__batch_size=4, sampling__num_steps=3)
    path = tmp_path / "run" / "plan_inference.json"
    calls = plan_inference.plan_inference(config, [1, 2], (), str(path))
    walk = "sample, 3 steps, guided"
    found = [(call.place, call.name, call.images) for call in calls]
    assert found == [("1", "encode", 8), ("1", walk, 4), ("2", "encode", 4), ("2", walk, 2)]
    one, two = calls[:2], calls[2:]
    for whole, half in zip(one, two, strict=True):
        np.testing.assert_allclose(half.flops, whole.flops / 2)
        assert 0 < half.temporaries and half.arguments < whole.arguments  # of the batch; the weights are on both
        assert half.total >= half.arguments + half.temporaries
    assert json.loads(path.read_text())[0]["name"] == "encode"
    assert walk in capsys.readouterr().out


def test_a_call_of_a_chip_has_its_roofline():
    moved = (Share("norms", 3, 4_000_000, 0), Share("attention", 4, 29_500_000, 0))
    call = plan_inference.Call("encode", "h100", "NVIDIA H100 80GB HBM3", 64, 0, 0, 0, 98.94e9, moved, 1.0)
    # 33.5 MB at 3.35 TB/s take 0.01 ms, 98.94 GFLOPs at 989.4 TFLOP/s 0.1 ms.
    *_, kernels, gigabytes, at_least, in_turn, rate = plan_inference._row(call)
    assert (kernels, gigabytes, at_least, in_turn) == ("7", "0.03", "0.1", "0.1")
    assert rate == "581,818 to 640,000"


def test_a_model_without_a_latent_only_samples(capsys):
    config = tiny.get_config(model__family="uncond", eval__batch_size=8, sampling__batch_size=4, sampling__num_steps=3)
    (call,) = plan_inference.plan_inference(config, [1])
    assert call.name == "sample, 3 steps" and "sample" in capsys.readouterr().out
