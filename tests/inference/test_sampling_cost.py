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


def traced(inference: Inference, walk: str = "sampler") -> list[tuple[Any, bool]]:
    """The equations of a guided walk of two steps."""
    model = inference.model
    camera = inputs.target_camera(BATCH, model.pose)
    z = jnp.zeros((COUNT, 2, 16) if model.keeps_sources else (COUNT, 16))
    masks = Masks(jnp.ones((COUNT, inference.num_sections)), jnp.ones(COUNT))
    begin = (jax.random.key(0), jnp.arange(COUNT)) if walk == "sampler" else (jnp.zeros((COUNT, 8, 8, 3)),)
    arguments = (inference.abstract_variables(), *begin, Condition(z, camera), masks, 2.0)
    program = getattr(inference, walk)(num_steps=2, guided=True)
    return list(equations(jax.make_jaxpr(program)(*arguments).jaxpr))


@pytest.mark.parametrize("changes", [{}, {"model__aggregation__name": "stochastic"}])
def test_rays_are_encoded_once_not_in_every_step(changes):
    sines = [
        (equation.outvars[0].aval.size, in_loop)
        for equation, in_loop in traced(Inference(tiny.posed_config(**changes)))
        if equation.primitive.name == "sin"
    ]
    cells = COUNT * 8 * 8
    assert any(size >= cells and not in_loop for size, in_loop in sines)
    assert any(in_loop for _, in_loop in sines)  # of the timestep
    assert all(size < cells for size, in_loop in sines if in_loop)


@pytest.mark.parametrize("walk", ["sampler", "inverter"])
@pytest.mark.parametrize("groups, in_steps, once", [(32, {8, 20}, {24, 20}), (1, {32, 40}, set())])
def test_channels_of_the_camera_alone_are_convolved_once(walk, groups, in_steps, once):
    """The first block reads 8 channels and 24 of rays, in groups of one; the last 16 and 24, in groups of five."""
    read = {True: set(), False: set()}
    for equation, in_loop in traced(Inference(tiny.posed_config(model__denoiser__norm_groups=groups)), walk):
        if equation.primitive.name == "conv_general_dilated":
            read[in_loop].add(equation.invars[0].aval.shape[-1])
    assert read == {True: {3, 8, 16} | in_steps, False: once}  # 3, 8 and 16: of the other layers
