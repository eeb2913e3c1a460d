"""The sampler with denoisers whose answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.diffusion import Diffusion, make_sampler
from soda_jax.diffusion.sampler import Masks, drop_all

TRAINING = Diffusion.create("inverted", 1000)
SHAPE = (6, 6, 3)
WALKS = [
    dict(num_steps=1000),
    dict(num_steps=250),
    dict(num_steps=75),
    dict(num_steps=50, method="ddim"),
    dict(num_steps=50, method="ddim", eta=1.0),
]


def column(table, t):
    return jnp.asarray(table, jnp.float32)[t][:, None, None, None]


def oracle(variables, x_t, t, z, section_mask):
    """Knows x_0 (it is z) and returns the exact noise in x_t."""
    del variables, section_mask
    return TRAINING.predict_eps(x_t, t, z)


def toy(variables, x_t, t, z, section_mask):
    """Linear in x_t, the time and each section of z [B, m]."""
    del variables
    drive = jnp.sum(z * section_mask, axis=-1)[:, None, None, None]
    return 0.3 * x_t + 0.2 * t[:, None, None, None] / 1000 + drive


def bent(variables, x_t, t, z, section_mask):
    """As `toy`, and not linear."""
    return jnp.tanh(toy(variables, x_t, t, z, section_mask)) + 0.1 * x_t**2


def gaussian_data(variables, x_t, t, z, section_mask):
    """The optimal denoiser of images with independent pixels N(0.1, 0.2^2)."""
    del variables, z, section_mask
    abar = column(TRAINING.abar, t)
    return jnp.sqrt(1 - abar) * (x_t - jnp.sqrt(abar) * 0.1) / (abar * 0.2**2 + 1 - abar)


@functools.cache
def shared_sampler(denoise, settings):
    """Tests with the same settings share a compiled program."""
    return make_sampler(denoise, TRAINING, image_shape=SHAPE, **dict(settings))


def walk(denoise, z, *, mask=None, scale=2.0, seed=0, **settings):
    sampler = shared_sampler(denoise, tuple(settings.items()))
    mask = np.ones((len(z), z.shape[1]), np.float32) if mask is None else mask
    return sampler({}, jax.random.key(seed), np.arange(len(z)), z, mask, scale)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("settings", WALKS, ids=str)
def test_perfect_denoiser_returns_the_image(settings, guided):
    """The known trap, ending on a noisy entry of the table, would leave an RMSE of 0.14."""
    x_0 = np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
    images = walk(oracle, x_0, guided=guided, **settings)["images"]
    assert np.sqrt(np.mean((images - x_0) ** 2)) < 1e-3


@pytest.mark.parametrize("settings", WALKS[2:4], ids=str)
def test_a_guided_velocity_walks_as_the_noise_that_it_stands_for(settings):
    """v is affine in eps at a given x_t, so guidance of either gives the same images, up to rounding."""

    def toy_velocity(variables, x_t, t, z, section_mask):
        eps, abar = toy(variables, x_t, t, z, section_mask), column(TRAINING.abar, t)
        return (eps - jnp.sqrt(1 - abar) * x_t) / jnp.sqrt(abar)

    z, key = np.random.default_rng(0).normal(0, 0.1, (2, 4)).astype(np.float32), jax.random.key(0)
    chain = Diffusion.create("inverted", 1000, prediction="v")
    images = make_sampler(toy_velocity, chain, image_shape=SHAPE, **settings)
    inputs = (key, np.arange(2), z, np.ones((2, 4), np.float32), 2.5)
    np.testing.assert_allclose(images({}, *inputs)["images"], walk(toy, z, scale=2.5, **settings)["images"], atol=2e-3)


def gaussian_std(num_steps, method):
    """Standard deviation of the walk's images with `gaussian_data`, in closed form.

    Every step is linear, x_0 = gain * x_t + const, so the variance follows from the step before's.
    """
    abar, variance = TRAINING.respace(num_steps).abar, 1.0
    for now, before in zip(abar[:0:-1], abar[-2::-1], strict=True):
        gain = np.sqrt(now) * 0.2**2 / (now * 0.2**2 + 1 - now)
        noise = (1 - before) / (1 - now) * (1 - now / before) if method == "ddpm" else 0.0
        direction = np.sqrt(1 - before - noise) / np.sqrt(1 - now)
        factor = np.sqrt(before) * gain + direction * (1 - np.sqrt(now) * gain)
        variance = factor**2 * variance + noise
    return np.sqrt(variance)


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
@pytest.mark.parametrize("num_steps", [10, 100])
def test_samples_have_the_expected_distribution(method, num_steps):
    settings = dict(num_steps=num_steps, method=method)
    images = walk(gaussian_data, np.zeros((256, 1)), guided=False, **settings)["images"]
    assert abs(np.mean(images) - 0.1) < 0.005
    assert abs(np.std(images) - gaussian_std(num_steps, method)) < 0.003


def test_ddim_with_full_noise_is_ddpm():
    z = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32) * 0.1
    ddpm = walk(toy, z, num_steps=20)
    ddim = walk(toy, z, num_steps=20, method="ddim", eta=1.0)
    np.testing.assert_allclose(ddim["images"], ddpm["images"], atol=1e-4)
    assert np.std(ddpm["images"]) > 0.05


def test_ddim_without_noise_depends_on_its_start_alone():
    """The deterministic walk, repeated in float64 NumPy from the same start."""
    z = np.zeros((2, 1), np.float32)
    images = walk(toy, z, num_steps=10, method="ddim", guided=False)["images"]
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 0) for i in range(2)]
    x = np.stack([np.asarray(jax.random.normal(key, SHAPE), np.float64) for key in keys])
    chain = TRAINING.respace(10)
    for step in range(10, 0, -1):
        now, before = chain.abar[step], chain.abar[step - 1]
        eps = 0.3 * x + 0.2 * chain.timesteps[step] / 1000
        x_0 = np.clip((x - np.sqrt(1 - now) * eps) / np.sqrt(now), -1, 1)
        eps = (x - np.sqrt(now) * x_0) / np.sqrt(1 - now)
        x = np.sqrt(before) * x_0 + np.sqrt(1 - before) * eps
    np.testing.assert_allclose(images, x, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_linear_extrapolation(scale):
    """For a linear denoiser, guidance with s is the unguided walk with z scaled by s."""
    z = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32) * 0.1
    guided = walk(toy, z, scale=scale, num_steps=20)
    plain = walk(toy, scale * z, guided=False, num_steps=20)
    np.testing.assert_allclose(guided["images"], plain["images"], atol=1e-4)


def test_guidance_drops_every_section_and_keeps_the_chosen_ones():
    z = np.array([[0.1, 7.0], [0.1, -3.0], [-0.1, 2.0], [0.0, 0.1]], np.float32)
    mask = np.array([[1, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    guided = walk(toy, z, mask=mask, num_steps=20)
    plain = walk(toy, 2 * z * mask, guided=False, num_steps=20)
    np.testing.assert_allclose(guided["images"], plain["images"], atol=1e-4)


@pytest.mark.parametrize("settings", [dict(num_steps=20), dict(num_steps=20, method="ddim", eta=0.5)], ids=str)
@pytest.mark.parametrize("scale", [0.5, 2.0, -3.5])
def test_guidance_is_for_nothing_where_nothing_is_shown(settings, scale):
    """It leads from a prediction to the same one: at any scale the walk is the unguided one, at half the cost."""
    z = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    nothing = np.zeros((3, 4), np.float32)
    plain = walk(bent, z, mask=nothing, guided=False, **settings)["images"]
    np.testing.assert_allclose(walk(bent, z, mask=nothing, scale=scale, **settings)["images"], plain, atol=1e-6)
    shown = walk(bent, z, scale=scale, **settings)["images"]
    assert np.abs(shown - plain).max() > 1e-2  # whereas with a latent it counts


@pytest.mark.parametrize(("shown", "drops", "same"), [(0, "both", True), (1, "latent", True), (1, "both", False)])
def test_guidance_is_for_nothing_where_it_drops_nothing(shown, drops, same):
    """Of a camera alone: the same images where the pose is hidden, or where only latents are dropped."""

    def posed(variables, x_t, t, z, masks):
        return bent(variables, x_t, t, z, masks.sections) + 0.3 * jnp.sin(masks.pose)[:, None, None, None]

    def unconditional(masks):
        return drop_all(masks) if drops == "both" else masks._replace(sections=jnp.zeros_like(masks.sections))

    z = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    masks = Masks(np.zeros((3, 4), np.float32), np.full(3, shown, np.float32))
    settings = dict(image_shape=SHAPE, num_steps=20, unconditional=unconditional)
    guided, plain = (
        make_sampler(posed, TRAINING, guided=guided, **settings)({}, jax.random.key(0), np.arange(3), z, masks, 2.5)
        for guided in (True, False)
    )
    difference = np.abs(np.asarray(guided["images"]) - np.asarray(plain["images"])).max()
    assert difference < 1e-6 if same else difference > 1e-2


@pytest.mark.parametrize(("guided", "factor"), [(True, 2), (False, 1)])
def test_each_step_is_one_call(guided, factor):
    """250 steps: 250 calls on the device, in one program that is traced once."""
    traced, ran = [], []

    def counted(variables, x_t, t, z, section_mask):
        traced.append((len(x_t), len(t), len(z["a"]), len(section_mask)))
        jax.debug.callback(lambda t: ran.append(int(t)), t[0])
        return toy(variables, x_t, t, z["a"], section_mask)

    sampler = make_sampler(counted, TRAINING, image_shape=SHAPE, num_steps=250, guided=guided)
    z = {"a": np.zeros((3, 2), np.float32)}
    args = (np.arange(3), z, np.ones((3, 2), np.float32))
    sampler({}, jax.random.key(0), *args, 2.0)
    jax.effects_barrier()
    assert set(traced) == {(3 * factor,) * 4} and len(traced) <= 2
    assert ran == list(TRAINING.respace(250).timesteps[:0:-1])

    traces = len(traced)
    sampler({}, jax.random.key(1), *args, 3.0)
    assert len(traced) == traces and sampler._cache_size() == 1


def test_program_does_not_grow_with_the_steps():
    def program(num_steps):
        sampler = make_sampler(toy, TRAINING, image_shape=SHAPE, num_steps=num_steps)
        z = np.zeros((2, 1), np.float32)
        text = sampler.lower({}, jax.random.key(0), np.arange(2), z, z, 2.0).as_text()
        return len(text.splitlines())

    assert program(250) == program(5)


def test_key_and_index_choose_the_noise():
    z = np.zeros((4, 2), np.float32)
    first, second = (walk(toy, z, num_steps=20, seed=seed)["images"] for seed in (0, 1))
    assert np.abs(first - second).max() > 0.1
    assert np.abs(first[0] - first[1]).max() > 0.1


@pytest.mark.parametrize("settings", WALKS[2:4], ids=str)
def test_a_walk_may_start_from_given_noise(settings):
    """From the noise that it would have drawn, bit by bit the same images; from other noise, others."""
    z = np.full((3, 2), 0.05, np.float32)
    drawn = walk(bent, z, **settings)["images"]
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(0), index), 0) for index in range(3)]
    noise = np.stack([jax.random.normal(key, SHAPE) for key in keys])
    sampler = shared_sampler(bent, tuple(settings.items()))
    arguments = ({}, jax.random.key(0), np.arange(3), z, np.ones((3, 2), np.float32), 2.0)
    np.testing.assert_array_equal(sampler(*arguments, noise)["images"], drawn)
    assert np.abs(sampler(*arguments, -noise)["images"] - drawn).max() > 0.01
    with pytest.raises(ValueError, match=r"start has shape \(2, 6, 6, 3\): give \(3, 6, 6, 3\)"):
        sampler(*arguments, noise[:2])


@pytest.mark.parametrize("settings", [dict(), dict(method="ddim")], ids=str)
def test_frames_are_the_x0_predictions_in_order(settings):
    """Each step's prediction is recorded on the side: frames are those of steps 4, 8 and 12."""
    z = np.full((2, 1), 0.1, np.float32)
    chain = TRAINING.respace(12)
    predictions = []

    def recording(variables, x_t, t, z, section_mask):
        eps = toy(variables, x_t, t, z, section_mask)
        x_0 = jnp.clip(TRAINING.predict_x0(x_t, t, eps), -1, 1)
        jax.debug.callback(lambda x: predictions.append(np.asarray(x)), x_0, ordered=True)
        return eps

    out = walk(recording, z, num_steps=12, num_frames=3, guided=False, **settings)
    jax.effects_barrier()
    assert out["frames"].shape == (3, 2, *SHAPE) and out["frames"].dtype == np.float32
    assert len(predictions) == chain.num_steps
    for frame, step in zip(out["frames"], (3, 7, 11), strict=True):
        np.testing.assert_allclose(frame, predictions[step], atol=1e-5)
    np.testing.assert_allclose(out["frames"][-1], out["images"], atol=1e-6)


