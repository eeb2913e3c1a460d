"""What each objective's loss is, against the paper's equation written out in NumPy; on any devices and microbatches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax import inputs, rngs
from soda_jax.diffusion import schedules
from soda_jax.models import capabilities
from soda_jax.models.families import FAMILIES
from tests import tiny

COUNT = 6
PLAIN = {"probe__kind": "none", "model__encoder__norm": "group", "data__source_noise": 0.0}
STILL = {"model__encoder__drop_path": 0.0, "model__latent_dropout": 0.0, "model__denoiser__dropout": 0.0}


def setup(**overrides):
    train_step = tiny.train_step(tiny.get_config(**(PLAIN | overrides)))
    return train_step, tiny.initial(train_step)


def found(train_step, state, batch, train, step=3):
    draw = rngs.Draws(train_step.root, step, batch["id"])
    loss = jax.jit(
        lambda variables, batch: train_step.objective.loss(variables, batch, draw, train),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return loss(state.ema_variables, batch), draw


@pytest.mark.parametrize("train", [True, False])
def test_the_loss_of_soda_is_the_papers_equation(train):
    """|| eps - D(sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t, z) ||^2, from the same draws."""
    train_step, state = setup(**STILL, diffusion__latent_mask_rate=0.5, diffusion__layer_mask_rate=0.0)
    batch = tiny.batch(COUNT)
    loss, draw = found(train_step, state, batch, train)
    x_0 = batch["target"] / 127.5 - 1
    t = np.asarray(draw("timestep", lambda key: jax.random.randint(key, (), 1, 101)))
    eps = np.asarray(draw("noise", lambda key: jax.random.normal(key, (8, 8, 3))))
    kept = np.asarray(draw("latent_mask", lambda key: jax.random.bernoulli(key, 0.5, (1,)))) if train else 1
    abar = schedules.alphas_cumprod("inverted", 100)[t][:, None, None, None]
    x_t = (np.sqrt(abar) * x_0 + np.sqrt(1 - abar) * eps).astype(np.float32)
    model, variables = train_step.objective.model, state.ema_variables
    source = inputs.normalise_source(batch["source"])
    z, _ = model.apply(variables, source, batch["source_mask"], method="encode")
    mask = np.broadcast_to(np.float32(kept), (COUNT, model.num_sections))
    predicted, _ = model.apply(variables, x_t, t, z, mask, method="denoise")
    np.testing.assert_allclose(loss.per_example, np.square(predicted - eps).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(loss.features["latent"], z, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_the_loss_of_the_encoder_decoder_is_the_squared_error(train):
    train_step, state = setup(**STILL, model__family="encdec")
    batch = tiny.batch(COUNT)
    loss, _ = found(train_step, state, batch, train)
    model, variables = train_step.objective.model, state.ema_variables
    z, _ = model.apply(variables, inputs.normalise_source(batch["source"]), batch["source_mask"], method="encode")
    decoded, _ = model.apply(variables, z, jnp.ones((COUNT, model.num_sections)), method="decode")
    expected = np.square(decoded - (batch["target"] / 127.5 - 1)).mean((1, 2, 3))
    np.testing.assert_allclose(loss.per_example, expected, rtol=1e-4)
    assert np.abs(decoded).max() > 0.1


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("family", ["uncond", "palette"])
def test_the_loss_of_a_denoiser_alone_is_sodas_without_a_latent(family, train):
    """Palette sees the source at the target's size, too."""
    train_step, state = setup(**STILL, model__family=family, data__source_resolution=16)
    batch = tiny.batch(COUNT)
    batch["source"] = np.repeat(np.repeat(batch["source"], 2, axis=2), 2, axis=3)
    loss, draw = found(train_step, state, batch, train)
    assert loss.features == {} and loss.whole is None and loss.adversary is None
    x_0 = batch["target"] / 127.5 - 1
    t = np.asarray(draw("timestep", lambda key: jax.random.randint(key, (), 1, 101)))
    eps = np.asarray(draw("noise", lambda key: jax.random.normal(key, (8, 8, 3))))
    abar = schedules.alphas_cumprod("inverted", 100)[t][:, None, None, None]
    x_t = (np.sqrt(abar) * x_0 + np.sqrt(1 - abar) * eps).astype(np.float32)
    model, variables = train_step.objective.model, state.ema_variables
    denoiser = {"params": variables["params"]["denoiser"]}
    source = None
    if family == "palette":
        source = jax.image.resize(inputs.normalise_source(batch["source"][:, 0]), (COUNT, 8, 8, 3), "linear")
        assert denoiser["params"]["conv_in"]["kernel"].shape[2] == 6
    predicted, _ = model.denoiser.apply(denoiser, x_t, t, None, None, source=source)
    np.testing.assert_allclose(loss.per_example, np.square(predicted - eps).mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_every_family(family):
    """Finite losses, and every part moves; what stands beside the loss in the log is of the family."""
    config = tiny.get_config(model__family=family, model__vae__factor_width=8, data__source_noise=0.1)
    train_step = tiny.train_step(config)
    start = tiny.initial(train_step)
    state, rows = tiny.run(*tiny.stepper(train_step), start, [tiny.batch()])
    assert all(np.isfinite(value).all() for value in rows[0].values()), rows
    for part, before in start.params.items():
        moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (state.params[part], before)), strict=True)]
        assert max(moved) > 0, part
    if start.adversary is not None:
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.adversary.params, start.adversary.params)
        assert min(jax.tree.leaves(moved)) > 0
        assert 0 < rows[0]["adversary/loss"] < 2
    has_latent = capabilities.LATENT in FAMILIES[family].capabilities
    assert (state.probe is not None) == has_latent
    assert train_step.objective.model.title == FAMILIES[family].title


