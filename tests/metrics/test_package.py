"""`soda_jax.metrics` alone: its names, and what importing it costs."""

import subprocess
import sys

import pytest

from soda_jax import metrics

HEAVY = ("lightgbm", "sklearn", "scipy", "optax", "orbax", "grain", "tensorflow", "torch", "soda_jax.models")
CODE = f"""
import sys
from soda_jax.metrics import ssim
print([name for name in {HEAVY!r} if name in sys.modules])
from soda_jax.metrics import disentanglement
print([name for name in ("lightgbm", "sklearn", "jax") if name in sys.modules])
"""


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_name_is_there_and_documented(name):
    assert callable(getattr(metrics, name)) and getattr(metrics, name).__doc__


def test_importing_a_metric_imports_no_library_of_another():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.splitlines() == ["[]", "['jax']"]