def test_frames_of_every_step_and_of_none():
    z = np.zeros((4, 2), np.float32)
    assert walk(toy, z, num_steps=5, num_frames=5)["frames"].shape == (5, 4, *SHAPE)
    assert set(walk(toy, z, num_steps=20)) == {"images"}


@pytest.mark.parametrize("clip_x0", [True, False])
def test_images_stay_in_range(clip_x0):
    def strong(variables, x_t, t, z, section_mask):
        return -5 * x_t

    images = walk(strong, np.zeros((2, 1)), num_steps=5, clip_x0=clip_x0)["images"]
    assert images.dtype == np.float32 and np.abs(images).max() == 1.0


def test_half_precision_denoiser_keeps_a_float32_walk():
    def half(variables, x_t, t, z, section_mask):
        return toy(variables, x_t, t, z, section_mask).astype(jnp.bfloat16)

    assert walk(half, np.zeros((2, 1)), num_steps=3)["images"].dtype == np.float32


def test_unconditional_model_needs_no_latent():
    def plain(variables, x_t, t, z, section_mask):
        assert z is None
        return 0.1 * x_t

    sampler = make_sampler(plain, TRAINING, image_shape=SHAPE, num_steps=3, guided=False)
    out = sampler({}, jax.random.PRNGKey(0), np.arange(2), None, np.ones((2, 1)))
    assert out["images"].shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_steps=0), "num_steps is 0"),
        (dict(num_steps=1001), "between 1 and 1000"),
        (dict(num_steps=5, method="euler"), "'euler'.*ddpm or ddim"),
        (dict(num_steps=5, method="ddim", eta=1.5), "eta is 1.5"),
        (dict(num_steps=5, eta=0.5), "only DDIM"),
        (dict(num_steps=5, num_frames=6), "num_frames is 6"),
        (dict(num_steps=5, num_frames=-1), "num_frames is -1"),
        (dict(num_steps=5, image_shape=(8, 8)), "height, width, channels"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(toy, TRAINING, **{"image_shape": SHAPE, **settings})


def test_bad_inputs_are_refused():
    sampler = make_sampler(toy, TRAINING, image_shape=SHAPE, num_steps=2)
    key, z = jax.random.key(0), np.zeros((2, 1), np.float32)
    with pytest.raises(ValueError, match="section_mask has shape"):
        sampler({}, key, np.arange(2), z, np.ones(2), 2.0)
    with pytest.raises(ValueError, match=r"z\['a'\] has shape \(3, 1\)"):
        sampler({}, key, np.arange(2), {"a": np.zeros((3, 1))}, z, 2.0)
    with pytest.raises(ValueError, match="section_mask has shape"):
        sampler({}, key, np.arange(2), z, np.ones((3, 1)), 2.0)
    with pytest.raises(ValueError, match="guidance_scale has shape"):
        sampler({}, key, np.arange(2), z, z, np.ones(2))
    with pytest.raises(ValueError, match="indices has shape"):
        sampler({}, key, np.int32(2), z, z, 2.0)
    wrong = make_sampler(lambda v, x, t, z, m: x[:, :1], TRAINING, image_shape=SHAPE, num_steps=2)
    with pytest.raises(ValueError, match="denoise returned shape"):
        wrong({}, key, np.arange(2), z, z, 2.0)


def posed(variables, x_t, t, z, masks):
    """`toy` with a second condition, whose mask stands beside the sections'."""
    drive = z["pose"] * masks.pose
    return toy(variables, x_t, t, z["z"], masks.sections) + drive[:, None, None, None]


@pytest.mark.parametrize("dropped", ["sections", "pose", "both"])
def test_guidance_leads_away_from_what_is_dropped(dropped):
    """For a linear denoiser, guidance with s on a condition is the unguided walk with it scaled by s."""
    rng = np.random.default_rng(0)
    z = {"z": rng.normal(size=(3, 2)).astype(np.float32) * 0.1, "pose": rng.normal(size=3).astype(np.float32) * 0.1}
    masks = Masks(np.array([[1, 1], [1, 0], [0, 0]], np.float32), np.array([1, 0, 1], np.float32))
    unconditional = {
        "sections": lambda m: m._replace(sections=0 * m.sections),
        "pose": lambda m: m._replace(pose=0 * m.pose),
        "both": drop_all,
    }[dropped]
    settings = {"image_shape": SHAPE, "num_steps": 20}
    guided = make_sampler(posed, TRAINING, unconditional=unconditional, **settings)
    plain = make_sampler(posed, TRAINING, guided=False, **settings)
    scaled = {
        "z": z["z"] * (1 if dropped == "pose" else 2.5),
        "pose": z["pose"] * (1 if dropped == "sections" else 2.5),
    }
    key, indices = jax.random.key(0), np.arange(3)
    found = guided({}, key, indices, z, masks, 2.5)["images"]
    np.testing.assert_allclose(found, plain({}, key, indices, scaled, masks)["images"], atol=1e-4)
    unscaled = plain({}, key, indices, z, masks)["images"]
    moved = np.abs(found - unscaled).max((1, 2, 3)) > 1e-3
    expected = {"sections": [True, True, False], "pose": [True, False, True], "both": [True, True, True]}
    np.testing.assert_array_equal(moved, expected[dropped])


def test_a_choice_is_made_anew_at_each_step_by_image_and_key():
    """The chosen entries, seen by the denoiser: both predictions of a step get one, images and seeds get others."""
    seen = []

    def recording(variables, x_t, t, z, section_mask):
        jax.debug.callback(lambda z: seen.append(np.asarray(z)), z, ordered=True)
        return 0.1 * x_t

    def choose(key, z):
        return z[jax.random.randint(key, (), 0, len(z))]

    sampler = make_sampler(recording, TRAINING, image_shape=SHAPE, num_steps=40, choose=choose)

    def run(seed, indices):
        seen.clear()
        z = np.broadcast_to(np.arange(4, dtype=np.float32), (len(indices), 4))
        sampler({}, jax.random.key(seed), np.asarray(indices), z, np.ones((len(indices), 1)), 2.0)
        jax.effects_barrier()
        return np.stack(seen).reshape(40, len(indices), 2)

    picks = run(0, [3, 7])
    np.testing.assert_array_equal(picks[..., 0], picks[..., 1])
    counts = np.stack([np.bincount(column.astype(int), minlength=4) for column in picks[..., 0].T])
    assert (counts >= 3).all() and (counts <= 20).all()
    assert (picks[:, 0] != picks[:, 1]).any() and (picks != run(1, [3, 7])).any()
    # Alone in its batch an image gets the same.
    np.testing.assert_array_equal(run(0, [7])[:, 0], picks[:, 1])


def test_masks_of_wrong_shape_are_refused():
    sampler = make_sampler(posed, TRAINING, image_shape=SHAPE, num_steps=2)
    z = {"z": np.zeros((2, 1), np.float32), "pose": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=r"section_mask\.pose has shape \(3,\): its leading axis must be"):
        sampler({}, jax.random.key(0), np.arange(2), z, Masks(np.ones((2, 1)), np.ones(3)), 2.0)
    with pytest.raises(ValueError, match=r"section_mask has shape \(2,\): give \[B, sections\]"):
        sampler({}, jax.random.key(0), np.arange(2), z, Masks(np.ones(2), np.ones(2)), 2.0)
