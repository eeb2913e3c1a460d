"""`soda_jax.load`: what a user gets from a workdir, and what a user's mistakes are answered."""

import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

import soda_jax
from tests import tiny, tiny_checkpoint

SIDE, LATENT_DIM, SECTIONS = 8, 16, 3
SECTION_SIZES = (6, 5, 5)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(folder, tiny.get_config(), 5, 10)
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return soda_jax.load(workdir)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def latents(model, images):
    return model.encode(images)


def test_newest_checkpoint_or_the_one_asked_for(workdir, model):
    expected = tiny_checkpoint.random_variables(tiny.get_config(), seed=10)
    tiny.assert_equal(jax.device_get(model.variables), expected)
    older = soda_jax.load(workdir, step=5)
    assert (model.step, older.step) == (10, 5)
    tiny.assert_equal(jax.device_get(older.variables), tiny_checkpoint.random_variables(tiny.get_config(), seed=5))


def test_the_best_checkpoint_is_the_one_that_training_found(tmp_path):
    tiny_checkpoint.write(tmp_path, tiny.get_config(), 5, 10)
    with pytest.raises(FileNotFoundError, match="step='best': .* trained without config.train.monitor"):
        soda_jax.load(tmp_path, step="best")
    (tmp_path / "best.json").write_text('{"step": 5, "metric": "eval/loss", "value": 0.5}')
    assert (soda_jax.load(tmp_path, step="best").step, soda_jax.load(tmp_path).step) == (5, 10)
    (tmp_path / "best.json").write_text('{"step": 6, "metric": "eval/loss", "value": 0.5}')
    with pytest.raises(FileNotFoundError, match="step='best'"):
        soda_jax.load(tmp_path, step="best")
    for step in ("newest", 5.0, True):
        with pytest.raises(ValueError, match=f"step={step!r}: give a checkpoint's step, or 'best'"):
            soda_jax.load(tmp_path, step=step)


def test_the_model_describes_itself(model):
    assert model.config == tiny.get_config()
    assert (model.latent_dim, model.num_sections) == (LATENT_DIM, SECTIONS)
    assert repr(model) == "LoadedModel(step=10)"  # not thousands of weights


