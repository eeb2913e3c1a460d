"""Meshes and placement."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from soda_jax import sharding


@pytest.mark.parametrize("count", [1, 2, 8])
def test_batches_are_split_and_the_rest_is_replicated(count):
    mesh = sharding.make_mesh(jax.devices()[:count])
    assert mesh.size == count and mesh.axis_types == (AxisType.Auto,)
    values = np.arange(48.0).reshape(16, 3)
    batch = sharding.put_batch({"x": values}, mesh)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(16 // count, 3)}
    np.testing.assert_array_equal(batch["x"], values)
    tree = sharding.put_replicated({"w": values, "n": np.int32(3)}, mesh)
    assert len(tree["w"].addressable_shards) == count
    assert {shard.data.shape for shard in tree["w"].addressable_shards} == {(16, 3)}
    assert int(tree["n"]) == 3 and tree["n"].dtype == np.int32


def test_all_devices_by_default():
    assert sharding.make_mesh().size == jax.device_count() == 8


def test_donating_a_replicated_copy_spares_the_original():
    original = jax.numpy.arange(4.0)
    copy = sharding.put_replicated({"x": original}, sharding.make_mesh(jax.devices()[:1]))
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(copy)
    np.testing.assert_array_equal(original, np.arange(4.0))


def test_round_up():
    mesh = sharding.make_mesh()
    assert [sharding.round_up(size, mesh) for size in (1, 8, 9, 64)] == [8, 8, 16, 64]
