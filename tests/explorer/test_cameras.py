"""Novel views of the explorer: cameras stand where they are asked to, and the model is asked for their views."""

import numpy as np
import pytest

import soda_jax
from soda_jax.data import cameras
from soda_jax.explorer import actions
from soda_jax.explorer.actions import Sampling
from soda_jax.explorer.cameras import around, novel_views
from soda_jax.explorer.images import HeldOut
from tests import tiny, tiny_checkpoint
from tests.explorer.made_images import SIDE, random_images

INTRINSICS = np.array([9.0, 9.5, 4.1, 3.8])
RNG = np.random.default_rng(0)
POSES = cameras.orbit(RNG.uniform(0, 6, (4, 3)), 0.4, 3.0)
TWO_STEPS = Sampling(steps=2, seed=3)


@pytest.fixture(scope="module")
def objects():
    return HeldOut(random_images(4, 3, views=3), soda_jax.Cameras(POSES, INTRINSICS), "objects")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rays")
    tiny_checkpoint.write(folder, tiny.posed_config(), 1)
    return soda_jax.load(folder)


def test_cameras_stand_where_they_are_asked_to(objects):
    place = around(objects)
    assert place.altitude == pytest.approx(np.rad2deg(0.4), abs=1e-4)
    asked = place.cameras([90, -30], 20.0)
    expected = cameras.orbit(np.deg2rad([90.0, 330.0]), np.deg2rad(20.0), 3.0)
    np.testing.assert_allclose(asked.pose[0], expected, atol=1e-4)
    np.testing.assert_allclose(asked.intrinsics, INTRINSICS, rtol=1e-6)
    assert asked.image_size == (SIDE, SIDE)
    assert around(HeldOut(objects.views)) is None and around(HeldOut(objects.views[:0], objects.cameras)) is None


def test_views_are_the_models_own(model, objects):
    assert "Novel view" in actions.tabs(model)
    place, chosen = around(objects), objects[2]
    azimuths = [0, 40, 80, 120, 160]
    drawn = novel_views(model, chosen, place, azimuths, 25.0, 2, TWO_STEPS)
    known = {"pose": POSES[2:3, :2], "intrinsics": INTRINSICS}
    wanted = {"pose": cameras.orbit(np.deg2rad(azimuths), np.deg2rad(25.0), 3.0)[None], "intrinsics": INTRINSICS}
    expected = model.novel_view(objects.views[2:3, :2], known, wanted, steps=2, seed=3)[0]
    np.testing.assert_allclose(drawn.astype(int), expected.astype(int), atol=2)
    all_sources = novel_views(model, chosen, place, azimuths[:1], 25.0, 3, TWO_STEPS)
    assert (all_sources[0] != drawn[0]).any()
    with pytest.raises(ValueError, match="sources=4: held-out image 2 has 3 views; give 1 to 3"):
        novel_views(model, chosen, place, azimuths, 25.0, 4, TWO_STEPS)


def test_an_upload_has_unknown_cameras(model, objects):
    upload = HeldOut(objects.views[:, :1])[0]
    drawn = novel_views(model, upload, around(objects), [10], 25.0, 1, TWO_STEPS)
    wanted = {"pose": cameras.orbit(np.deg2rad([10]), np.deg2rad(25.0), 3.0), "intrinsics": INTRINSICS}
    expected = model.novel_view(upload.views[None], None, wanted, steps=2, seed=3)
    np.testing.assert_allclose(drawn.astype(int), expected.astype(int), atol=2)
