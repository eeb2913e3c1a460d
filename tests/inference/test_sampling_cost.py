"""What one sampling step computes: nothing that all steps share."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from soda_jax import inputs
from soda_jax.diffusion.sampler import Masks
from soda_jax.inference.engine import Inference
from soda_jax.inference.sampling import Condition
from tests import tiny

COUNT = 3
BATCH = tiny.posed_batch(COUNT, views=2)


def equations(jaxpr: Any, in_loop: bool = False) -> Iterator[tuple[Any, bool]]:
    """Every equation below `jaxpr`, and whether a loop repeats it."""
    for equation in jaxpr.eqns:
        yield equation, in_loop
        repeats = in_loop or equation.primitive.name in ("while", "scan")
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner, repeats)


@pytest.mark.parametrize("changes", [{}, {"model__aggregation__name": "stochastic"}])
def test_rays_are_encoded_once_not_in_every_step(changes):
    inference = Inference(tiny.posed_config(**changes))
    model = inference.model
    camera = inputs.target_camera(BATCH, model.pose)
    z = jnp.zeros((COUNT, 2, 16) if model.keeps_sources else (COUNT, 16))
    masks = Masks(jnp.ones((COUNT, inference.num_sections)), jnp.ones(COUNT))
    sampler = inference.sampler(num_steps=2)
    arguments = (inference.abstract_variables(), jax.random.key(0), jnp.arange(COUNT), Condition(z, camera), masks, 2.0)
    traced = jax.make_jaxpr(sampler)(*arguments)
    sines = [
        (equation.outvars[0].aval.size, in_loop)
        for equation, in_loop in equations(traced.jaxpr)
        if equation.primitive.name == "sin"
    ]
    cells = COUNT * 8 * 8
    assert any(size >= cells and not in_loop for size, in_loop in sines)
    assert any(in_loop for _, in_loop in sines)  # of the timestep
    assert all(size < cells for size, in_loop in sines if in_loop)
