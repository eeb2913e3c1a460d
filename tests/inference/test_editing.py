"""Walks and edits through `soda_jax.load`: which latents are drawn, from which noise, and what is refused."""

import dataclasses

import numpy as np
import pytest

import soda_jax
from soda_jax.latents.directions import StrengthWarning, measured
from soda_jax.latents.pca import fit_pca
from soda_jax.workdir import directions as files
from tests import tiny, tiny_checkpoint

SIDE, WIDTH, SECTIONS = 8, 16, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
OTHERS = RNG.integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def loaded(tmp_path_factory, **overrides):
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(folder, tiny.get_config(**overrides), 5)
    return soda_jax.load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loaded(tmp_path_factory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model whose blocks all see the whole latent."""
    return loaded(tmp_path_factory, model__modulation__kind="full")


@pytest.fixture(scope="module")
def line(model):
    codes = model.encode(RNG.integers(0, 256, (40, SIDE, SIDE, 3), np.uint8))
    vector = RNG.standard_normal(WIDTH)
    return measured(vector, codes, name="line", kind="test", num_sections=SECTIONS, model=model.weights_digest)


def single(model, z, index, **options):
    """The image of one latent, drawn by itself from (seed 0, index)."""
    return model.sample(z[None], first_index=index, **options)[0]


def test_interpolation_ends_are_the_reconstructions(model):
    frames = model.interpolate(IMAGES, OTHERS, 4)
    assert frames.shape == (3, 4, SIDE, SIDE, 3) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames[:, 0], model.reconstruct(IMAGES))
    np.testing.assert_array_equal(frames[:, -1], model.reconstruct(OTHERS))
    middle = (2 * model.encode(IMAGES) + model.encode(OTHERS)) / 3
    np.testing.assert_allclose(frames[1, 1].astype(int), single(model, middle[1], 1).astype(int), atol=1)


def test_frames_of_a_series_share_their_noise(model, line):
    frames = model.traverse(IMAGES, line, (0, 0.5, 0))
    np.testing.assert_array_equal(frames[:, 0], frames[:, 2])
    np.testing.assert_array_equal(frames[:, 0], model.reconstruct(IMAGES))
    assert (frames[:, 0] != frames[:, 1]).any()
    assert (model.traverse(IMAGES, line, (0,), seed=1) != frames[:, :1]).any()


def test_an_edit_draws_the_moved_latent(model, line):
    z = model.encode(IMAGES)
    expected = model.sample(z + 0.5 * line.std * line.vector)
    np.testing.assert_array_equal(model.edit(IMAGES, {line: 0.5}), expected)
    np.testing.assert_array_equal(model.sample(model.move(z, {line: 0.5})), expected)
    as_float = model.edit(IMAGES / 255.0, {line: 0.5})
    assert as_float.dtype == np.float32 and 0 <= as_float.min() and as_float.max() <= 1
    np.testing.assert_array_equal(np.rint(as_float * 255), expected)


def test_sections_limit_an_edit(model, line):
    z = model.encode(IMAGES)
    moved = model.move(z, {line: 0.5}, sections="1-2")
    np.testing.assert_array_equal(moved[:, :6], z[:, :6])
    np.testing.assert_allclose(moved[:, 6:], (z + 0.5 * line.std * line.vector)[:, 6:], rtol=1e-6)


def test_held_directions_stay(model, line):
    other = dataclasses.replace(line, vector=np.eye(WIDTH)[2], name="other")
    z = model.encode(IMAGES)
    moved = model.move(z, {line: 0.5}, hold=[other])
    np.testing.assert_allclose(moved[:, 2], z[:, 2], rtol=1e-6)
    np.testing.assert_allclose(line.position(moved), line.position(z) + 0.5)


def test_mixing_takes_inner_sections_of_one_and_outer_of_the_other(model):
    choice = np.stack([np.arange(3), np.arange(3) + 3, np.arange(3) + 3], axis=1)
    z = np.concatenate([model.encode(IMAGES), model.encode(OTHERS)])
    np.testing.assert_array_equal(model.mix(IMAGES, OTHERS), model.sample(z, section_choice=choice))
    both = model.mix(IMAGES, OTHERS, sections="0-2")
    np.testing.assert_array_equal(both, model.reconstruct(IMAGES))


def test_resampling_drops_a_range_and_draws_it_anew(model):
    frames = model.resample(IMAGES[:2], sections="0-1", num=3)
    assert frames.shape == (2, 3, SIDE, SIDE, 3)
    z = np.repeat(model.encode(IMAGES[:2]), 3, axis=0)
    expected = model.sample(z, section_mask=np.array([0, 0, 1]))
    np.testing.assert_array_equal(frames.reshape(expected.shape), expected)


def test_inverted_noise_gives_the_image_back(tmp_path_factory):
    # Random weights that predict v on the linear schedule: with eps their errors are divided by next to nothing.
    model = loaded(tmp_path_factory, diffusion__schedule="linear", diffusion__prediction="v")
    start = model.invert(IMAGES, sampling_steps=20)
    assert start.shape == (3, SIDE, SIDE, 3) and start.dtype == np.float32
    codes = model.encode(IMAGES)
    still = measured(np.ones(WIDTH), codes, name="still", kind="test")
    back = model.edit(IMAGES, {still: 0.0}, start=start, sampling_steps=20)
    fresh = model.edit(IMAGES, {still: 0.0}, sampling_steps=20)
    errors = [np.abs(images.astype(int) - IMAGES).mean() for images in (back, fresh)]
    assert errors[0] < 1 and errors[1] > 20  # of 255; fresh noise tells nothing of the images
    pair = model.interpolate(IMAGES, IMAGES[::-1], 3, start=(start, start[::-1]), sampling_steps=20)
    np.testing.assert_array_equal(pair[:, 0], back)


def test_new_images_from_the_prior(model):
    prior = fit_pca(model.encode(RNG.integers(0, 256, (40, SIDE, SIDE, 3), np.uint8)))
    drawn = model.sample_prior(4, prior=prior, seed=3)
    np.testing.assert_array_equal(drawn, model.sample(prior.sample(4, seed=3), seed=3))
    means = model.sample_prior(2, prior=prior, truncation=0.0)
    np.testing.assert_array_equal(means, model.sample(np.stack([prior.mean] * 2)))
    files.save_prior(prior, files.folder(model.workdir, model.step), model=model.weights_digest, count=40)
    np.testing.assert_array_equal(model.sample_prior(4, seed=3), drawn)


def test_directions_of_the_workdir_go_by_name(tmp_path_factory, line):
    model = loaded(tmp_path_factory)
    files.save(line, files.folder(model.workdir, model.step))
    assert list(model.directions) == ["line"]
    np.testing.assert_array_equal(model.edit(IMAGES, {"line": 0.5}), model.edit(IMAGES, {line: 0.5}))


def test_an_export_carries_its_originals_digest(model):
    export = dataclasses.replace(model, meta={"weights_digest": "c" * 64})
    assert export.weights_digest == "c" * 64 != model.weights_digest
    assert dataclasses.replace(model, meta={"weights_digest": "nonsense"}).weights_digest == model.weights_digest


def test_models_without_sections_edit_as_a_whole(whole):
    codes = whole.encode(RNG.integers(0, 256, (40, SIDE, SIDE, 3), np.uint8))
    line = measured(np.ones(WIDTH), codes, name="line", kind="test")
    assert whole.edit(IMAGES, {line: 0.5}).shape == IMAGES.shape
    assert whole.interpolate(IMAGES, OTHERS, 2).shape == (3, 2, SIDE, SIDE, 3)
    with pytest.raises(ValueError, match="latent acts as a whole, without sections; leave sections out"):
        whole.edit(IMAGES, {line: 0.5}, sections="0-1")
    for call in (lambda: whole.mix(IMAGES, OTHERS), lambda: whole.resample(IMAGES, sections="0")):
        with pytest.raises(ValueError, match="without sections; .* has nothing to take apart"):
            call()


def test_a_decoder_without_noise_walks_too(tmp_path_factory):
    model = loaded(tmp_path_factory, model__family="encdec")
    frames = model.interpolate(IMAGES, OTHERS, 3)
    np.testing.assert_array_equal(frames[:, 0], model.reconstruct(IMAGES))
    for call in (lambda: model.invert(IMAGES), lambda: model.resample(IMAGES, sections="0")):
        with pytest.raises(ValueError, match="needs a model with sampling from noise"):
            call()


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"model__aggregation__name": "stochastic"}, "one for each source view"),
        ({"model__bottleneck": False, "model__modulation__kind": "cross_attention"}, "a grid of tokens"),
    ],
)
def test_latents_that_are_no_vector(tmp_path_factory, overrides, what):
    model = loaded(tmp_path_factory, **overrides)
    with pytest.raises(ValueError, match=f"interpolate needs a latent that is one vector, and this model's is {what}"):
        model.interpolate(IMAGES, OTHERS)


def test_bad_requests(model, line):
    foreign = dataclasses.replace(line, model="f" * 64)
    cases = [
        (lambda: model.edit(IMAGES, {foreign: 1.0}), "direction 'line' is of other weights"),
        (lambda: model.edit(IMAGES, {"hat": 1.0}), "there is no direction 'hat'; this checkpoint has: none"),
        (lambda: model.edit(IMAGES, {3: 1.0}), "direction is a int; give a latents Direction"),
        (lambda: model.edit(IMAGES, {}), "no direction to move along"),
        (lambda: model.edit(IMAGES, {line: np.inf}), "sigma of 'line'=inf"),
        (lambda: model.edit(IMAGES, {line: 1.0}, sections="0-3"), "the latent has sections 0-2"),
        (lambda: model.traverse(IMAGES, line, ()), "give at least one strength"),
        (lambda: model.interpolate(IMAGES, OTHERS[:2]), "give as many of each"),
        (lambda: model.interpolate(IMAGES, OTHERS, 1), "steps=1: give at least 2"),
        (lambda: model.interpolate(IMAGES, OTHERS, start=np.zeros((3, SIDE, SIDE, 3))), "give a pair"),
        (lambda: model.mix(IMAGES, OTHERS[:2]), "give as many of each"),
        (lambda: model.resample(IMAGES, sections="0", num=0), "num=0"),
        (lambda: model.edit(IMAGES, {line: 0.0}, start=np.zeros((2, SIDE, SIDE, 3))), "start has shape"),
        (lambda: model.sample_prior(2, prior=fit_pca(RNG.standard_normal((9, 5)))), "the prior has 5 dimensions"),
        (
            lambda: model.sample_prior(2, truncation=2.0, prior=fit_pca(RNG.standard_normal((40, WIDTH)))),
            "truncation=2",
        ),
        (lambda: model.move(np.full((1, WIDTH), np.nan), {line: 1.0}), "NaN"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_strength_beyond_the_data_warns(model, line):
    with pytest.warns(StrengthWarning, match="line: edited codes lie at"):
        model.move(model.encode(IMAGES), {line: 40.0})
