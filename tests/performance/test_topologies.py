"""Names of chips that are not here, and what is said where they mean nothing or their compilers are absent."""

import os
import subprocess
import sys

import jax
import pytest
from jax.experimental import topologies as aot

from soda_jax.performance import chips, quiet, topologies


@pytest.fixture
def asked(monkeypatch):
    """What the ahead-of-time compilers are asked for; they, and cuDNN, seem to be there."""
    found = []

    def get(**options):
        found.append(options)
        return aot.TopologyDescription(list(range(4)))

    monkeypatch.setattr(topologies, "_installed", lambda module: True)
    monkeypatch.setattr(topologies.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(aot, "get_topology_desc", get)
    return found


@pytest.mark.parametrize(
    ("name", "shape"),
    [("h100", "1x1x1"), ("h100:1", "1x1x1"), ("a100:8", "1x1x8"), ("h200:3", "1x1x3"), ("h100:32", "1x4x8")],
)
def test_gpus(asked, name, shape):
    assert topologies.devices(name) == [0, 1, 2, 3]
    (options,) = asked
    assert (options["platform"], options["topology"]) == ("cuda", shape)
    assert options["target_config"] == chips.gpu_target(name.partition(":")[0])


@pytest.mark.parametrize("name", ["v5e:4x8", "v5p:2x2x2", "v4:2x2x1"])
def test_tpus(asked, name):
    assert topologies.devices(name) == [0, 1, 2, 3]
    assert asked == [{"platform": "tpu", "topology_name": name}]


@pytest.mark.parametrize("name", ["", "h1000", "h100:", "h100:2x4", "h100:-1", "v5e", "v5e:8", "tpu", "v5e:4x8:2"])
def test_names_that_mean_nothing(asked, name):
    with pytest.raises(ValueError, match=f"--plan_topology={name}: give a GPU of h100, .*as v5e:4x8"):
        topologies.devices(name)
    assert not asked


@pytest.mark.parametrize("name", ["h100:0", "a100:12"])
def test_numbers_of_gpus(asked, name):
    with pytest.raises(ValueError, match=f"--plan_topology={name}: must be 1 to 8 GPUs of a host, or a multiple of 8"):
        topologies.devices(name)
    assert not asked


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("h100:8", r"needs JAX's CUDA plugin \(pip install 'soda-jax\[plan-gpu\]'\); no GPU is needed"),
        ("v5e:4x8", r"needs libtpu \(pip install 'soda-jax\[plan-tpu\]'\)"),
    ],
)
def test_absent_compilers(monkeypatch, name, needs):
    monkeypatch.setattr(topologies, "_installed", lambda module: False)
    with pytest.raises(ValueError, match=f"--plan_topology={name}: {needs}"):
        topologies.devices(name)


def test_a_module_of_an_absent_package_is_not_installed():
    assert not topologies._installed("surely_no_package.plugin")
    assert topologies._installed("soda_jax.performance")


def test_absent_cudnn(asked, monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(topologies.ctypes, "CDLL", absent)
    with pytest.raises(ValueError, match=r"needs cuDNN 9 \(pip install 'soda-jax\[plan-gpu\]'\)"):
        topologies.devices("h100")


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("Invalid name: TPU v9"), NotImplementedError("v9")])
def test_what_a_compiler_refuses(asked, monkeypatch, error):
    def refuse(**_):
        raise error

    monkeypatch.setattr(aot, "get_topology_desc", refuse)
    with pytest.raises(ValueError, match=r"--plan_topology=v9:2x2: its compiler says: .*v9; .*soda-jax\[plan-tpu\]"):
        topologies.devices("v9:2x2")


@pytest.mark.parametrize("name", chips.GPU_NAMES)
def test_descriptions_agree_with_the_data_sheets(name):
    text = chips.gpu_target(name)
    kind = text.split('device_description_str: "')[1].split('"')[0]
    fields = dict(line.split(": ") for line in map(str.strip, text.splitlines()) if line.count(": ") == 1)
    chip = chips.find(kind)
    assert name.upper() in kind and float(fields["memory_bandwidth"]) == chip.bandwidth
    # What a driver reports is the memory of the sheet, within a hundredth, or little less.
    assert 0.98 * chip.memory_gib < float(fields["device_memory_size"]) / 2**30 < 1.01 * chip.memory_gib


@pytest.mark.parametrize(
    ("kind", "bandwidth", "memory"),
    [
        ("NVIDIA H100 80GB HBM3", 3350, 80),
        ("NVIDIA H100 PCIe", 2000, 80),
        ("NVIDIA H100 NVL", 3900, 94),
        ("NVIDIA H200", 4800, 141),
        ("NVIDIA A100-SXM4-40GB", 1555, 40),
        ("NVIDIA A100-SXM4-80GB", 2039, 80),
        ("NVIDIA A100 80GB PCIe", 1935, 80),
        ("Tesla V100-SXM2-32GB", 900, 32),
        ("TPU v5 lite", 819, 16),
        ("TPU v5", 2765, 95),
        ("TPU v6 lite", 1638, 32),
    ],
)
def test_memory_of_known_chips(kind, bandwidth, memory):
    found = chips.find(kind)
    assert (found.bandwidth, found.memory_gib) == (bandwidth * 1e9, memory)


def test_unknown_chips():
    assert chips.find("cpu") is None


@pytest.mark.parametrize(
    ("arguments", "plans"),
    [
        (["main", "--mode=plan"], True),
        (["main", "-mode", "plan", "--config=x"], True),
        (["main", "--config=plan", "--mode=train"], False),
        (["main", "--mode"], False),
        ([], False),
    ],
)
def test_who_asks_for_a_plan(arguments, plans):
    assert quiet.is_plan(arguments) == plans


LOADING = """
import os
from soda_jax.performance import quiet
with quiet.loading(active={active}):
    os.write(2, b"no GPU here\\n")
    {then}
os.write(2, b"after\\n")
assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == ("3" if {active} else None)
"""


@pytest.mark.parametrize(
    ("active", "then", "shown"),
    [
        (True, "pass", "after\n"),
        (False, "pass", "no GPU here\nafter\n"),
        (True, "raise KeyError('plugin')", "no GPU here\nTraceback"),
    ],
)
def test_what_is_held_back(active, then, shown):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", LOADING.format(active=active, then=then)],
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stderr.startswith(shown) and (done.returncode == 0) == (then == "pass")
