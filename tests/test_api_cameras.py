"""`novel_view` and `encode` with cameras: what a request gives, and what a user's mistakes are answered."""

import dataclasses

import numpy as np
import pytest

import soda_jax
from soda_jax.data import cameras
from tests import tiny, tiny_checkpoint

SIDE = 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 3, SIDE, SIDE, 3), np.uint8)
INTRINSICS = np.array([9.0, 9.5, 4.1, 3.8])
SOURCES = {"pose": cameras.hemisphere(RNG.random((2, 3, 3)), (0.1, 1.2), (2.5, 3.5)), "intrinsics": INTRINSICS}
TARGETS = {"pose": cameras.orbit(np.arange(4) + [[0.0], [0.3]], 0.4, 3.0), "intrinsics": INTRINSICS}
FIRST = {"pose": TARGETS["pose"][:, 0], "intrinsics": INTRINSICS}


def load(folder, **overrides):
    config = tiny.posed_config(**overrides)
    tiny_checkpoint.write(folder, config, 1)
    return soda_jax.load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tmp_path_factory.mktemp("rays"))


@pytest.fixture(scope="module")
def views(model):
    return model.novel_view(IMAGES, SOURCES, TARGETS)


def test_views_of_each_object(model, views):
    assert views.shape == (2, 4, SIDE, SIDE, 3) and views.dtype == np.uint8
    np.testing.assert_array_equal(model.novel_view(IMAGES, SOURCES, FIRST), views[:, 0])
    floats = model.novel_view(IMAGES / 255.0, SOURCES, FIRST)
    assert floats.dtype == np.float32 and 0 <= floats.min() < floats.max() <= 1
    np.testing.assert_array_equal(np.rint(floats * 255), views[:, 0])


def test_the_target_camera_moves_the_view(model, views):
    for number in range(1, 4):
        assert (views[:, number] != views[:, 0]).any(axis=(1, 2, 3)).all()
    still = TARGETS | {"pose": np.repeat(TARGETS["pose"][:, :1], 3, axis=1)}
    repeated = model.novel_view(IMAGES, SOURCES, still)  # an object's noise is the same in all views
    np.testing.assert_array_equal(repeated, np.repeat(views[:, :1], 3, axis=1))
    zoomed = model.novel_view(IMAGES, SOURCES, FIRST | {"intrinsics": INTRINSICS * [2, 2, 1, 1]})
    assert (zoomed != views[:, 0]).any()


def test_swapping_source_and_target_changes_the_view(model):
    one = {key: value[:, :1] if key == "pose" else value for key, value in SOURCES.items()}
    ahead = model.novel_view(IMAGES[:, :1], one, FIRST)
    back = model.novel_view(IMAGES[:, :1], FIRST | {"pose": FIRST["pose"][:, None]}, one | {"pose": one["pose"][:, 0]})
    assert (ahead != back).any(axis=(1, 2, 3)).all()


def test_settings_reach_the_sampler(model, views):
    for changed in (
        model.novel_view(IMAGES, SOURCES, FIRST, 3.0),
        model.novel_view(IMAGES, SOURCES, FIRST, guidance_on="pose"),
        model.novel_view(IMAGES, SOURCES, FIRST, steps=3),
        model.novel_view(IMAGES, SOURCES, FIRST, seed=1),
        model.novel_view(IMAGES, SOURCES, FIRST, method="ddim"),
        model.novel_view(IMAGES, SOURCES, FIRST, view_mask=[[1, 1, 0], [1, 0, 1]]),
    ):
        assert (changed != views[:, 0]).any()
    later = model.novel_view(
        IMAGES[1:], {**SOURCES, "pose": SOURCES["pose"][1:]}, {**FIRST, "pose": FIRST["pose"][1:]}, first_index=1
    )
    assert np.abs(later[0].astype(int) - views[1, 0]).max() <= 1


