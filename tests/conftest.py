"""Test settings: eight simulated devices, so that sharded code runs on any machine, and code that compiles quickly."""

import os

# For jax, which reads it on import, here and in the programs that tests start: most of their time is compiling.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402

# Before any test touches a device: afterwards the number is fixed.
jax.config.update("jax_num_cpu_devices", 8)