def test_nothing_to_load(tmp_path, workdir):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: train first with python -m soda_jax.main"):
        soda_jax.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        soda_jax.load(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of step 7"):
        soda_jax.load(workdir, step=7)


def test_latents_of_bytes_and_floats_are_the_same(model, images, latents):
    assert latents.shape == (5, LATENT_DIM) and latents.dtype == np.float32
    assert np.ptp(latents, axis=0).min() > 0  # other images, other latents
    for dtype in (np.float64, np.float32):
        np.testing.assert_array_equal(model.encode((images / 255.0).astype(dtype)), latents)
    np.testing.assert_array_equal(model.encode(jax.numpy.asarray(images)), latents)


def test_floats_a_rounding_error_outside_are_clipped(model, images, latents):
    floats = images.astype(np.float32) / 255.0
    shifted = np.where(floats > 0.5, floats * (1 + 1e-6), floats - 1e-6)
    assert shifted.max() > 1 and shifted.min() < 0
    np.testing.assert_array_equal(model.encode(shifted), latents)


def test_a_pickled_model_gives_the_same_latents(model, images, latents):
    again = pickle.loads(pickle.dumps(model))
    assert (again.step, again.config) == (model.step, model.config)
    np.testing.assert_allclose(again.encode(images), latents, atol=1e-6)


def test_latents_do_not_depend_on_the_request(model, images, latents):
    one_by_one = np.concatenate([model.encode(image[None]) for image in images])
    np.testing.assert_allclose(one_by_one, latents, atol=1e-5)
    many = model.encode(np.tile(images, (8, 1, 1, 1)))  # 40 images in batches of 16
    np.testing.assert_allclose(many, np.tile(latents, (8, 1)), atol=1e-5)


def test_other_sizes_are_cropped_and_resized(model, images, latents):
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    padded = np.pad(larger, ((0, 0), (0, 0), (3, 3), (0, 0)), constant_values=255)
    np.testing.assert_array_equal(model.encode(larger), latents)
    np.testing.assert_array_equal(model.encode(padded), latents)
    assert model.encode(images[:, :5, :7]).shape == latents.shape


def test_several_views_are_averaged_where_present(model, images, latents):
    views = np.stack([images[:2], images[2:4]], axis=1)
    means = (latents[:2] + latents[2:4]) / 2
    np.testing.assert_allclose(model.encode(views), means, atol=1e-5)
    masked = model.encode(views, view_mask=[[1, 1], [0, 1]])
    np.testing.assert_allclose(masked, [means[0], latents[3]], atol=1e-5)


def test_reconstructions_are_of_the_kind_that_went_in(model, images, latents):
    as_bytes, as_floats = model.reconstruct(images), model.reconstruct(images / 255.0)
    assert as_bytes.shape == as_floats.shape == (5, SIDE, SIDE, 3)
    assert as_bytes.dtype == np.uint8 and as_floats.dtype == np.float32
    assert 0.0 <= as_floats.min() < as_floats.max() <= 1.0
    np.testing.assert_array_equal(np.rint(as_floats * 255), as_bytes)
    np.testing.assert_array_equal(model.sample(latents), as_bytes)
    model.encode(as_floats)  # what comes out may go in again


def test_settings_reach_the_sampler(model, latents):
    default = model.sample(latents)
    np.testing.assert_array_equal(model.sample(latents, 2.0, 2, method="ddpm"), default)
    for changed in (
        model.sample(latents, guidance_scale=3.0),
        model.sample(latents, guidance_scale=1.0),
        model.sample(latents, method="ddim"),
        model.sample(latents, seed=1),
    ):
        assert changed.shape == default.shape and (changed != default).any()


def test_an_image_follows_from_seed_index_and_latent(model, latents):
    floats = model.sample(latents, as_float=True)
    parts = [model.sample(latents[i : i + 1], first_index=i, as_float=True) for i in (0, 3)]
    np.testing.assert_allclose(np.concatenate(parts), floats[[0, 3]], atol=1e-5)
    moved = model.sample(latents[3:4], as_float=True)  # index 0: another noise
    assert np.abs(moved - floats[3]).max() > 1e-2
    tiled = model.sample(np.repeat(latents[:1], 20, axis=0), as_float=True)  # 3 batches of 8
    assert tiled.shape == (20, SIDE, SIDE, 3)
    np.testing.assert_allclose(tiled[0], floats[0], atol=1e-5)
    assert len(np.unique(tiled.round(3), axis=0)) == 20


def test_nothing_of_the_latent_is_unconditional(model, latents):
    unconditional = model.sample(None, num_images=5)
    assert unconditional.shape == (5, SIDE, SIDE, 3)
    for mask in (np.zeros(SECTIONS), np.zeros((5, SECTIONS), bool)):
        np.testing.assert_array_equal(model.sample(latents, section_mask=mask), unconditional)
    np.testing.assert_array_equal(model.sample(np.zeros_like(latents)), unconditional)
    assert (model.sample(latents) != unconditional).any()


def test_section_mask_drops_the_sections_dimensions(model, latents):
    kept = np.repeat([1.0, 0.0, 1.0], SECTION_SIZES)
    expected = model.sample(latents * kept)
    np.testing.assert_array_equal(model.sample(latents, section_mask=[1, 0, 1]), expected)
    rows = np.ones((5, SECTIONS), int)
    rows[2] = [1, 0, 1]
    by_image = model.sample(latents, section_mask=rows)
    np.testing.assert_array_equal(by_image[2], expected[2])
    np.testing.assert_array_equal(by_image[3], model.sample(latents)[3])


def test_section_choice_mixes_latents(model, latents):
    choice = np.array([[0, 0, 0], [0, 1, 4], [3, 3, 2]])
    parts = np.split(latents, np.cumsum(SECTION_SIZES)[:-1], axis=1)
    mixed = np.concatenate([part[choice[:, section]] for section, part in enumerate(parts)], axis=1)
    expected = model.sample(mixed)
    np.testing.assert_array_equal(model.sample(latents, section_choice=choice), expected)
    np.testing.assert_array_equal(model.sample(latents, section_choice=choice, num_images=3), expected)


def test_frames_end_with_the_images(model, latents):
    frames = model.sample(latents, steps=4, num_frames=3)
    assert frames.shape == (3, 5, SIDE, SIDE, 3) and frames.dtype == np.uint8
    images = model.sample(latents, steps=4).astype(np.int32)  # of another program, so up to rounding
    assert np.abs(frames[-1].astype(np.int32) - images).max() <= 1
    assert (frames[0] != frames[-1]).any()


def test_one_device_or_eight(workdir, model, images, latents):
    single = soda_jax.load(workdir, devices=jax.devices()[:1])
    assert (single.inference.mesh.size, model.inference.mesh.size) == (1, 8)
    np.testing.assert_allclose(single.encode(images), latents, atol=1e-5)
    # The first x_0 prediction divides by sqrt(abar_T), which enlarges the rounding; other noise differs by > 1e-2.
    np.testing.assert_allclose(single.sample(latents, as_float=True), model.sample(latents, as_float=True), atol=1e-3)


IMAGES = np.full((2, SIDE, SIDE, 3), 7, np.uint8)
LATENTS = np.zeros((2, LATENT_DIM), np.float32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"shape \(8, 8, 3\); give RGB as \[N, H, W, 3\].*one image: images\[None\]"),
        (np.zeros((2, SIDE, SIDE, 4), np.uint8), r"shape \(2, 8, 8, 4\); give RGB as"),
        (np.zeros((2, SIDE, SIDE), np.uint8), r"shape \(2, 8, 8\); give RGB as"),
        (np.zeros((2, 3, SIDE, SIDE), np.uint8), r"give RGB as \[N, H, W, 3\]"),
        (IMAGES[:0], "empty; give at least one image"),
        (IMAGES.astype(np.int64), r"images are int64; give uint8 in 0..255 or float in \[0, 1\]"),
        (IMAGES.astype(bool), "images are bool; give uint8"),
        (IMAGES.astype(np.float32), r"must lie in \[0, 1\], these lie in \[7, 7\]; rescale or clip them"),
        (IMAGES / 127.5 - 1.0, r"must lie in \[0, 1\], these lie in \[-0.9"),
        (np.where(IMAGES == 7, np.nan, 0.0), "NaN or infinite values; remove or replace them"),
        (np.where(IMAGES == 7, np.inf, 0.0), "NaN or infinite values; remove or replace them"),
    ],
)
def test_images_that_are_refused(model, images, message):
    for call in (model.encode, model.reconstruct):
        with pytest.raises(ValueError, match=message):
            call(images)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 3)), r"view_mask has shape \(2, 3\); give \[2, 2\]"),
        ([[1, 0], [0, 0]], "leaves image 1 no view; keep at least one"),
        (np.full((2, 2), 0.5), "view_mask holds values other than 0 and 1; give 1"),
    ],
)
def test_view_masks_that_are_refused(model, mask, message):
    with pytest.raises(ValueError, match=message):
        model.encode(np.stack([IMAGES, IMAGES], axis=1), view_mask=mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z": LATENTS[:, :-1]}, r"z has shape \(2, 15\); this model's latents are \[N, 16\]"),
        ({"z": LATENTS[0]}, r"one latent: z\[None\]"),
        ({"z": LATENTS[:0]}, "with N >= 1"),
        ({"z": LATENTS * np.nan}, "z holds NaN or infinite values; remove or replace"),
        ({"num_images": 3}, "num_images=3, but 2 are asked for; leave num_images out"),
        ({"z": None}, "num_images=None: unconditional sampling .* needs num_images >= 1"),
        ({"z": None, "num_images": 0}, "num_images=0: unconditional sampling .* needs num_images >= 1"),
        ({"z": None, "num_images": 2, "section_mask": [1, 1, 0]}, "z is None; give z"),
        ({"section_mask": np.ones(4)}, r"section_mask has shape \(4,\); give \[3\] or \[2, 3\]"),
        ({"section_mask": np.ones((3, 3))}, r"section_mask has shape \(3, 3\); give \[3\] or \[2, 3\]"),
        ({"section_mask": [0.5, 1, 1]}, "section_mask holds values other than 0 and 1"),
        ({"section_mask": [np.nan, 1, 1]}, "section_mask holds values other than 0 and 1"),
        ({"section_choice": [[0, 1]]}, r"section_choice has shape \(1, 2\); give \[M, 3\]"),
        ({"section_choice": np.zeros((0, 3), int)}, r"give \[M, 3\] with M >= 1"),
        ({"section_choice": [[0.0, 1.0, 0.0]]}, "section_choice is float64; give ints, the rows of z"),
        ({"section_choice": [[0, 1, 2]]}, r"section_choice lies in 0..2; give rows of z, 0..1 for 2 latents"),
        ({"section_choice": [[0, -1, 1]]}, r"section_choice lies in -1..1; give rows of z, 0..1"),
        ({"section_choice": [[0, 1, 0]], "section_mask": np.ones((2, 3))}, r"give \[3\] or \[1, 3\]"),
        ({"steps": 0}, "between 1 and 100 steps"),
        ({"steps": 101}, "between 1 and 100 steps"),
        ({"num_frames": 3}, "a walk of 2 steps has 0 to 2 frames"),
        ({"num_frames": -1}, "0 to 2 frames"),
        ({"method": "euler"}, "'euler': choose ddpm or ddim"),
        ({"guidance_scale": np.nan}, "guidance_scale=nan: give one finite number"),
        ({"guidance_scale": np.ones(2)}, "give one finite number for all images"),
    ],
)
def test_requests_that_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.sample(**({"z": LATENTS} | options))


