"""Test settings: eight simulated devices, so that sharded code runs on any machine."""

import jax

# Before any test touches a device: afterwards the number is fixed.
jax.config.update("jax_num_cpu_devices", 8)
