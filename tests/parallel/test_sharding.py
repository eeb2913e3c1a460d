"""Meshes, placement, and a state split between devices."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from soda_jax.parallel import sharding
from tests import tiny


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


def test_rows_follow_the_processes_whatever_the_order_of_the_devices(monkeypatch):
    """A TPU lists its devices by their place in the torus; a batch's parts belong in the order of the processes."""
    made = {}
    monkeypatch.setattr(sharding, "Mesh", lambda devices, names, **_: made.update(devices=devices, names=names))
    devices = [types.SimpleNamespace(process_index=p, id=i) for p, i in ((1, 5), (0, 2), (1, 4), (0, 3))]
    sharding.make_mesh(devices, fsdp=2)
    assert made["names"] == ("data", "fsdp")
    assert [[(d.process_index, d.id) for d in row] for row in made["devices"]] == [[(0, 2), (0, 3)], [(1, 4), (1, 5)]]


@pytest.mark.parametrize("fsdp", [0, 3, 16])
def test_fsdp_that_does_not_divide(fsdp):
    with pytest.raises(ValueError, match=f"config.train.fsdp={fsdp}: must divide the number of devices, 8"):
        sharding.make_mesh(fsdp=fsdp)


@pytest.mark.parametrize(
    ("shape", "fsdp", "expected"),
    [
        ((3, 3, 256, 512), 4, 3),
        ((3, 3, 512, 256), 4, 2),
        ((3, 3, 512, 255), 4, 2),
        ((2048, 1000), 16, 0),
        ((2047, 1000), 16, None),
        ((3, 3, 64, 64), 1, None),
        ((8, 8), 4, None),
        ((), 2, None),
        ((2**14,), 2, 0),
    ],
)
def test_the_longest_axis_that_divides_is_split(shape, fsdp, expected):
    assert sharding.split_axis(shape, fsdp) == expected


def test_a_split_state_holds_each_value_once_in_a_group():
    mesh = sharding.make_mesh(fsdp=4)
    values = {"kernel": np.arange(2.0**15).reshape(2**8, 2**7), "bias": np.arange(2.0**7)}
    state = sharding.put_state(values, mesh)
    assert state["kernel"].sharding.spec == PartitionSpec("fsdp")
    shards = {shard.device.id: shard for shard in state["kernel"].addressable_shards}
    assert {shard.data.shape for shard in shards.values()} == {(2**6, 2**7)}
    for row in mesh.devices:
        whole = np.concatenate([shards[device.id].data for device in row])
        np.testing.assert_array_equal(whole, values["kernel"])
    assert state["bias"].is_fully_replicated
    abstract = sharding.abstract_state(jax.eval_shape(lambda: values), mesh)
    assert abstract["kernel"].sharding == state["kernel"].sharding
    batch = sharding.put_batch({"x": np.arange(16.0)}, mesh)["x"]
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2,)}


@pytest.fixture
def small_arrays_too(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 8)


@pytest.mark.usefixtures("small_arrays_too")
def test_a_split_state_trains_to_the_same_numbers():
    """Adam and plain SGD, two microbatches, on four devices: whole on each, and split over two and over all four."""
    batches = [tiny.batch(seed=seed) for seed in range(2)]
    base = tiny.train_step(tiny.get_config(train__grad_accum_steps=2), optimizer=tiny.either_optimizer(1e-2))
    start = tiny.initial(base)
    results = {}
    for fsdp in (1, 2, 4):
        mesh = sharding.make_mesh(jax.devices()[:4], fsdp)
        train_step = dataclasses.replace(base, devices=mesh)
        step = train_step.jit_step(sharding.put_state(start, mesh), mesh)
        for use_adam in (False, True):
            opt_state = start.opt_state._replace(use_adam=np.array(use_adam))
            state, rows = sharding.put_state(start.replace(opt_state=opt_state), mesh), []
            for one in batches:
                placed = state.params["encoder"]["stem"]["kernel"].sharding
                state, metrics = step(state, sharding.put_batch(one, mesh))
                assert state.params["encoder"]["stem"]["kernel"].sharding == placed  # nothing is laid out anew
                rows.append(jax.device_get(metrics))
            whole = [leaf.is_fully_replicated for leaf in jax.tree.leaves((state.params, state.ema_params))]
            assert all(whole) if fsdp == 1 else sum(whole) < len(whole) / 2
            results[fsdp, use_adam] = jax.device_get(state), rows
    for fsdp in (2, 4):
        tiny.assert_close(results[fsdp, False], results[1, False], atol=2e-5, rtol=1e-4)
        np.testing.assert_allclose(
            [row["loss"] for row in results[fsdp, True][1]], [row["loss"] for row in results[1, True][1]], rtol=1e-5
        )


@pytest.mark.usefixtures("small_arrays_too")
@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_state_that_another_device_drew_is_the_same(fsdp):
    mesh = sharding.make_mesh(jax.devices()[4:], fsdp=fsdp)
    train_step = tiny.train_step(tiny.get_config(), devices=mesh)
    example = tiny.batch(1)
    placement = sharding.state_sharding(jax.eval_shape(train_step.init, example), mesh)
    here = sharding.run_once(train_step.init, placement, example)
    elsewhere = sharding.on_device(jax.devices()[0], train_step.init, placement, example)
    assert jax.tree.structure(here) == jax.tree.structure(elsewhere)
    for ours, theirs, wanted in zip(*map(jax.tree.leaves, (here, elsewhere, placement)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype and ours.sharding == theirs.sharding == wanted