def test_source_cameras_enter_the_latent(model):
    known, unknown = model.encode(IMAGES, cameras=SOURCES), model.encode(IMAGES)
    assert known.shape == (2, 16) and np.abs(known - unknown).max() > 1e-3
    moved = model.encode(IMAGES, cameras=SOURCES | {"pose": SOURCES["pose"][:, ::-1]})
    assert np.abs(known - moved).max() > 1e-3
    masked = model.encode(IMAGES, [[1, 0, 0]] * 2, cameras=SOURCES)
    first = model.encode(IMAGES[:, 0], cameras=SOURCES | {"pose": SOURCES["pose"][:, 0]})
    np.testing.assert_allclose(masked, first, atol=1e-5)


def test_each_part_may_be_left_out(model, views):
    seen = {
        "poses unknown": model.novel_view(IMAGES, None, FIRST),
        "arbitrary": model.novel_view(IMAGES, SOURCES),
        "new objects": model.novel_view(None, None, FIRST),
    }
    for images in (*seen.values(), views[:, 0]):
        assert images.shape == (2, SIDE, SIDE, 3)
    assert len({images.tobytes() for images in (*seen.values(), views[:, 0])}) == 4
    np.testing.assert_array_equal(seen["arbitrary"], model.sample(model.encode(IMAGES, cameras=SOURCES)))
    np.testing.assert_array_equal(model.novel_view(IMAGES), model.reconstruct(IMAGES))
    around = model.novel_view(target_cameras=TARGETS)
    assert around.shape == (2, 4, SIDE, SIDE, 3)
    np.testing.assert_array_equal(around[:, 0], seen["new objects"])
    assert (around[:, 1] != around[:, 0]).any()


def test_intrinsics_follow_the_images(model, views):
    """Larger, padded images with the intrinsics of larger, padded images show the same."""
    larger = IMAGES.repeat(2, axis=2).repeat(2, axis=3)
    double = [{**given, "intrinsics": 2 * INTRINSICS} for given in (SOURCES, FIRST)]
    np.testing.assert_array_equal(model.novel_view(larger, *double), views[:, 0])
    padded = np.pad(larger, ((0, 0), (0, 0), (0, 0), (3, 3), (0, 0)))
    wide = [{**given, "intrinsics": 2 * INTRINSICS + [0, 0, 3, 0]} for given in (SOURCES, FIRST)]
    np.testing.assert_array_equal(model.novel_view(padded, *wide), views[:, 0])
    named = [soda_jax.Cameras(**given, image_size=(16, 22)) for given in wide]
    np.testing.assert_array_equal(model.novel_view(IMAGES, *named), views[:, 0])
    np.testing.assert_array_equal(model.novel_view(None, None, named[1]), model.novel_view(None, None, FIRST))
    unscaled = model.novel_view(larger, SOURCES, FIRST)
    assert (unscaled != views[:, 0]).any()