def test_token_latents_have_no_sections_to_mix(tmp_path):
    config = tiny.get_config(
        model__bottleneck=False,
        model__modulation__kind="cross_attention",
        model__denoiser__attention_resolutions=(8,),
    )
    tiny_checkpoint.write(tmp_path, config, 1)
    model = soda_jax.load(tmp_path)
    z = model.encode(IMAGES)
    assert z.shape == (2, 64, 8)  # the encoder's 8 x 8 grid
    with pytest.raises(ValueError, match="this model's are tokens; leave it out"):
        model.sample(z, section_choice=[[0, 0, 0]])
    with pytest.raises(ValueError, match=r"latents are \[N, 64, 8\]"):
        model.sample(LATENTS)


def test_a_model_with_poses_and_random_sources_answers_without_cameras(tmp_path):
    """Poses are unknown then; there is a latent for each view, in any number."""
    tiny_checkpoint.write(tmp_path, tiny.posed_config(model__aggregation__name="stochastic"), 1)
    model = soda_jax.load(tmp_path)
    views = np.stack([IMAGES, IMAGES[::-1], IMAGES], axis=1)
    z = model.encode(views, view_mask=[[1, 0, 1], [1, 1, 1]])
    assert z.shape == (2, 3, 16) and (z[0, 1] == 0).all() and (np.abs(z[1]).max(1) > 0).all()
    assert model.sample(z).shape == (2, 8, 8, 3)
    assert model.reconstruct(IMAGES).shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="this model's are one for each source view; leave it out"):
        model.sample(z, section_choice=[[0, 0, 0]])
    with pytest.raises(ValueError, match="z has shape .*; this model's latents are"):
        model.sample(z[:, :0])


PROGRAM = """
import sys

# Not to be found, as where the repository is not cloned.
for package in ("tensorflow_datasets", "clu", "soda_jax.configs", "tests"):
    sys.modules[package] = None
import numpy as np
import soda_jax
from soda_jax.models import resnet

resnet.STAGE_SIZES[6] = (1,)  # the tests' encoder
model = soda_jax.load(sys.argv[1])
assert sys.argv == sys.argv[:2] and model.step == 10
np.save(sys.argv[1] + "/latents.npy", model.encode(np.load(sys.argv[1] + "/images.npy")))
assert "tensorflow" not in sys.modules
"""


def test_neither_tensorflow_nor_configs_nor_flags_are_needed(workdir, images, latents):
    np.save(workdir / "images.npy", images)
    root = str(soda_jax.__path__[0]).removesuffix("/soda_jax")
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(workdir)],
        env={"PYTHONPATH": root, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        cwd=workdir,
        check=True,
        timeout=120,
    )
    np.testing.assert_allclose(np.load(workdir / "latents.npy"), latents, atol=1e-5)
