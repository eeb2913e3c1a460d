"""Accelerators: peak speed, memory and its bandwidth; and what XLA must know of a GPU to compile for it unseen."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as its maker's data sheet describes it.

    Attributes:
      flops: dense bfloat16 FLOP/s (float16 where a chip has none), without sparsity.
      bandwidth: bytes a second between the device and its memory.
      memory_gib: of the device. NVIDIA's sheets write GB for these.
    """

    flops: float
    bandwidth: float
    memory_gib: int


# (pattern of `jax.Device.device_kind`, TFLOP/s, GB/s, GiB) by the makers' data sheets: NVIDIA's of each card, Google
# Cloud's pages of each TPU version. The first that matches counts. Of cards that are sold with more than one size of
# memory, the name says which, or the smaller is taken.
_CHIPS = (
    (r"GB200", 2500.0, 8000.0, 186),
    (r"B200", 2250.0, 8000.0, 180),
    (r"H100.*PCIe", 756.0, 2000.0, 80),
    (r"H200.*NVL", 835.0, 4800.0, 141),
    (r"H100.*NVL", 835.0, 3900.0, 94),
    (r"GH200", 989.4, 4000.0, 96),
    (r"H200", 989.4, 4800.0, 141),
    (r"H100", 989.4, 3350.0, 80),
    (r"A100.*PCI.*80GB|A100 80GB PCI", 312.0, 1935.0, 80),
    (r"A100.*80GB", 312.0, 2039.0, 80),
    (r"A100", 312.0, 1555.0, 40),
    (r"L40S", 362.0, 864.0, 48),
    (r"\bL4\b", 121.0, 300.0, 24),
    (r"A10G", 70.0, 600.0, 24),
    (r"\bA10\b", 125.0, 600.0, 24),
    (r"V100.*PCI.*32GB", 112.0, 900.0, 32),
    (r"V100.*PCI", 112.0, 900.0, 16),
    (r"V100.*32GB", 125.0, 900.0, 32),
    (r"V100", 125.0, 900.0, 16),
    (r"\bT4\b", 65.0, 320.0, 16),
    (r"RTX 4090", 165.2, 1008.0, 24),
    (r"RTX 3090", 71.0, 936.0, 24),
    (r"TPU v6 ?(lite|e)", 918.0, 1638.0, 32),
    (r"TPU v5 ?(lite|e)", 197.0, 819.0, 16),
    (r"TPU v5", 459.0, 2765.0, 95),
    (r"TPU v4", 275.0, 1228.0, 32),
    (r"TPU v3", 61.5, 450.0, 16),  # a device of v2 and v3 is one of a chip's two cores
    (r"TPU v2", 22.5, 350.0, 8),
)

# What XLA asks of a GPU, in the fields of its `GpuTargetConfigProto`. The figures are NVIDIA's (the whitepapers of
# Ampere and Hopper, the table of compute capabilities in the CUDA programming guide), and agree with the chips that
# the OpenXLA project describes for its own tests. cuDNN 9.8 is the oldest that JAX's CUDA plugin takes.
_GPU_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {block_shared_memory}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{kind}"
"""
_HOPPER = {
    "shared_memory": 228 * 1024,
    "block_shared_memory": 227 * 1024,
    "cores": 132,
    "units": 128,
    "cache": 50 * 2**20,
    "clock": 1.98,
    "capability": 9,
}
_AMPERE = {
    "shared_memory": 164 * 1024,
    "block_shared_memory": 163 * 1024,
    "cores": 108,
    "units": 64,
    "cache": 40 * 2**20,
    "clock": 1.41,
    "capability": 8,
}
# By the names that `--plan_topology` takes: (family, `device_kind` of the card, bytes that its driver reports).
_GPUS = {
    "h100": (_HOPPER, "NVIDIA H100 80GB HBM3", 84_978_434_048),
    "h200": (_HOPPER, "NVIDIA H200", 151_397_597_184),
    "a100": (_AMPERE, "NVIDIA A100-SXM4-80GB", 85_100_068_864),
}
GPU_NAMES = tuple(_GPUS)


def find(device_kind: str) -> Chip | None:
    """The chip that `jax.Device.device_kind` names; None where it is not known, as for CPUs."""
    for pattern, teraflops, gigabytes, memory in _CHIPS:
        if re.search(pattern, device_kind):
            return Chip(teraflops * 1e12, gigabytes * 1e9, memory)
    return None


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device; None where it is not known, as for CPUs."""
    chip = find(device_kind)
    return None if chip is None else chip.flops


def gpu_target(name: str) -> str:
    """XLA's description of the GPU `name`, one of `GPU_NAMES`, as the text of a `GpuTargetConfigProto`."""
    family, kind, memory = _GPUS[name]
    return _GPU_TARGET.format(**family, kind=kind, memory=memory, bandwidth=int(find(kind).bandwidth))
