"""`Inference`: one compiled program for every request of a run, untrained weights and measured statistics."""

import jax
import numpy as np
import pytest

from soda_jax import inputs
from soda_jax.inference.engine import Inference
from soda_jax.parallel import sharding
from tests import tiny, tiny_checkpoint


@pytest.fixture(scope="module")
def config():
    return tiny.get_config()


@pytest.fixture(scope="module")
def inference(config):
    return Inference(config, sharding.make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def variables(config):
    return tiny_checkpoint.random_variables(config)


def test_untrained_weights_are_those_that_training_starts_from(config, inference):
    init = jax.jit(tiny.train_step(config).init, compiler_options={"xla_backend_optimization_level": 0})
    state = jax.device_get(init(tiny.batch(1)))
    untrained = jax.device_get(inference.untrained_variables())
    tiny.assert_close(untrained, {"params": state.params, "batch_stats": state.batch_stats}, atol=1e-6)
    tiny.assert_close(untrained, jax.device_get(state.ema_variables), atol=1e-6)


def test_shapes_without_weights(inference, variables):
    abstract = inference.abstract_variables()
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables)
    assert inference.latent_shape == (16,)
    assert inference.num_sections == 3


@pytest.mark.parametrize(
    ("count", "batch", "largest_batch"), [(1, 1, 1), (3, 4, 4), (8, 8, 8), (9, 16, 8), (100, 16, 8)]
)
def test_small_requests_take_small_batches(inference, variables, monkeypatch, count, batch, largest_batch):
    """One image of a user should not cost the time of a whole evaluation batch."""
    seen = []

    def encode(variables, batch, feature):
        seen.append(batch["source"].shape[0])
        return np.zeros((seen[-1], 16), np.float32)

    monkeypatch.setattr(inference, "_encode", encode)
    source = tiny.batch(count)["source"]
    assert inference.encode(variables, source).shape == (count, 16)
    assert seen == [batch] * -(-count // batch)
    assert inference._batch_size(count, inference.sample_batch_size) == largest_batch


def test_batches_divide_over_the_devices(config):
    eight = Inference(tiny.get_config(eval__batch_size=10, sampling__batch_size=1))
    assert (eight.eval_batch_size, eight.sample_batch_size) == (16, 8)
    assert [eight._batch_size(count, 16) for count in (1, 8, 9, 1000)] == [8, 8, 16, 16]
    three = Inference(config, sharding.make_mesh(jax.devices()[:3]))
    assert all(three._batch_size(count, 18) % 3 == 0 for count in range(1, 40))


def test_masked_views_do_not_count(inference, variables):
    batch = tiny.batch(4, views=2)
    mask = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], bool)
    z = inference.encode(variables, batch["source"], mask)
    spoilt = np.where(mask[:, :, None, None, None], batch["source"], 255).astype(np.uint8)
    np.testing.assert_array_equal(inference.encode(variables, spoilt, mask), z)
    first = inference.encode(variables, batch["source"][1:2, :1])
    np.testing.assert_allclose(z[1], first[0], atol=1e-5)


def test_features_by_name(inference, variables):
    batch = tiny.batch(4, views=2)
    by_name = {
        name: next(inference.encode_batches(variables, [batch], name)) for name in ("latent", "z", "pooled", "stage1")
    }
    assert {name: value.shape for name, value in by_name.items()} == {
        "latent": (4, 16),
        "z": (4, 16),
        "pooled": (4, 8),
        "stage1": (4, 8),
    }
    np.testing.assert_array_equal(by_name["latent"], by_name["z"])
    source = inputs.normalise_source(batch["source"]).reshape(8, 8, 8, 3)
    _, out = jax.jit(inference.model.encoder.apply)({name: tree["encoder"] for name, tree in variables.items()}, source)
    np.testing.assert_allclose(
        by_name["stage1"], np.asarray(out["stage1"]).reshape(4, 2, 64, 8).mean(axis=(1, 2)), atol=1e-5
    )
    with pytest.raises(ValueError, match="feature='stage9': the encoder names stem, stage1, features"):
        next(inference.encode_batches(variables, [batch], "stage9"))


def test_calibrated_statistics_are_the_batches_own(inference, variables):
    """BatchNorm's moving average over k batches, for the norm that reads the stem, in closed form."""
    batches = [tiny.batch(16, seed=seed) for seed in range(3)]
    untrained = variables | {"batch_stats": jax.tree.map(np.zeros_like, variables["batch_stats"])}
    calibrated = jax.device_get(inference.calibrate(untrained, batches))
    tiny.assert_equal(calibrated["params"], variables["params"])
    mean, var = np.zeros(8), np.zeros(8)
    for batch in batches:
        padded = np.pad(inputs.normalise_source(batch["source"][:, 0]), ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        stem = np.einsum("nhwcij,ijco->nhwo", windows, variables["params"]["encoder"]["stem"]["kernel"])
        mean = 0.9 * mean + 0.1 * stem.mean(axis=(0, 1, 2))
        var = 0.9 * var + 0.1 * stem.var(axis=(0, 1, 2))
    measured = calibrated["batch_stats"]["encoder"]["stage1_unit1"]["norm1"]
    np.testing.assert_allclose(measured["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(measured["var"], var, rtol=1e-4)


def test_nothing_to_calibrate_without_batch_norm():
    grouped = Inference(tiny.get_config(model__encoder__norm="group"))
    variables = {"params": {}, "batch_stats": {}}
    assert grouped.calibrate(variables, iter(lambda: pytest.fail("a batch was read"), None)) is variables


def test_one_program_for_every_scale_seed_and_length(inference, variables):
    z = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    for options in ({}, {"guidance_scale": 3.0}, {"seed": 4}, {"first_index": 9}, {"num_steps": 2}):
        inference.sample(variables, z, **options)
    inference.sample(variables, z[:5])
    (sampler,) = inference._samplers.values()
    assert sampler._cache_size() == 1
    for count in (6, 8):  # unguided: what is guided by nothing costs half, by a program of its own
        inference.sample_unconditional(variables, count)
    assert [sampler._cache_size() for sampler in inference._samplers.values()] == [1, 1]


@pytest.mark.parametrize(("scale", "guided"), [(1.0, False), (2.0, True), (0.0, True), (None, True)])
def test_scale_one_is_not_paid_twice(inference, monkeypatch, scale, guided):
    asked = []

    def sampler(num_steps, **options):
        asked.append(options)
        return lambda variables, key, indices, *_: {"images": jax.numpy.zeros((len(indices), 8, 8, 3))}

    monkeypatch.setattr(inference, "sampler", sampler)
    inference.sample({}, np.zeros((1, 16)), guidance_scale=scale)
    assert asked == [{"guided": guided}]


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_the_configs_noise_level_is_ddims_alone(method):
    """A run configured for stochastic DDIM can still be sampled by DDPM."""
    inference = Inference(tiny.get_config(sampling__method="ddim", sampling__eta=0.5))
    assert callable(inference.sampler(2, method=method))
