"""Compiler options that measurement chose, by platform."""

import functools

import jax


@functools.cache
def training_options(platform: str) -> dict[str, str] | None:
    """Options for programs of `platform` that hold gradients of convolutions; None where XLA's own choices stand.

    On CPUs XLA hands convolutions to YNNPACK, whose gradients of kernels fall to a quarter of their speed where the
    images of a batch have more than some thousand pixels together (24 to 30 GFLOP a core's second against 100; float32,
    128 channels, 16 images of 32 px), and so do those of 1x1 kernels. XLA's own convolutions, Eigen's, keep theirs.
    Forward YNNPACK is the faster, so encoding and sampling stay with it.
    """
    if platform != "cpu":
        return None
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # an XLA that has no such option
        return None
    return options
