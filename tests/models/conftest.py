"""Compilation is what these tests would spend their time on: weights need none, and programs get little of it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util


def _random_variables(module: Any, *arguments: Any, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Random variables of `module` called with `arguments`: no weight is zero, scales are near 1."""
    shapes = jax.eval_shape(lambda key: module.init(key, *arguments, **options), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1] in ("scale", "var"):
            return np.abs(1.0 + 0.1 * values)
        if path[-1] in ("bias", "mean"):
            return 0.1 * values
        return values / np.sqrt(np.prod(leaf.shape[:-1]))

    return traverse_util.path_aware_map(draw, shapes)


@pytest.fixture
def random_variables() -> Callable[..., dict[str, Any]]:
    return _random_variables


@pytest.fixture
def quick_jit() -> Callable[..., Any]:
    """`jax.jit` that compiles in half the time, to slower programs."""
    return functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
