"""Test settings: eight simulated devices, so that sharded code runs on any machine."""

import jax
import pytest

# Before any test touches a device: afterwards the number is fixed.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def quick_compile():
    """Compiles without optimisations: a quarter of the time, for tests that run a whole training step."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
