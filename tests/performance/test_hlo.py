"""The exchanges that a compiled program makes, against programs whose exchanges are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from soda_jax.parallel import sharding
from soda_jax.performance import hlo
from soda_jax.performance.hlo import Collective


def compiled(function, mesh, *arguments):
    """(exchanges, the optimised program's text)"""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return hlo.collectives(text, mesh.size), text


def split(mesh, shape, spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def test_a_mean_over_all_devices():
    mesh = sharding.make_mesh()
    (found,), _ = compiled(lambda x: x.sum(0), mesh, split(mesh, (64, 1000), P("data")))
    assert found == Collective("all-reduce", 8, 1, 4000.0)
    assert found.sent == 2 * 7 / 8 * 4000


def test_gathering_and_scattering_in_groups():
    mesh = sharding.make_mesh(fsdp=2)

    def gather(x):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))

    (found,), _ = compiled(gather, mesh, split(mesh, (64, 100), P("fsdp")))
    assert found == Collective("all-gather", 2, 1, 64 * 100 * 4.0)
    assert found.sent == 64 * 100 * 4 / 2

    def scatter(x):
        body = lambda part: jax.lax.psum_scatter(part, "fsdp", tiled=True)  # noqa: E731
        return jax.shard_map(body, mesh=mesh, in_specs=P(), out_specs=P("fsdp"), check_vma=False)(x)

    (found,), _ = compiled(scatter, mesh, split(mesh, (64, 100), P()))
    assert found == Collective("reduce-scatter", 2, 1, 64 * 100 * 4.0)


def test_a_loop_counts_each_of_its_rounds():
    mesh = sharding.make_mesh()

    def loop(x):
        def one(carry, _):
            # The mean changes with the carry, so that it cannot be taken out of the loop.
            return carry * jnp.tanh(carry).sum(0), None

        return jax.lax.scan(one, x, length=5)[0]

    found, text = compiled(loop, mesh, split(mesh, (64, 100), P("data")))
    assert "while" in text
    assert found == [Collective("all-reduce", 8, 5, 5 * 400.0)]


def test_one_device_exchanges_nothing():
    mesh = sharding.make_mesh(jax.devices()[:1])
    assert compiled(lambda x: x.sum(), mesh, split(mesh, (8, 8), P("data")))[0] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%r = bf16[8,4]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%a", ("all-reduce", 4, 64)),
        (
            "%r = (bf16[8,4]{1,0}, f32[]) all-reduce(%x, %y), replica_groups=[2,8]<=[16], to_apply=%a",
            ("all-reduce", 8, 68),
        ),
        (
            "%r = f32[8]{0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=3] {'b'}, to_apply=%a",
            ("all-reduce", 3, 32),
        ),
        (
            "%r = f32[8]{0} all-gather(%x), replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a'}",
            ("all-gather", 2, 32),
        ),
        (
            "%r = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={{0,1,2,3},{4,5,6,7}}",
            ("all-gather", 4, 32),
        ),
        ("%r = f32[2]{0} reduce-scatter(%x), replica_groups={}, to_apply=%a", ("reduce-scatter", 16, 128)),
    ],
)
def test_ways_of_writing(line, expected):
    kind, group, size = expected
    text = f"HloModule m\n\nENTRY %main (x: f32[8]) -> f32[8] {{\n  {line}\n}}\n"
    assert hlo.collectives(text, 16) == [Collective(kind, group, 1, size)]


def test_an_asynchronous_call_counts_once():
    text = """HloModule m

%wrapped (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %r = f32[8]{0} all-reduce(f32[8]{0} %p), replica_groups={}, to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %s = ((f32[8]), f32[8], u32[]) async-start(f32[8]{0} %x), calls=%wrapped
  %u = ((f32[8]), f32[8], u32[]) async-update(%s), calls=%wrapped
  ROOT %d = f32[8]{0} async-done(%u), calls=%wrapped
}
"""
    assert hlo.collectives(text, 4) == [Collective("all-reduce", 4, 1, 32.0)]
