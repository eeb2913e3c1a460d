"""The benchmark's parts on tiny models: what they measure, not how fast this machine is."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax import build
from soda_jax.config import ConfigError
from soda_jax.configs import cifar10
from soda_jax.models.pose import Camera
from soda_jax.parallel import sharding
from soda_jax.performance import step_benchmark, torch_benchmark
from soda_jax.performance.plan import probe_labels
from soda_jax.performance.step_benchmark import Bench, Row
from soda_jax.performance.timing import Timing, in_turn
from soda_jax.tools import benchmark
from tests import tiny

OPTIONS = SimpleNamespace(repeats=2, seconds=0.0, batch_sizes=[], sampling_steps=0)


def config(**overrides):
    return tiny.get_config(train__batch_size=8, eval__batch_size=8, **overrides)


@pytest.fixture(scope="module")
def bench():
    return Bench(config(), repeats=2, seconds=0.0)


@pytest.mark.slow
def test_training_in_the_table_and_as_data(capsys):
    found = benchmark.train(OPTIONS, config())
    (row,) = found["rows"]
    assert row.batch == 8 and row.devices == jax.device_count() and row.compile_seconds > 0
    assert row.rate == pytest.approx(8 / row.timing.median)
    assert len(row.timing.values) == 2 and row.flops > 0 and row.utilisation is None
    assert found["extras"] < 1
    printed = capsys.readouterr().out
    assert "train, float32" in printed and "utilisation" not in printed and "gradient norms: " in printed
    data = json.loads(json.dumps(benchmark._as_data(found)))
    assert data["rows"][0]["rate"] == row.rate and len(data["rows"][0]["timing"]) == 2


def test_batch_sizes_that_do_not_fit_are_passed_over(monkeypatch, capsys):
    def measure(bench, size, extras):
        if size > 16:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return {"row": Row("train", size, Timing((0.5,)), 1.0, 1e9, 1, None, None)}

    monkeypatch.setattr(step_benchmark, "train", measure)
    options = SimpleNamespace(**(vars(OPTIONS) | {"batch_sizes": ["8", "16", "32"]}))
    assert [row.batch for row in benchmark.train(options, config())["rows"]] == [8, 16]
    assert "batch 32: out of memory" in capsys.readouterr().out


@pytest.mark.slow
def test_the_bare_step_trains_all_the_same(bench):
    """Its third loss is the third loss of training."""
    train_step = build.train_step(bench.config, probe_labels(bench.config), bench.mesh)
    host = step_benchmark.synthetic_batch(bench.config, bench.mesh, 8)
    batch = sharding.put_whole_batch(host, bench.mesh)
    bare = step_benchmark.stepper(train_step, bench.mesh, batch, bare=True)
    state = step_benchmark.initial_state(train_step, bench.mesh, batch)
    step = train_step.jit_step(state, bench.mesh)
    for _ in range(3):
        state, metrics = step(state, batch)
        without = bare()
    np.testing.assert_allclose(without, metrics["loss"], rtol=1e-5)


def test_encoding(bench):
    row = step_benchmark.encode(bench)
    assert row.batch == bench.inference.eval_batch_size and row.flops == bench.flops["encode"]


@pytest.mark.parametrize("posed", [False, True])
def test_sampling_beside_the_bare_denoiser(posed, capsys):
    settings = config() if not posed else tiny.posed_config(train__batch_size=8)
    found = benchmark.sample(OPTIONS, settings)
    walk, denoiser = found["rows"]
    assert walk.name == "sample, 2 steps, guided" and denoiser.batch == 2 * walk.batch
    assert walk.flops == 4 * denoiser.flops
    assert found["over_denoiser"] > -1
    assert "over the bare denoiser's call" in capsys.readouterr().out


def test_utilisation_and_columns():
    row = Row("x", 64, Timing((0.5, 0.25, 0.5)), 30.4, 2e12, 4, 128e12, 3 << 30)
    assert row.rate == 128 and row.flops_per_second == 256e12 and row.utilisation == 0.5
    table = benchmark.speed_table([row, Row("y", 1, Timing((2.0,)), 0.0, 0.0, 1, None, None)])
    assert "50.0%" in table and "256,000" in table and "0.5 (0.25-0.5)" in table and "3.0" in table
    assert "GiB" not in benchmark.speed_table([Row("y", 1, Timing((2.0,)), 0.0, 0.0, 1, None, None)])


def test_recomputing_does_not_count_as_work():
    more = config(model__denoiser__remat="blocks", model__encoder__remat="products")
    assert step_benchmark._model_flops(more) == step_benchmark._model_flops(config())


def test_a_synthetic_batch_has_what_training_reads():
    settings = tiny.posed_config(model__pose__vector="absolute")
    mesh = sharding.make_mesh()
    batch = step_benchmark.synthetic_batch(settings, mesh, 16)
    real = tiny.posed_batch(16, views=2)
    for key, value in batch.items():
        assert (value.shape, value.dtype) == (real[key].shape, real[key].dtype), key
    assert batch["source_mask"].all() and (batch["id"] == np.arange(16)).all()
    camera = Camera(batch["target_pose"], batch["target_intrinsics"], reference=batch["source_pose"][:, 0])
    grid = build.pose_encoding(settings).encoded_grid(jax.tree.map(jnp.asarray, camera), None, 16, (8, 8), (8, 8))
    assert np.isfinite(grid).all() and np.abs(grid).max() > 0


def test_parts_whose_data_is_missing_are_left_out(monkeypatch, capsys):
    def missing(options, config):
        raise ValueError("no such dataset")

    monkeypatch.setattr(benchmark, "PARTS", {"data": missing, "train": lambda *_: {"rows": []}})
    assert benchmark._measure(["data", "train"], SimpleNamespace(only=None), None) == {"train": {"rows": []}}
    assert "not measured: no such dataset" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no such dataset"):
        benchmark._measure(["data"], SimpleNamespace(only="data"), None)


def test_a_part_that_needs_a_config_says_so():
    command = [sys.executable, "-m", "soda_jax.tools.benchmark", "--only=train"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "error: --only=train needs --config" in result.stderr


def reference_config(**overrides):
    settings = {"model.denoiser.channels": 16, "model.encoder.base_features": 8, "model.denoiser.head_dim": 16}
    settings |= {"model.denoiser.multipliers": (1, 2), "train.batch_size": 2, "model.latent_dim": 128}
    found = cifar10.get_config()
    found.update_from_flattened_dict(settings | overrides)
    return found.lock()


@pytest.mark.parametrize(
    "changes",
    [
        {"model.family": "encdec"},
        {"model.encoder.name": "resnet50"},
        {"model.modulation.kind": "sum"},
        {"model.encoder.small_stem": False},
    ],
)
def test_models_that_the_pytorch_reference_does_not_know(changes):
    with pytest.raises(ConfigError, match="the PyTorch reference is SODA .* with a resnet18 or resnet34"):
        torch_benchmark.specification(reference_config(**changes))


@pytest.mark.parametrize("python", ["/nowhere/python", sys.executable])
def test_without_pytorch_the_reference_says_why(python, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('no PyTorch here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = torch_benchmark._SCRIPT.read_text()
    monkeypatch.setattr(torch_benchmark, "_SCRIPT", tmp_path / "reference.py")
    torch_benchmark._SCRIPT.write_text(script)
    with (
        pytest.raises(ValueError, match="torch_python"),
        torch_benchmark.reference(python, torch_benchmark.specification(reference_config())),
    ):
        pass


@pytest.mark.parametrize("embed_sections", [False, True])
def test_the_pytorch_reference_is_of_the_same_size_and_trains(embed_sections):
    pytest.importorskip("torch")
    settings = reference_config(**{"model.modulation.embed_sections": embed_sections})
    model = Bench(settings, repeats=1, seconds=0.0).inference
    ours = sum(leaf.size for leaf in jax.tree.leaves(model.abstract_variables()["params"]))
    with torch_benchmark.reference(sys.executable, torch_benchmark.specification(settings)) as theirs:
        assert theirs.parameters == ours
        (timing,) = in_turn({"PyTorch": theirs.seconds}, 2, 0.0).values()
    assert all(seconds > 0 for seconds in timing.values)
