"""Frozen and adversary parameters, and terms of the whole batch: a model of three numbers, whose steps are known."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from soda_jax.objectives.objective import ADVERSARY, FROZEN, MAIN, Loss, Objective, by_role, merged
from soda_jax.objectives.optim import adamw
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer, read_arrays
from tests import tiny

BATCH = {"x": np.random.default_rng(0).standard_normal(8).astype(np.float32), "id": np.arange(8, dtype=np.int32)}
START = {"line": {"slope": {"kernel": 0.5}, "shift": {"kernel": 0.25}}, "critic": {"guess": {"kernel": -1.0}}}
RATE, ADVERSARY_RATE = 0.1, 0.01


@dataclasses.dataclass(frozen=True)
class Line(Objective):
    """y = slope x + shift: squares are the loss, the variance the batch's term, and the critic guesses the mean."""

    model: None = None
    weight: float = 1.0
    adversary_optimizer: optax.GradientTransformation = optax.sgd(ADVERSARY_RATE, momentum=0.9)
    roles: ClassVar[dict[str, str]] = {"line/shift": FROZEN, "critic": ADVERSARY}
    whole_batch: ClassVar[bool] = True

    def init(self, key, batch):
        return {"params": jax.tree.map(jnp.float32, START), "batch_stats": {}}

    def loss(self, variables, batch, draw, train):
        line, critic = variables["params"]["line"], variables["params"]["critic"]["guess"]["kernel"]
        y = line["slope"]["kernel"] * batch["x"] + line["shift"]["kernel"]
        against = jnp.square(critic - jax.lax.stop_gradient(y).mean())
        return Loss(y**2, {}, {}, whole=self.weight * y.var(), adversary=against, metrics={"mean": y.mean()})


@dataclasses.dataclass(frozen=True)
class Plain(Line):
    """The same without any of it."""

    roles: ClassVar[dict[str, str]] = {}
    whole_batch: ClassVar[bool] = False
    adversary_optimizer: None = None

    def loss(self, variables, batch, draw, train):
        return super().loss(variables, batch, draw, train)._replace(whole=None, adversary=None)


def step_of(objective=None, microbatches=1, optimizer=None):
    return TrainStep(
        objective=Line() if objective is None else objective,
        optimizer=optax.sgd(RATE) if optimizer is None else optimizer,
        root=jax.random.key(0),
        microbatches=microbatches,
    )


def one_step(train_step):
    state = jax.jit(train_step.init)(BATCH)
    return state, *jax.jit(train_step.step)(state, BATCH)


def expected_slope(x, slope=0.5, shift=0.25):
    """d/dslope of mean(y^2) + var(y)."""
    return 2 * np.mean((slope * x + shift) * x) + 2 * slope * np.var(x)


def test_each_role_takes_its_own_step():
    before, after, metrics = one_step(step_of())
    y = 0.5 * BATCH["x"] + 0.25
    assert jax.tree.structure(before.params) == jax.tree.structure({"line": {"slope": {"kernel": 0}}})
    np.testing.assert_allclose(
        after.params["line"]["slope"]["kernel"], 0.5 - RATE * expected_slope(BATCH["x"]), rtol=1e-5
    )
    np.testing.assert_allclose(
        after.adversary.params["critic"]["guess"]["kernel"], -1.0 - ADVERSARY_RATE * 2 * (-1.0 - y.mean()), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["loss"], np.mean(y**2) + np.var(y), rtol=1e-5)
    np.testing.assert_allclose(metrics["adversary/loss"], (-1.0 - y.mean()) ** 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["mean"], y.mean(), rtol=1e-5)
    # Averages: the main parameters', the frozen ones as they are, and none of the adversary's.
    assert float(after.ema_params["line"]["shift"]["kernel"]) == 0.25
    assert set(after.ema_params) == {"line"}
    moved = float(after.params["line"]["slope"]["kernel"])
    np.testing.assert_allclose(after.ema_params["line"]["slope"]["kernel"], 0.5 + 0.9 * (moved - 0.5), rtol=1e-5)


def test_frozen_parameters_do_not_decay():
    schedule = optax.constant_schedule(0.1)
    optimizer = adamw(schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.5, clip_norm=1.0)
    _, after, _ = one_step(step_of(optimizer=optimizer))
    assert float(after.ema_params["line"]["shift"]["kernel"]) == 0.25


