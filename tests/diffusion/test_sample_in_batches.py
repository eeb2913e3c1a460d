"""An image is the same whatever batch, padding or devices it was made with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from soda_jax.diffusion import Diffusion, make_sampler, sample_in_batches

SHAPE = (4, 4, 3)
KEY = jax.random.key(7)
Z = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32) * 0.2
MASK = np.ones_like(Z)


def toy(variables, x_t, t, z, section_mask):
    drive = jnp.sum(z * section_mask, axis=-1)[:, None, None, None]
    return variables * jnp.tanh(x_t) + 0.2 * t[:, None, None, None] / 1000 + drive


@pytest.fixture(scope="module")
def sampler():
    return make_sampler(toy, Diffusion.create(), image_shape=SHAPE, num_steps=8)


def request(sampler, z=Z, mask=MASK, **settings):
    settings = {"num_images": len(z), "batch_size": 4, "guidance_scale": 2.0, **settings}
    return sample_in_batches(sampler, jnp.float32(0.5), KEY, z, mask, **settings)["images"]


@pytest.fixture(scope="module")
def reference(sampler):
    """All eleven images in one unpadded call."""
    return np.asarray(sampler(jnp.float32(0.5), KEY, np.arange(11), Z, MASK, 2.0)["images"])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 16])
def test_batch_size_and_padding_do_not_matter(sampler, reference, batch_size):
    images = request(sampler, batch_size=batch_size)
    assert isinstance(images, np.ndarray) and images.shape == (11, *SHAPE)
    np.testing.assert_allclose(images, reference, atol=1e-5)


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_number_of_devices_does_not_matter(sampler, reference, num_devices):
    if jax.device_count() < num_devices:
        pytest.skip(f"needs {num_devices} devices")
    mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:num_devices])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    images = request(sampler, batch_size=8, sharding=sharding)
    np.testing.assert_allclose(images, reference, atol=1e-5)


def test_an_image_can_be_made_again_alone(sampler, reference):
    images = request(sampler, Z[6:9], MASK[6:9], first_index=6, batch_size=2)
    np.testing.assert_allclose(images, reference[6:9], atol=1e-5)


def test_images_may_share_their_noise(sampler, reference):
    """Indices in any order, some of them twice: an image follows from its index and latent alone."""
    rows = np.array([9, 2, 2, 0, 7])
    np.testing.assert_allclose(request(sampler, Z[rows], MASK[rows], indices=rows), reference[rows], atol=1e-5)
    same = request(sampler, Z[[3, 3, 3]], MASK[[3, 3, 3]], indices=np.array([3, 4, 3]))
    np.testing.assert_allclose(same[[0, 2]], reference[[3, 3]], atol=1e-5)
    assert np.abs(same[1] - reference[3]).max() > 0.01


@pytest.mark.parametrize("batch_size", [3, 16])
def test_every_image_starts_from_its_own_noise(sampler, reference, batch_size):
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, index), 0) for index in range(11)]
    noise = np.stack([jax.random.normal(key, SHAPE) for key in keys])
    np.testing.assert_allclose(request(sampler, start=noise, batch_size=batch_size), reference, atol=1e-5)
    assert np.abs(request(sampler, start=noise[::-1], batch_size=batch_size) - reference).max() > 0.01


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.zeros((11, *SHAPE), np.uint8), "start is uint8"),
        (np.zeros((10, *SHAPE)), r"shape \(10, 4, 4, 3\): give float noise x_T \[11, H, W, C\]"),
        (np.zeros((11, 5, 4, 3)), r"start has shape \(4, 5, 4, 3\)"),
        (np.full((11, *SHAPE), np.nan), "not finite"),
    ],
)
def test_starts_that_are_no_noise(sampler, start, message):
    with pytest.raises(ValueError, match=message):
        request(sampler, start=start)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"indices": np.arange(10)}, r"indices are int64 of shape \(10,\); give 11 integers"),
        ({"indices": np.arange(11) / 1.0}, "indices are float64"),
        ({"indices": np.arange(11), "first_index": 2}, "first_index=2 and indices are given"),
    ],
)
def test_indices_that_name_no_images(sampler, settings, message):
    with pytest.raises(ValueError, match=message):
        request(sampler, **settings)


def test_latent_may_be_a_tree(reference):
    def denoise(variables, x_t, t, z, section_mask):
        return toy(variables, x_t, t, z["latent"] + z["shift"][:, None], section_mask)

    sampler = make_sampler(denoise, Diffusion.create(), image_shape=SHAPE, num_steps=8)
    tree = {"latent": jnp.asarray(Z), "shift": np.zeros(11, np.float32)}
    images = sample_in_batches(sampler, 0.5, KEY, tree, MASK, num_images=11, batch_size=4, guidance_scale=2)["images"]
    np.testing.assert_allclose(images, reference, atol=1e-5)


def test_frames_of_all_batches_come_back():
    sampler = make_sampler(toy, Diffusion.create(), image_shape=SHAPE, num_steps=8, num_frames=3)
    out = sample_in_batches(sampler, 0.5, KEY, Z, MASK, num_images=11, batch_size=4, guidance_scale=2)
    assert out["frames"].shape == (3, 11, *SHAPE)
    np.testing.assert_allclose(out["frames"][-1], out["images"], atol=1e-6)


def test_all_batches_and_requests_share_one_program():
    sampler = make_sampler(toy, Diffusion.create(), image_shape=SHAPE, num_steps=3)
    request(sampler)
    request(sampler, Z[:5], MASK[:5], guidance_scale=3)
    assert sampler._cache_size() == 1


def test_bad_requests_are_refused(sampler):
    with pytest.raises(ValueError, match="num_images is 0"):
        request(sampler, num_images=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        request(sampler, batch_size=0)
    with pytest.raises(ValueError, match="z has shape.*num_images, 12"):
        request(sampler, num_images=12)
    with pytest.raises(ValueError, match="section_mask has shape"):
        request(sampler, mask=MASK[:4])


def test_batch_that_does_not_divide_is_refused(sampler):
    if jax.device_count() < 2:
        pytest.skip("needs 2 devices")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    with pytest.raises(ValueError, match="batch_size is 5"):
        request(sampler, batch_size=5, sharding=NamedSharding(mesh, PartitionSpec("data")))