def largest(grads):
    """The size of the largest gradient, or 1."""
    return max(1.0, *(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads)))


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("soda", "encdec", "autoenc")])
def test_every_family_trains_the_same_on_any_devices(family):
    config = tiny.get_config(**PLAIN, model__family=family, model__vae__factor_width=8)
    train_step = tiny.train_step(config, optimizer=tiny.either_optimizer(0.02))
    start, batch = tiny.initial(train_step), tiny.batch()
    whole, (row,) = tiny.run(*tiny.stepper(train_step), start, [batch])
    scale = largest(whole.opt_state.grads)  # of a VAE with its sums over pixels, up to 1e5
    for devices in (2, 4):
        split, (split_row,) = tiny.run(*tiny.stepper(train_step, devices), start, [batch])
        for key in row:
            np.testing.assert_allclose(split_row[key], row[key], atol=1e-5, rtol=1e-5, err_msg=key)
        tiny.assert_close(split.opt_state.grads, whole.opt_state.grads, atol=1e-5 * scale)
        tiny.assert_close(split.adversary, whole.adversary, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["uncond", "palette", "vae_beta"])
def test_losses_that_are_means_over_examples_accumulate_exactly(family):
    config = tiny.get_config(**PLAIN, model__family=family)
    train_step = tiny.train_step(config, optimizer=tiny.either_optimizer(0.02))
    start, batch = tiny.initial(train_step), tiny.batch()
    whole, rows = tiny.run(*tiny.stepper(train_step), start, [batch])
    in_parts, part_rows = tiny.run(*tiny.stepper(dataclasses.replace(train_step, microbatches=4)), start, [batch])
    scale = largest(whole.opt_state.grads)
    np.testing.assert_allclose(part_rows[0]["loss"], rows[0]["loss"], rtol=1e-5)
    tiny.assert_close(in_parts.opt_state.grads, whole.opt_state.grads, atol=1e-5 * scale)


@pytest.mark.parametrize("family", ["soda", "encdec"])
def test_training_is_random_and_evaluation_is_not(family):
    train_step, state = setup(model__family=family, data__source_noise=0.5)
    batch = tiny.batch(COUNT)
    first, again, later = (found(train_step, state, batch, True, step)[0].per_example for step in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - later).min() > 1e-4
    evaluated, _ = found(train_step, state, batch, False)
    np.testing.assert_array_equal(evaluated.per_example, found(train_step, state, batch, False)[0].per_example)
    plain = inputs.normalise_source(batch["source"][:, 0])
    np.testing.assert_allclose(evaluated.features["pixels"], plain, atol=1e-5)  # no source noise


@pytest.mark.slow
def test_the_encoder_decoder_trains_the_same_on_any_devices_and_microbatches():
    """Every random part is on; SGD, as Adam would hide a gradient that is wrong by a factor."""
    config = tiny.get_config(**PLAIN | {"data__source_noise": 0.1}, model__family="encdec")
    train_step = tiny.train_step(config, optimizer=tiny.either_optimizer(0.02))
    start, batches = tiny.initial(train_step), [tiny.batch(seed=seed) for seed in range(2)]
    whole, rows = tiny.run(*tiny.stepper(train_step), start, batches)
    in_parts = dataclasses.replace(train_step, microbatches=4)
    for other in (tiny.stepper(train_step, 4), tiny.stepper(in_parts, 2)):
        split, split_rows = tiny.run(*other, start, batches)
        for key in rows[0]:
            np.testing.assert_allclose([r[key] for r in split_rows], [r[key] for r in rows], atol=1e-5, err_msg=key)
        tiny.assert_close(split.opt_state.grads, whole.opt_state.grads, atol=1e-5)
    norms = {key: value for key, value in rows[0].items() if key.startswith("grad_norm/")}
    assert set(norms) == {"grad_norm/encoder", "grad_norm/decoder"} and min(norms.values()) > 1e-3
