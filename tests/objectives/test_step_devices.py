"""Devices that accumulate apart: the numbers of one device, the same on all, and gradients that travel once a step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from soda_jax.parallel import sharding
from soda_jax.performance import hlo
from tests import tiny

BATCHES = [tiny.batch(seed=seed) for seed in range(2)]
QUICK = {"xla_backend_optimization_level": 0}  # for programs that are read, not run


def train_step(microbatches, **overrides):
    """BatchNorm in the encoder and the probe, and every random part on; SGD shows a gradient's scale."""
    config = tiny.get_config(**({"probe__kind": "label", "data__source_noise": 0.1} | overrides))
    return tiny.train_step(config, optimizer=tiny.either_optimizer(0.02), microbatches=microbatches)


def trained(step, devices, fsdp):
    """(the state after two steps, as it lies; their metrics)."""
    mesh = sharding.make_mesh(jax.devices()[:devices], fsdp)
    step = dataclasses.replace(step, devices=mesh)
    state, rows = sharding.put_state(tiny.initial(step), mesh), []
    run = step.jit_step(state, mesh)
    for one in BATCHES:
        state, metrics = run(state, sharding.put_batch(one, mesh))
        rows.append(jax.device_get(metrics))
    return state, rows


@functools.cache
def on_one_device(microbatches, **overrides):
    state, rows = trained(train_step(microbatches, **overrides), 1, 1)
    return jax.device_get(state), rows


def assert_the_same(found, expected):
    (state, rows), (expected_state, expected_rows) = found, expected
    for key in expected_rows[0]:
        values, others = ([row[key] for row in some] for some in (rows, expected_rows))
        np.testing.assert_allclose(values, others, atol=1e-5, err_msg=key)
    tiny.assert_close(jax.device_get(state), expected_state, atol=1e-5)


def assert_copies_agree(state):
    """Whatever several devices hold of one array is the same bit by bit: nothing in the step checks that."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        copies = {}
        for shard in leaf.addressable_shards:
            copies.setdefault(str(shard.index), []).append(np.asarray(shard.data))
        for first, *others in copies.values():
            for other in others:
                np.testing.assert_array_equal(other, first, err_msg=jax.tree_util.keystr(path))


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("devices", "fsdp", "microbatches"),
    [(4, 2, 2), slow(2, 1, 2), slow(4, 1, 4), slow(8, 1, 2), slow(8, 2, 1), slow(8, 4, 2), slow(8, 8, 1)],
)
def test_numbers_are_those_of_one_device(monkeypatch, devices, fsdp, microbatches):
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 8)
    state, rows = trained(train_step(microbatches), devices, fsdp)
    assert_the_same((state, rows), on_one_device(microbatches))
    assert_copies_agree(state)
    parts = [leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params)]
    assert (sum(parts) < len(parts) / 2) == (fsdp > 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"model__encoder__remat": "blocks", "model__denoiser__remat": "products"},
        {"model__family": "encdec", "probe__raw_pixels": True, "probe__kind": "factors"},
        {"model__family": "vae_beta"},
    ],
    ids=["rematerialised", "encdec", "vae_beta"],
)
def test_numbers_of_others_are_those_of_one_device(overrides):
    one = train_step(2, **overrides)
    if overrides.get("model__family") == "vae_beta":  # sums over pixels: gradients of up to 1e5
        one = dataclasses.replace(one, optimizer=tiny.either_optimizer(1e-7))
    found, expected = trained(one, 4, 1), trained(one, 1, 1)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(jax.device_get(expected[0].opt_state.grads)))
    tiny.assert_close(
        jax.device_get(found[0].opt_state.grads), jax.device_get(expected[0].opt_state.grads), atol=1e-5 * max(scale, 1)
    )
    tiny.assert_close(jax.device_get(found[0].batch_stats), jax.device_get(expected[0].batch_stats), atol=1e-5)
    np.testing.assert_allclose([r["loss"] for r in found[1]], [r["loss"] for r in expected[1]], rtol=1e-5)
    assert_copies_agree(found[0])


def exchanged(microbatches, devices, fsdp):
    """Bytes of a compiled step's exchanges by kind, and of the parameters that get a gradient."""
    mesh = sharding.make_mesh(jax.devices()[:devices], fsdp)
    step = dataclasses.replace(train_step(microbatches), devices=mesh)
    state = sharding.abstract_state(jax.eval_shape(step.init, tiny.batch(1)), mesh)
    place = sharding.batch_sharding(mesh)
    batch = {key: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for key, x in tiny.batch(32).items()}
    compiled = step.jit_step(state, mesh).lower(state, batch).compile(compiler_options=QUICK)
    found = {}
    for one in hlo.collectives(compiled.as_text(), mesh.size):
        found[one.kind] = found.get(one.kind, 0) + one.size
    return found, 4 * sum(leaf.size for leaf in jax.tree.leaves((state.params, state.probe.params)))


@pytest.mark.parametrize(("devices", "fsdp"), [(4, 1), slow(4, 2), slow(4, 4)])
def test_four_microbatches_exchange_no_more_than_one(monkeypatch, devices, fsdp):
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 8)
    (one, gradients), (four, _) = (exchanged(microbatches, devices, fsdp) for microbatches in (1, 4))
    assert sum(four.values()) <= 1.1 * sum(one.values())
    if fsdp == 1:
        assert gradients <= four["all-reduce"] <= 1.1 * gradients
    else:  # parameters come together once, and gradients leave in parts
        assert 0.8 * gradients < four["all-gather"] < 1.3 * gradients
        assert 0.8 * gradients < four["reduce-scatter"] <= gradients
