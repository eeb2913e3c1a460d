import numpy as np
import pytest

from soda_jax.data import ViewSpec, cameras, eval_views, make_views

RNG = np.random.default_rng(0)
IMAGE = {
    "image": RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8),
    "label": np.int32(3),
    "factors": np.array([1, 2], np.int32),
}


def _multi_view(count, resolution=32):
    return {
        "views": [
            {
                "image": np.full((resolution, resolution, 3), 10 * j, np.uint8),
                "pose": cameras.orbit(0.3 * j, 0.4, 3.0),
                "intrinsics": np.array([resolution, resolution, resolution / 2, resolution / 2]),
            }
            for j in range(count)
        ],
        "factors": np.array([4], np.int32),
    }


def test_augmented_views_are_independent():
    spec = ViewSpec(num_sources=2, source_resolution=24, target_resolution=16)
    views = make_views(IMAGE, np.random.default_rng(0), spec)
    assert views["source"].shape == (2, 24, 24, 3) and views["source"].dtype == np.uint8
    assert views["target"].shape == (16, 16, 3) and views["target"].dtype == np.uint8
    assert views["source_mask"].tolist() == [True, True]
    assert views["label"] == 3 and views["factors"].tolist() == [1, 2]
    assert not np.array_equal(views["source"][0], views["source"][1])


def test_same_policy_shows_one_augmentation_twice():
    spec = ViewSpec("same", source_resolution=32, target_resolution=32)
    for seed in range(5):
        views = make_views(IMAGE, np.random.default_rng(seed), spec)
        np.testing.assert_array_equal(views["source"][0], views["target"])
    assert not np.array_equal(views["target"], eval_views(IMAGE, spec)["target"])


def test_without_augmentation_a_view_is_the_centre():
    spec = ViewSpec(source_resolution=40, target_resolution=40, augment_target=False)
    views = make_views(IMAGE, np.random.default_rng(0), spec)
    np.testing.assert_array_equal(views["target"], IMAGE["image"][:, 5:45])
    assert not np.array_equal(views["source"][0], views["target"])
    plain = eval_views(IMAGE, spec)
    np.testing.assert_array_equal(plain["source"][0], IMAGE["image"][:, 5:45])
    np.testing.assert_array_equal(plain["target"], IMAGE["image"][:, 5:45])
    assert set(plain) == set(views)


def test_camera_views_are_distinct_and_bring_their_cameras():
    example = _multi_view(6)
    spec = ViewSpec("camera", num_sources=3, source_resolution=32, target_resolution=16)
    targets = set()
    for seed in range(60):
        views = make_views(example, np.random.default_rng(seed), spec)
        shown = [int(image[0, 0, 0]) // 10 for image in views["source"]]
        target = int(views["target"][0, 0, 0]) // 10
        targets.add(target)
        assert len({*shown, target}) == 4
        for place, number in enumerate(shown):
            np.testing.assert_allclose(views["source_pose"][place], example["views"][number]["pose"], atol=1e-6)
        np.testing.assert_allclose(views["target_pose"], example["views"][target]["pose"], atol=1e-6)
        np.testing.assert_allclose(views["source_intrinsics"], np.tile([32, 32, 16, 16], (3, 1)))
        np.testing.assert_allclose(views["target_intrinsics"], [16, 16, 8, 8])
        assert views["target_pose"].dtype == np.float32
    assert targets == set(range(6))


def test_eval_cameras_share_the_target_and_nest_their_sources():
    example = _multi_view(7)
    shown = []
    for count in (1, 3, 5):
        views = eval_views(example, ViewSpec("camera", num_sources=count))
        shown.append((views["target"][0, 0, 0], views["source"][:, 0, 0, 0].tolist()))
    assert shown[0][0] == shown[1][0] == shown[2][0]
    assert shown[2][1][:3] == shown[1][1] and shown[1][1][:1] == shown[0][1]


def test_single_image_policies_take_a_random_view_of_many():
    example = _multi_view(4)
    spec = ViewSpec("same", source_resolution=32, target_resolution=32)
    shown = {int(make_views(example, np.random.default_rng(s), spec)["target"][0, 0, 0]) for s in range(40)}
    assert shown == {0, 10, 20, 30}
    assert eval_views(example, spec)["target"][0, 0, 0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "other"}, "policy='other' is unknown"),
        ({"num_sources": 0}, "num_sources=0"),
        ({"target_resolution": 0}, "target_resolution=0"),
        ({"crop_rate": 1.5}, "crop_rate=1.5"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale="),
        ({"policy": "same", "num_sources": 2}, "exactly 1"),
        ({"policy": "same", "augment_target": False}, "set them alike"),
    ],
)
def test_bad_specs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViewSpec(**options)


def test_camera_policy_needs_enough_views():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="multi-view source"):
        make_views(IMAGE, rng, ViewSpec("camera"))
    with pytest.raises(ValueError, match="need 4 views, an object has 3; lower num_sources"):
        make_views(_multi_view(3), rng, ViewSpec("camera", num_sources=3))
