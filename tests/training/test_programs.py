"""Steps of different numbers of sources: their programs, their numbers, and runs that are made of them."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from soda_jax import rngs
from soda_jax.parallel import sharding
from soda_jax.performance import hlo
from soda_jax.performance.describe import flops_of
from soda_jax.training import loop as train_lib
from soda_jax.training.loop import train
from soda_jax.training.programs import step_of_any, with_sources
from tests import tiny

VIEWS = 3
QUICK = {"xla_backend_optimization_level": 0}  # for programs that are read, not run


def config(**overrides):
    """Everything random is on but DropPath, which draws for each view of a batch by its place."""
    plain = {"model__encoder__norm": "group", "model__encoder__drop_path": 0.0, "probe__kind": "none"}
    sources = {"data__num_sources": VIEWS, "data__min_sources": 1, "data__source_noise": 0.1}
    return tiny.posed_config(**(plain | sources | {"model__pose__vector": "absolute"} | overrides))


def shown(count, seed=0, size=8):
    batch = tiny.posed_batch(size, seed, VIEWS)
    return {key: value[:, :count] if key.startswith("source") else value for key, value in batch.items()}


compilations = []


@pytest.fixture(scope="module", autouse=True)
def listener():
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compilations.append(event) if "backend_compile" in event else None
    )


def test_one_number_of_sources_leaves_the_step_as_it_is():
    step = object()
    assert step_of_any(step, range(4, 5), print) is step


def test_all_programs_are_compiled_before_the_first_step_and_take_the_state():
    step = tiny.train_step(config(), optimizer=optax.sgd(0.02))
    mesh = sharding.make_mesh(jax.devices()[:2])
    step = dataclasses.replace(step, devices=mesh)
    start, said = tiny.initial(step), []
    batches = [sharding.put_batch(shown(count, seed), mesh) for seed, count in enumerate((2, 1, 1, 2))]
    state = sharding.put_replicated(start, mesh)
    plain = step.jit_step(state, mesh)
    run = step_of_any(plain, range(1, 3), said.append)
    before = len(compilations)
    _, metrics = run(sharding.put_replicated(start, mesh), batches[0])
    jax.block_until_ready(metrics)
    assert len(compilations) == before + 2
    assert said == ["compiling the step for 1 to 2 sources: 2 programs"]
    after = len(compilations)
    losses = []
    for batch in batches:
        taken, (state, metrics) = state, run(state, batch)
        losses.append(metrics["loss"])
        assert jax.tree.leaves(taken.params)[0].is_deleted()
    assert len(compilations) == after and len(said) == 1
    other, expected = sharding.put_replicated(start, mesh), []
    for batch in batches:
        other, metrics = plain(other, batch)
        expected.append(metrics["loss"])
    np.testing.assert_array_equal(losses, expected)
    tiny.assert_equal(jax.device_get(state), jax.device_get(other))


def test_arithmetic_grows_with_the_sources_that_are_shown():
    """Before, every step took what that of all sources takes."""
    step, mesh = tiny.train_step(config()), sharding.make_mesh(jax.devices()[:1])
    state = sharding.abstract_state(jax.eval_shape(step.init, shown(1)), mesh)
    place, run = sharding.batch_sharding(mesh), step.jit_step(state, mesh)
    batch = {key: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for key, x in shown(2).items()}
    one, two, three = (flops_of(run.lower(state, with_sources(batch, count))) for count in range(1, VIEWS + 1))
    assert three - two == pytest.approx(two - one, rel=0.02)
    assert 0.1 * three < three - two < three / 2


@pytest.mark.parametrize("aggregation", ["mean", pytest.param("transformer", marks=pytest.mark.slow)])
def test_a_source_that_is_not_shown_equals_one_that_is_masked_out(aggregation):
    """The loss and its gradient, of the same random numbers; the norms are of a view by itself."""
    step = tiny.train_step(config(model__aggregation__name=aggregation, model__aggregation__depth=1))
    variables = tiny.initial(step).ema_variables

    def found(batch):
        def loss(params):
            draw = rngs.Draws(step.root, 7, batch["id"])
            return step.objective.loss(variables | {"params": params}, batch, draw, train=True).per_example.mean()

        return jax.jit(jax.value_and_grad(loss))(variables["params"])

    everything = shown(VIEWS)
    whole, _ = found(everything)
    for count in (1, 2):
        mask = np.broadcast_to(np.arange(VIEWS) < count, (8, VIEWS))
        expected, expected_grads = found(everything | {"source_mask": mask})
        value, grads = found(shown(count))
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        tiny.assert_close(grads, expected_grads, atol=1e-5)
        assert abs(value - whole) > 1e-4


@pytest.mark.slow
def test_four_devices_and_two_microbatches_take_the_steps_of_one():
    step = tiny.train_step(config(), optimizer=tiny.either_optimizer(0.02))

    def after(devices, microbatches):
        mesh = sharding.make_mesh(jax.devices()[:devices])
        one = dataclasses.replace(step, devices=mesh, microbatches=microbatches)
        state = sharding.put_replicated(tiny.initial(one), mesh)
        run = step_of_any(one.jit_step(state, mesh), range(1, 3), lambda _: None)
        for seed, count in enumerate((2, 1)):
            state, metrics = run(state, sharding.put_batch(shown(count, seed), mesh))
        return jax.device_get(state), jax.device_get(metrics)

    (state, metrics), (expected, expected_metrics) = after(4, 2), after(1, 1)
    for key in metrics:
        np.testing.assert_allclose(metrics[key], expected_metrics[key], atol=1e-5, err_msg=key)
    tiny.assert_close(state, expected, atol=1e-5)


def test_a_chosen_source_stays_on_its_device():
    """Where the compiler divides the work, as in objectives that see the whole batch: nothing of a source is sent."""
    model = tiny.train_step(config(model__aggregation__name="stochastic")).objective.model
    mesh = sharding.make_mesh(jax.devices()[:4])
    whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    batch = shown(VIEWS)
    source = np.zeros(batch["source"].shape, np.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), source, batch["source_mask"], source[:, 0]))

    def encode(variables, source, mask, ids):
        return model.apply(variables, source, mask, ids, method="encode", rngs={"dropout": jax.random.key(0)})[0]

    compiled = (
        jax.jit(encode, in_shardings=(whole, split, split, split), out_shardings=split)
        .lower(variables, source, batch["source_mask"], batch["id"])
        .compile(compiler_options=QUICK)
    )
    assert not list(hlo.collectives(compiled.as_text(), mesh.size))


class Spy(train_lib.Loop):
    """Notes the last saved state, and what had been compiled at each save."""

    latest = None

    def save(self, step, state):
        super().save(step, state)
        self.saved, self.compiled = state, {**getattr(self, "compiled", {}), step: len(compilations)}
        type(self).latest = self


@pytest.mark.slow
def test_a_resumed_run_shows_the_same_numbers_of_sources(monkeypatch, tmp_path):
    """Bit by bit the run that was not interrupted; and nothing compiles once it is under way."""
    two = sharding.make_mesh(jax.devices()[:2])
    monkeypatch.setattr(train_lib, "Loop", Spy)
    monkeypatch.setattr(train_lib.sharding, "make_mesh", lambda **_: two)
    settings = {"train__batch_size": 4, "train__eval_every": 100, "train__log_every": 2, "train__checkpoint_every": 4}
    settings |= {"data__num_sources": 3, "data__min_sources": 1, "train__num_steps": 16, "probe__kind": "none"}
    whole = tiny.scenes_config(str(tmp_path / "geometry"), **settings)
    half = whole.copy_and_resolve_references()
    half.train.num_steps = 8
    train(whole, str(tmp_path / "whole"))
    expected, compiled = Spy.latest.saved, Spy.latest.compiled
    assert compiled[4] == compiled[12], "a step compiled in the middle of the run"
    train(half, str(tmp_path / "halves"))
    train(whole, str(tmp_path / "halves"))
    tiny.assert_equal(jax.device_get(Spy.latest.saved), jax.device_get(expected))
