"""The diagnosis within training's evaluations: known answers, devices and padding, and what the log says."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax import build
from soda_jax.data.pipeline import train_batches
from soda_jax.diffusion.gaussian import Diffusion
from soda_jax.metrics.latent_use import IGNORED, USED, verdict
from soda_jax.models import capabilities
from soda_jax.objectives.objective import Loss
from soda_jax.parallel import sharding
from soda_jax.training import latent_use
from soda_jax.training.online import OnlineEvaluator
from tests import tiny
from tests.training.test_online import COUNT, Images, Objects

NAMES = {
    f"latent_use/{name}{level}"
    for name in ("own", "other", "none", "saved", "saved_error", "saved_none", "saved_none_error")
    for level in ("", "_t0", "_t1", "_t2", "_t3")
}


class Known:
    """An objective whose losses can be told by hand: 1, and the squared distance of z from what it should be.

    z is the mean of the target; `use` is how much of it the denoiser sees.
    """

    diffusion = Diffusion.create(num_timesteps=100)
    roles, adversary_optimizer, whole_batch = {}, None, False
    model = types.SimpleNamespace(capabilities=frozenset({capabilities.LATENT, capabilities.GUIDANCE}))

    def __init__(self, use):
        self.use = use

    def guide(self, variables, batch, draw, train):
        return batch["target"].astype(jnp.float32).mean((1, 2, 3))[:, None] / 255, {}, {}

    def whole_latent(self, batch):
        return jnp.ones((batch["target"].shape[0], 1))

    def error(self, variables, batch, noised, z, section_mask, draw=None):
        wanted, _, _ = self.guide(variables, batch, draw, False)
        return 1 + jnp.square(self.use * (z * section_mask - wanted))[:, 0]

    def loss(self, variables, batch, draw, train):
        error = self.error(variables, batch, None, self.guide(variables, batch, draw, train)[0], 1)
        return Loss(error, {}, {})


def evaluated(train_step, state, dataset, spec, batch_size, devices):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    evaluator = OnlineEvaluator(train_step, dataset, spec, mesh, batch_size=batch_size, limit=None)
    return evaluator.run(sharding.put_replicated(state, mesh))


def known(use, images):
    config = tiny.get_config(probe__kind="none", data__augment_source=False, data__augment_target=False)
    train_step = tiny.train_step(config, objective=Known(use))
    state = tiny.initial(tiny.train_step(config)).replace(probe=None)
    return evaluated(train_step, state, images, build.view_spec(config), 32, 1)


def test_known_answers():
    """Half of the images are black and half white, so that another's latent is always the wrong one."""
    images = Images()
    images.images[:] = 0
    images.images[COUNT // 2 :] = 255
    found = known(1.0, images)
    assert found["eval/loss"] == 1 and NAMES <= found.keys()
    # Of 21 images the partner is ten further on: one black image has a black partner.
    black, white = COUNT // 2, COUNT - COUNT // 2
    for level in ("", "_t0", "_t3"):
        assert found[f"latent_use/own{level}"] == 1
        assert found[f"latent_use/none{level}"] == pytest.approx(1 + white / COUNT)
        assert found[f"latent_use/other{level}"] == pytest.approx(1 + 2 * black / COUNT)
    assert found["latent_use/saved"] == pytest.approx(1 - 1 / (1 + 2 * black / COUNT))


def test_an_ignored_latent(monkeypatch):
    warnings = []
    monkeypatch.setattr(latent_use.logging, "warning", lambda text, *values: warnings.append(text % values))
    found = known(0.0, Images())
    assert {found[f"latent_use/{name}"] for name in ("own", "other", "none")} == {1.0}
    assert found["latent_use/saved"] == 0
    assert latent_use.remark(found, 40, 1000, 1.0).endswith("0.0% of the loss with others' (the run is young)")
    assert not warnings
    assert latent_use.remark(found, 1000, 1000, 1.0) == ", own latents save 0.0% of the loss with others'"
    assert len(warnings) == 1 and warnings[0].startswith("step 1000: The denoiser ignores the latent: the loss is 1 ")
    assert "config.diffusion.latent_mask_rate=1 hides it" in warnings[0]
    assert latent_use.remark({"eval/loss": 1.0}, 1000, 1000, 1.0) == "" and len(warnings) == 1


@pytest.mark.parametrize("posed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_devices_and_padding_do_not_matter(posed):
    """21 images on one device, and with three of padding on four; with cameras, and a random one of two sources."""
    if posed:
        config = tiny.posed_config(model__aggregation__name="stochastic", probe__kind="none")
    else:
        config = tiny.get_config(probe__kind="none", data__augment_source=False, data__augment_target=False)
    train_step = tiny.train_step(config)
    state, spec, dataset = tiny.initial(train_step), build.view_spec(config), Objects() if posed else Images()
    one = evaluated(train_step, state, dataset, spec, COUNT, 1)
    four = evaluated(train_step, state, dataset, spec, COUNT, 4)
    assert one.keys() == four.keys() == NAMES | {"eval/loss"}
    for name, value in one.items():
        assert four[name] == pytest.approx(value, abs=1e-5), name
    assert abs(one["latent_use/own"] - one["latent_use/other"]) > 1e-5
    np.testing.assert_allclose(one["latent_use/own"], np.mean([one[f"latent_use/own_t{i}"] for i in range(4)]))


class Colours(Images):
    """Images of one colour each, which the latent can tell, and noise cannot hide from it."""

    def __init__(self, count=64, seed=5):
        super().__init__()
        colours = np.random.default_rng(seed).integers(0, 256, (count, 1, 1, 3), np.uint8)
        self.images, self.factors = np.tile(colours, (1, 8, 8, 1)), np.zeros((count, 2), np.int32)

    def __len__(self):
        return len(self.images)


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "expected"), [(0.12, USED), (1.0, IGNORED)])
def test_training_uses_the_latent_unless_it_is_hidden(hidden, expected):
    overrides = {"data__augment_source": False, "data__augment_target": False, "data__view_policy": "same"}
    still = {"model__encoder__norm": "group", "model__encoder__drop_path": 0.0, "model__denoiser__dropout": 0.0}
    config = tiny.get_config(
        probe__kind="none", diffusion__latent_mask_rate=hidden, optim__learning_rate=1e-2, **still, **overrides
    )
    train_step, spec, dataset = tiny.train_step(config), build.view_spec(config), Colours()
    batches = train_batches(Colours(1000, seed=6), spec, batch_size=16, seed=0)
    step, mesh = tiny.stepper(train_step)
    state = jax.device_get(jax.jit(train_step.init)(batches[0]))
    state, _ = tiny.run(step, mesh, state, (batches[i] for i in range(600)))
    found = evaluated(train_step, state, dataset, spec, 64, 1)
    assert verdict(found, 600, settled=500) == expected
