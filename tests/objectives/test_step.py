"""One training step: the same numbers on any devices and microbatches; probes, averages and learning rates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from soda_jax import build
from soda_jax.objectives import optim
from soda_jax.objectives.norms import module_names
from soda_jax.objectives.state import ema_decay_at, ema_update
from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer
from tests import tiny

STEPS = 5
BATCHES = [tiny.batch(seed=seed) for seed in range(STEPS)]


@pytest.fixture(scope="module")
def by_devices():
    """Results of 5 steps for (optimizer, devices): BatchNorm encoder, every random part on, label probe.

    Returns ((step, mesh) by number of devices, the state before, the results).
    """
    train_step = tiny.train_step(tiny.get_config(probe__kind="label"), optimizer=tiny.either_optimizer(0.02))
    state = tiny.initial(train_step)
    results, steppers = {}, {}
    for devices in (1, 2, 8):
        step, mesh = steppers[devices] = tiny.stepper(train_step, devices)
        for name in ("sgd", "adamw"):
            start = dataclasses.replace(state, opt_state=state.opt_state._replace(use_adam=np.array(name == "adamw")))
            results[name, devices] = tiny.run(step, mesh, start, BATCHES)
        assert step._cache_size() == 1
    return steppers, state, results


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_losses_do_not_depend_on_the_devices(by_devices, optimizer, devices):
    _, _, results = by_devices
    rows, expected = results[optimizer, devices][1], results[optimizer, 1][1]
    np.testing.assert_allclose([r["loss"] for r in rows], [r["loss"] for r in expected], atol=1e-5)
    np.testing.assert_allclose([r["probe/loss"] for r in rows], [r["probe/loss"] for r in expected], atol=1e-5)


@pytest.mark.parametrize("devices", [2, 8])
def test_parameters_gradients_and_statistics_do_not_depend_on_the_devices(by_devices, devices):
    _, start, results = by_devices
    state, expected = results["sgd", devices][0], results["sgd", 1][0]
    tiny.assert_close(state.params, expected.params, atol=1e-5)
    tiny.assert_close(state.opt_state.grads, expected.opt_state.grads, atol=1e-5)
    tiny.assert_close(state.ema_params, expected.ema_params, atol=1e-5)
    tiny.assert_close(state.probe.batch_stats, expected.probe.batch_stats, atol=1e-5)
    # BatchNorm: statistics of the global batch, not of a device's share.
    tiny.assert_close(state.batch_stats, expected.batch_stats, atol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.batch_stats, state.batch_stats)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_every_module_gets_a_gradient_and_a_name(by_devices):
    _, _, results = by_devices
    state, rows = results["sgd", 8]
    names = module_names(state.params)
    norms = dict(zip(names, rows[0]["grad_norms"], strict=True))
    for name, norm in norms.items():
        part, child = name.split("/")
        if name != "denoiser/time_mlp1":
            assert norm > 1e-6, name
    grads = results["sgd", 1][0].opt_state.grads  # of the last step
    for name, norm in zip(names, results["sgd", 1][1][-1]["grad_norms"], strict=True):
        part, child = name.split("/")
        np.testing.assert_allclose(norm, float(optax.tree.norm(grads[part][child])), rtol=1e-5)
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    np.testing.assert_allclose(rows[0]["grad_norm"], total, rtol=1e-5)
    encoder = np.sqrt(sum(norm**2 for name, norm in norms.items() if name.startswith("encoder/")))
    np.testing.assert_allclose(rows[0]["grad_norm/encoder"], encoder, rtol=1e-5)


def test_step_moves_the_average_by_its_closed_form(by_devices):
    """Over the 5 steps, with the warm-up (1 + s) / (10 + s) below `ema_decay`."""
    steppers, start, _ = by_devices
    step, mesh = steppers[1]
    state, average = start, start.ema_params
    for number, one in enumerate(BATCHES[:3]):
        state, _ = tiny.run(step, mesh, state, [one])
        decay = (1 + number) / (10 + number)
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
    tiny.assert_close(state.ema_params, average, atol=1e-6)
    assert int(state.step) == 3


def test_state_is_donated(by_devices):
    steppers, start, _ = by_devices
    step, mesh = steppers[1]
    state = sharding.put_replicated(start, mesh)
    step(state, sharding.put_batch(BATCHES[0], mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(start))


def test_a_checkpoint_of_eight_devices_trains_on_on_two(by_devices, tmp_path):
    """8 devices for 4 steps, then 2 devices for the fifth: as 5 steps on 8, to float error."""
    steppers, start, results = by_devices
    step, mesh = steppers[8]
    middle, _ = tiny.run(step, mesh, start, BATCHES[:4])
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        meta = {"config": {}, "targets": {}, "data_position": 4}
        checkpointer.save(sharding.put_replicated(middle, mesh), meta)
    step, mesh = steppers[2]
    place = sharding.replicated(mesh)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), middle)
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        restored = checkpointer.restore(abstract, 4)
    tiny.assert_equal(jax.device_get(restored), middle)
    assert module_names(restored.params) == module_names(middle.params)
    state, _ = step(restored, sharding.put_batch(BATCHES[4], mesh))
    tiny.assert_close(jax.device_get(state.params), results["sgd", 8][0].params, atol=1e-5)
    assert step._cache_size() == 1  # neither does the restored state compile anew


def test_four_microbatches_equal_one_batch():
    """GroupNorm, because BatchNorm normalises each microbatch by itself; dropout, DropPath, masks and noise are on."""
    config = tiny.get_config(model__encoder__norm="group", probe__kind="none")
    train_step = tiny.train_step(config, optimizer=tiny.either_optimizer(0.02))
    start = tiny.initial(train_step)
    whole, rows = tiny.run(*tiny.stepper(train_step), start, BATCHES[:3])
    split, split_rows = tiny.run(*tiny.stepper(dataclasses.replace(train_step, microbatches=4), 2), start, BATCHES[:3])
    for key in rows[0]:
        np.testing.assert_allclose([r[key] for r in split_rows], [r[key] for r in rows], atol=1e-5, err_msg=key)
    tiny.assert_close(split.opt_state.grads, whole.opt_state.grads, atol=1e-5)
    tiny.assert_close(split.params, whole.params, atol=1e-6)
    tiny.assert_close(split.ema_params, whole.ema_params, atol=1e-6)


@pytest.fixture(scope="module")
def without_probe():
    """A step without a probe: (its settings, the start, the state after it)."""
    config = tiny.get_config(probe__kind="none", model__latent_dropout=0.0)
    train_step = tiny.train_step(config, optimizer=optax.sgd(0.1))
    start = tiny.initial(train_step)
    return start, tiny.run(*tiny.stepper(train_step), start, BATCHES[:1])[0]


@pytest.mark.parametrize("kind", [pytest.param("attributes", marks=pytest.mark.slow), "factors"])
def test_probe_learns_without_reaching_the_model(without_probe, kind):
    start, plain = without_probe
    config = tiny.get_config(
        probe__kind=kind,
        probe__raw_pixels=True,
        probe__dropout=0.0,
        probe__learning_rate=0.02,
        model__latent_dropout=0.0,
    )
    train_step = tiny.train_step(config, optimizer=optax.sgd(0.1))
    probe = jax.device_get(jax.jit(train_step.init)(BATCHES[0])).probe
    step, mesh = tiny.stepper(train_step)
    start = dataclasses.replace(start, probe=probe)
    probed, rows = tiny.run(step, mesh, start, BATCHES[:1])
    tiny.assert_close(probed.params, plain.params, atol=1e-7)
    tiny.assert_close(probed.batch_stats, plain.batch_stats, atol=1e-7)
    assert set(probed.probe.params) == {"latent", "pixels"}
    sizes = tiny.LABELS[kind].sizes
    chance = np.mean(np.log(sizes))  # a new probe's loss: near-uniform over each head's classes
    assert rows[0]["probe_pixels/loss"] == pytest.approx(chance, abs=0.3)
    # The same batch again and again: a linear probe on 192 pixels fits 16 examples.
    _, rows = tiny.run(step, mesh, probed, BATCHES[:1] * 40)
    assert rows[-1]["probe_pixels/accuracy"] == 1.0
    assert rows[-1]["probe/loss"] < rows[0]["probe/loss"]


def test_ema_closed_form():
    values = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    average = {"w": jnp.asarray(values[0])}
    for value in values[1:]:
        average = ema_update(average, {"w": jnp.asarray(value)}, jnp.float32(0.8))
    weights = np.array([0.8**5] + [0.2 * 0.8 ** (5 - i) for i in range(1, 6)])
    np.testing.assert_allclose(average["w"], weights @ values, atol=1e-6)
    assert float(ema_decay_at(0, 0.9999, True)) == pytest.approx(0.1)
    assert float(ema_decay_at(90, 0.9999, True)) == pytest.approx(0.91)
    assert float(ema_decay_at(10**6, 0.9999, True)) == pytest.approx(0.9999)
    assert float(ema_decay_at(0, 0.9999, False)) == pytest.approx(0.9999)


def test_learning_rate_closed_form():
    settings = {"warmup_steps": 10, "decay_steps": 110, "final_ratio": 0.25}
    constant = optim.learning_rate_schedule(2e-4, schedule="constant", **settings)
    cosine = optim.learning_rate_schedule(2e-4, schedule="cosine", **settings)
    for step in (0, 1, 7, 10):
        assert float(constant(step)) == pytest.approx(2e-4 * step / 10)
        assert float(cosine(step)) == pytest.approx(2e-4 * step / 10)
    assert float(constant(10_000)) == pytest.approx(2e-4)
    for step in (10, 35, 60, 110, 500):
        share = 0.5 * (1 + np.cos(np.pi * min(step - 10, 100) / 100))
        assert float(cosine(step)) == pytest.approx(2e-4 * (0.25 + 0.75 * share), rel=1e-5)
    no_warmup = optim.learning_rate_schedule(1.0, schedule="cosine", warmup_steps=0, decay_steps=4, final_ratio=0.0)
    assert float(no_warmup(0)) == pytest.approx(1.0)


def test_config_schedule_ends_at_the_last_step():
    config = tiny.get_config(optim__schedule="cosine", train__num_steps=40, optim__warmup_steps=4)
    schedule = build.schedule(config)
    assert float(schedule(40)) == pytest.approx(0.25 * config.optim.learning_rate)
    assert float(schedule(39)) > float(schedule(40))


def test_weight_decay_spares_biases_and_scales_and_gradients_are_clipped():
    params = {
        "kernel": jnp.full((2, 2), 3.0),
        "bias": jnp.full((2, 2), 3.0),  # an attention projection's has rank 2
        "scale": jnp.asarray(3.0),
    }
    optimizer = optim.adamw(optax.constant_schedule(0.1), b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.5, clip_norm=0.5)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 3.0)
    np.testing.assert_array_equal(updates["bias"], 0.0)
    np.testing.assert_array_equal(updates["scale"], 0.0)
    # Adam hides a gradient's scale, except through its first moment.
    large = jax.tree.map(lambda p: jnp.full_like(p, 100.0), params)
    _, state = optimizer.update(large, optimizer.init(params), params)
    moments = next(s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")).mu
    assert float(optax.tree.norm(moments)) == pytest.approx(0.1 * 0.5, rel=1e-5)