def test_relative_poses_do_not_know_the_world(tmp_path):
    model = load(
        tmp_path, model__pose__vector="relative", model__pose__grid="none", model__pose__coordinates="cartesian"
    )
    turn = np.eye(4)
    turn[:3, :3] = [[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]
    turn[:3, 3] = [0.3, -0.2, 0.1]
    moved = [{**given, "pose": turn @ given["pose"]} for given in (SOURCES, TARGETS)]
    views = model.novel_view(IMAGES, SOURCES, TARGETS)
    assert np.abs(model.novel_view(IMAGES, *moved).astype(int) - views).max() <= 1
    assert (views[:, 1] != views[:, 0]).any()
    swapped = model.novel_view(IMAGES[:, ::-1], SOURCES | {"pose": SOURCES["pose"][:, ::-1]}, TARGETS)
    assert (swapped != views).any()
    masked = model.novel_view(IMAGES, SOURCES, FIRST, view_mask=[[0, 1, 1]] * 2)
    rest = model.novel_view(IMAGES[:, 1:], SOURCES | {"pose": SOURCES["pose"][:, 1:]}, FIRST)
    assert np.abs(masked.astype(int) - rest).max() <= 1
    for images in (IMAGES, None):
        with pytest.raises(
            ValueError, match="relates them to the first source's camera, which is unknown; give images"
        ):
            model.novel_view(images, None, FIRST)


def test_absolute_vectors_do_without_the_sources_pose(tmp_path):
    model = load(tmp_path, model__pose__vector="absolute", model__pose__grid="none")
    views = [
        model.novel_view(IMAGES, SOURCES, FIRST),
        model.novel_view(IMAGES, None, FIRST),
        model.novel_view(IMAGES, SOURCES),
        model.novel_view(None, None, FIRST),
    ]
    assert len({images.tobytes() for images in views}) == 4


SCALED, MIRRORED, BROKEN = (FIRST["pose"].copy() for _ in range(3))
SCALED[1, :3, :3] *= 2
MIRRORED[0, :3, 0] *= -1
BROKEN[0, 0, 3] = np.nan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pose": SCALED}, "target_cameras: pose 1 scales or shears"),
        ({"pose": MIRRORED}, "target_cameras: pose 0 mirrors"),
        ({"pose": BROKEN}, "target_cameras: pose 0 has values that are not finite"),
        ({"pose": FIRST["pose"][:, :3]}, r"target_cameras: a pose must be 4 x 4, not of shape \(2, 3, 4\)"),
        ({"pose": FIRST["pose"].astype(str)}, "target_cameras.pose holds <U32; give numbers"),
        ({"pose": FIRST["pose"][0]}, r"has shape \(4, 4\); give \[2, 4, 4\], or \[2, m, 4, 4\]"),
        ({"pose": FIRST["pose"][:1]}, r"has shape \(1, 4, 4\); give \[2, 4, 4\]"),
        ({"pose": TARGETS["pose"][:, :0]}, r"has shape \(2, 0, 4, 4\); give \[2, 4, 4\]"),
        ({"intrinsics": np.ones(3)}, r"intrinsics has shape \(3,\); give \(fx, fy, cx, cy\) as \[4\], or as \[2, 4\]"),
        ({"intrinsics": np.ones((3, 4))}, r"intrinsics has shape \(3, 4\)"),
        ({"intrinsics": -INTRINSICS}, "finite, with focal lengths fx and fy above 0"),
        ({"intrinsics": INTRINSICS * np.inf}, "must be finite"),
        ({"image_size": (8,)}, r"image_size=\(8,\): give \(height, width\)"),
        ({"image_size": (0, 8)}, r"image_size=\(0, 8\): give \(height, width\)"),
        ({"focal": 3}, "target_cameras is the keys pose, intrinsics, focal; give soda_jax.Cameras, or a dict"),
    ],
)
def test_target_cameras_that_are_refused(model, given, message):
    with pytest.raises(ValueError, match=message):
        model.novel_view(IMAGES, SOURCES, FIRST | given)


def test_requests_that_are_refused(model):
    with pytest.raises(
        ValueError, match=r"cameras.pose has shape \(2, 4, 4\); give \[2, 3, 4, 4\], one for each image"
    ):
        model.encode(IMAGES, cameras=FIRST)
    with pytest.raises(ValueError, match="target_cameras is ndarray; give soda_jax.Cameras"):
        model.novel_view(IMAGES, SOURCES, FIRST["pose"])
    for arguments in ({}, {"cameras": SOURCES, "target_cameras": FIRST}, {"view_mask": [[1]], "target_cameras": FIRST}):
        with pytest.raises(ValueError, match="images is None: give images, or target_cameras alone"):
            model.novel_view(**arguments)
    with pytest.raises(ValueError, match="give one finite number"):
        model.novel_view(IMAGES, SOURCES, FIRST, np.nan)
    assert dataclasses.fields(soda_jax.Cameras)[2].default is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model__pose__grid": "none"}, "this model takes no poses"),
        (
            {"model__pose__grid": "xy", "data__view_policy": "augment"},
            "this model takes places in the image, not cameras",
        ),
    ],
)
def test_models_without_cameras(tmp_path, overrides, message):
    model = load(tmp_path, **overrides)
    for call in (
        lambda: model.encode(IMAGES, cameras=SOURCES),
        lambda: model.novel_view(IMAGES, None, FIRST),
        lambda: model.novel_view(None, None, FIRST),
    ):
        with pytest.raises(ValueError, match=f"cameras is given, but {message}.*leave it out"):
            call()
