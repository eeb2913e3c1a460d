"""Test settings: eight simulated devices, so that sharded code runs on any machine, and code that compiles quickly."""

import gc
import importlib.metadata
import os
import shutil
import tempfile

# For jax, which reads it on import, here and in the programs that tests start: most of their time is compiling.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# One module, not one a core, and the older emitters of kernels where there still are any: half of the CPU time.
QUICK = ["--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK.append("--xla_cpu_use_fusion_emitters=false")  # a later release ends at a flag that it does not know
os.environ["XLA_FLAGS"] = " ".join([*QUICK, os.environ.get("XLA_FLAGS", "")]).strip()
# Programs that carry no lines of source are compiled, and written, in two thirds of the time.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# What one test has compiled, others read, in this process and in those that it starts.
OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    OWN_CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="soda_jax_programs_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402

# Before any test touches a device: afterwards the number is fixed.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_finish():
    """What is imported by now stays: it need not be looked through at each collection of garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def pytest_unconfigure():
    """Of the process that made the folder: pytest-xdist's workers inherit it."""
    if OWN_CACHE is not None:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)