@pytest.mark.parametrize("microbatches", [4, 8])
def test_means_over_examples_accumulate_exactly_and_terms_of_the_batch_are_each_microbatchs_own(microbatches):
    _, exact, _ = one_step(step_of(Line(weight=0.0)))
    _, in_parts, _ = one_step(step_of(Line(weight=0.0), microbatches))
    np.testing.assert_allclose(
        in_parts.params["line"]["slope"]["kernel"], exact.params["line"]["slope"]["kernel"], rtol=1e-5
    )
    _, after, _ = one_step(step_of(microbatches=microbatches))
    parts = BATCH["x"].reshape(-1, microbatches).T
    gradient = np.mean([expected_slope(part) for part in parts])
    assert abs(gradient - expected_slope(BATCH["x"])) > 0.01
    np.testing.assert_allclose(after.params["line"]["slope"]["kernel"], 0.5 - RATE * gradient, rtol=1e-5)


def test_an_evaluation_averages_the_examples_alone():
    train_step = step_of()
    state = jax.jit(train_step.init)(BATCH)
    mask = np.arange(8) < 5
    sums = train_step.evaluate(state, BATCH | {"mask": mask, "index": BATCH["id"]})
    np.testing.assert_allclose(sums["loss"], np.sum((0.5 * BATCH["x"] + 0.25)[mask] ** 2), rtol=1e-5)


def test_the_adversary_resumes_bit_by_bit(tmp_path):
    train_step, mesh = step_of(), sharding.make_mesh(jax.devices()[:1])
    step = jax.jit(train_step.step)
    state = jax.jit(train_step.init)(BATCH)
    states = [state]
    for _ in range(4):
        states.append(step(states[-1], BATCH)[0])
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        checkpointer.save(states[2], {"config": {}, "targets": {}, "data_position": 2})
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        resumed = checkpointer.restore(sharding.abstract_state(jax.eval_shape(train_step.init, BATCH), mesh), 2)
    for _ in range(2):
        resumed, _ = step(resumed, BATCH)
    tiny.assert_equal(jax.device_get(resumed), jax.device_get(states[4]))
    assert [name for name in read_arrays(str(tmp_path), 2) if "adversary" in name and "trace" in name]


def test_a_checkpoint_without_an_adversary_knows_of_none(tmp_path):
    state = jax.jit(step_of(Plain()).init)(BATCH)
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        checkpointer.save(state, {"config": {}, "targets": {}, "data_position": 0})
    assert not [name for name in read_arrays(str(tmp_path), 0) if "adversary" in name]


def test_roles_split_a_tree_and_it_merges_again():
    parts = by_role(START, Line.roles)
    assert parts[MAIN] == {"line": {"slope": {"kernel": 0.5}}} and parts[FROZEN] == {
        "line": {"shift": {"kernel": 0.25}}
    }
    assert merged(*parts.values()) == START
    assert by_role(START, {})[MAIN] is START and merged(START, {}, None) is START
    assert by_role({"critics": {"w": 1}}, Line.roles)[ADVERSARY] == {}  # whole names, not beginnings of them


@pytest.mark.parametrize("objective", [Line(), Plain()])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_devices_see_what_one_would(objective, microbatches):
    """Terms of the whole batch included, which no device could compute of its own part."""
    alone = step_of(objective, microbatches)
    together = dataclasses.replace(alone, devices=sharding.make_mesh(jax.devices()[:4]))
    (_, expected, row), (_, found, split_row) = one_step(alone), one_step(together)
    tiny.assert_close(jax.device_get(found), jax.device_get(expected), atol=1e-6)
    tiny.assert_close(jax.device_get(split_row), jax.device_get(row), atol=1e-6)


def test_a_term_of_the_whole_batch_must_be_declared():
    @dataclasses.dataclass(frozen=True)
    class Silent(Line):
        whole_batch: ClassVar[bool] = False

    with pytest.raises(ValueError, match=r"Silent gives Loss.whole or Loss.adversary, .* Silent.whole_batch=True"):
        one_step(step_of(Silent()))
