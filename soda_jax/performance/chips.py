"""Peak speeds of accelerators, for utilisation."""

import re

# (pattern of `jax.Device.device_kind`, peak TFLOP/s of one device), by the makers' data sheets: bfloat16, or float16
# where a chip has none, without sparsity. The first that matches counts.
_PEAKS = (
    (r"GB200", 2500.0),
    (r"B200", 2250.0),
    (r"H100.*PCIe", 756.0),
    (r"H[12]00.*NVL", 835.0),
    (r"H[12]00|GH200", 989.4),
    (r"A100", 312.0),
    (r"L40S", 362.0),
    (r"\bL4\b", 121.0),
    (r"A10G", 70.0),
    (r"\bA10\b", 125.0),
    (r"V100.*PCI", 112.0),
    (r"V100", 125.0),
    (r"\bT4\b", 65.0),
    (r"RTX 4090", 165.2),
    (r"RTX 3090", 71.0),
    (r"TPU v6 ?(lite|e)", 918.0),
    (r"TPU v5 ?(lite|e)", 197.0),
    (r"TPU v5", 459.0),
    (r"TPU v4", 275.0),
    (r"TPU v3", 61.5),  # a device of v2 and v3 is one of a chip's two cores
    (r"TPU v2", 22.5),
)


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device; None where it is not known, as for CPUs."""
    return next((peak * 1e12 for pattern, peak in _PEAKS if re.search(pattern, device_kind)), None)
