import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from soda_jax.data import ViewSpec, cameras, eval_views, make_views
from soda_jax.data.decode import EncodedImage

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
    labels = set()
    for seed in range(60):
        views = make_views(example, np.random.default_rng(seed), spec)
        shown = [int(image[0, 0, 0]) // 10 for image in views["source"]]
        target = int(views["target"][0, 0, 0]) // 10
        labels.add(target)
        assert len({*shown, target}) == 4
        for place, number in enumerate(shown):
            np.testing.assert_allclose(views["source_pose"][place], example["views"][number]["pose"], atol=1e-6)
        np.testing.assert_allclose(views["target_pose"], example["views"][target]["pose"], atol=1e-6)
        np.testing.assert_allclose(views["source_intrinsics"], np.tile([32, 32, 16, 16], (3, 1)))
        np.testing.assert_allclose(views["target_intrinsics"], [16, 16, 8, 8])
        assert views["target_pose"].dtype == np.float32
    assert labels == set(range(6))


def test_eval_cameras_share_the_target_and_nest_their_sources():
    example = _multi_view(7)
    labels = set()
    for index in range(60):
        shown = []
        for count in (1, 3, 5):
            views = eval_views(example, ViewSpec("camera", num_sources=count), index=index)
            shown.append((views["target"][0, 0, 0], views["source"][:, 0, 0, 0].tolist()))
        assert shown[0][0] == shown[1][0] == shown[2][0]
        assert shown[2][1][:3] == shown[1][1] and shown[1][1][:1] == shown[0][1]
        labels.add(int(shown[0][0]))
    assert len(labels) == 7  # every camera of a set whose objects share them


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
        ({"min_sources": 2}, "min_sources=2 must lie in 0..num_sources=1"),
        ({"randaugment_rate": -0.5}, "randaugment_rate=-0.5"),
        ({"randaugment_ops": 0}, "randaugment_ops=0"),
        ({"randaugment_magnitude": 10.5}, "randaugment_magnitude=10.5"),
        ({"randaugment_std": -1.0}, "randaugment_std=-1.0"),
        ({"policy": "same", "num_sources": 2}, "exactly 1"),
        ({"policy": "same", "augment_target": False}, "set them alike"),
    ],
)
def test_bad_specs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViewSpec(**options)


def test_camera_policy_needs_enough_views():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="multi-view dataset"):
        make_views(IMAGE, rng, ViewSpec("camera"))
    with pytest.raises(ValueError, match="need 4 views, an object has 3; lower num_sources"):
        make_views(_multi_view(3), rng, ViewSpec("camera", num_sources=3))


def _photo(height=64, width=80):
    y, x = np.mgrid[:height, :width] / 20.0
    planes = [np.sin(x + k) * np.cos(0.7 * y - k) for k in range(3)]
    return (127.5 + 120 * np.stack(planes, -1)).astype(np.uint8)


def _position_image(height, width):
    """Red rises with x, green with y, so that a view tells which window it shows."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([255 * x / width, 255 * y / height, 0 * x], -1).round().astype(np.uint8)


def _seen_window(view):
    """(x_left, y_top, x_right, y_bottom) of a view of `_position_image`, by extrapolating to its edges."""
    red, green = view[..., 0].mean(0) / 127.5 - 1, view[..., 1].mean(1) / 127.5 - 1
    size = len(red)
    edges = []
    for line in (red, green):
        slope, start = np.polyfit(np.arange(size) + 0.5, line, 1)
        edges.append((start, start + slope * size))
    return np.array(edges).T.ravel()


@pytest.mark.parametrize("encoded", [False, True])
def test_windows_say_what_the_views_show(encoded):
    image = _position_image(400, 600)
    if encoded:  # Decoded at reduced size, which moves windows a little; what is reported must be exact.
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
        image = EncodedImage(buffer.getvalue())
    spec = ViewSpec(num_sources=2, source_resolution=24, target_resolution=16, crop_rate=0.9)
    mirrored = 0
    for seed in range(40):
        views = make_views({"image": image}, np.random.default_rng(seed), spec)
        shown = [*zip(views["source"], views["source_window"], strict=True), (views["target"], views["target_window"])]
        for pixels, window in shown:
            assert window.dtype == np.float32
            np.testing.assert_allclose(_seen_window(pixels), window, atol=0.03)
            mirrored += window[0] > window[2]
    assert 30 < mirrored < 90  # of 120
    centre = eval_views({"image": image}, spec)
    tolerance = 1 / 16 if encoded else 1e-6  # A pixel of the view.
    np.testing.assert_allclose(centre["target_window"], [-2 / 3, -1, 2 / 3, 1], atol=tolerance)
    np.testing.assert_allclose(centre["source_window"], [[-2 / 3, -1, 2 / 3, 1]] * 2, atol=tolerance)


def test_encoded_images_are_decoded_once_and_no_larger_than_needed(monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(_photo(256, 320)).save(buffer, "JPEG")
    decoded = []
    original = EncodedImage.decode
    monkeypatch.setattr(EncodedImage, "decode", lambda self, r=1: decoded.append(r) or original(self, r))
    for resolution, expected in ((256, 1), (128, 2), (60, 4), (24, 8), (300, 1)):
        decoded.clear()
        spec = ViewSpec(source_resolution=resolution, target_resolution=16)
        views = eval_views({"image": EncodedImage(buffer.getvalue())}, spec)
        assert decoded == [expected] and views["source"].shape == (1, resolution, resolution, 3)
    decoded.clear()
    spec = ViewSpec(num_sources=3, source_resolution=32, target_resolution=32)
    for seed in range(30):
        make_views({"image": EncodedImage(buffer.getvalue())}, np.random.default_rng(seed), spec)
    assert len(decoded) == 30 and set(decoded) <= {1, 2, 4}


def test_reduced_decoding_moves_no_edge_by_more_than_a_pixel():
    buffer = io.BytesIO()
    Image.fromarray(_photo(256, 320)).save(buffer, "JPEG", quality=95)
    spec = ViewSpec(source_resolution=48, target_resolution=32)
    plain = {"image": np.asarray(EncodedImage(buffer.getvalue()))}
    for seed in range(20):
        views = make_views({"image": EncodedImage(buffer.getvalue())}, np.random.default_rng(seed), spec)
        expected = make_views(plain, np.random.default_rng(seed), spec)
        for key, resolution in (("source", 48), ("target", 32)):
            window = expected[f"{key}_window"]
            pixel = np.abs(window[..., 2:] - window[..., :2]).max() / resolution
            assert np.abs(views[f"{key}_window"] - window).max() <= pixel
            assert np.abs(views[key].astype(int) - expected[key]).mean() < 8


@pytest.mark.parametrize("resolution", [16, 24, 49, 99, 120])
def test_cameras_of_encoded_images_follow_the_reduction(resolution):
    """A pixel's ray, through the new intrinsics, hits the place of the whole image whose colour it shows."""
    height, width = 99, 131
    buffer = io.BytesIO()
    Image.fromarray(_position_image(height, width)).save(buffer, "JPEG", quality=98, subsampling=0)
    focal, cx, cy = 120.0, 60.0, 55.0
    view = {"image": EncodedImage(buffer.getvalue()), "pose": np.eye(4), "intrinsics": np.array([focal, focal, cx, cy])}
    spec = ViewSpec("camera", source_resolution=8, target_resolution=resolution)
    result = eval_views({"views": [view, view]}, spec)
    new_fx, new_fy, new_cx, new_cy = result["target_intrinsics"]
    place = np.arange(resolution) + 0.5
    x = cx + focal * (place - new_cx) / new_fx
    y = cy + focal * (place - new_cy) / new_fy
    inner = slice(1, -1)
    np.testing.assert_allclose(result["target"][..., 0].mean(0)[inner], (255 * x / width)[inner], atol=2)
    np.testing.assert_allclose(result["target"][..., 1].mean(1)[inner], (255 * y / height)[inner], atol=2)


@pytest.mark.parametrize("augment_source", [True, False])
@pytest.mark.parametrize("augment_target", [True, False])
@pytest.mark.parametrize("rates", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_source_and_target_are_augmented_apart(augment_source, augment_target, rates):
    spec = ViewSpec(
        source_resolution=40,
        target_resolution=40,
        augment_source=augment_source,
        augment_target=augment_target,
        crop_rate=rates[0],
        randaugment_rate=rates[1],
    )
    centre = eval_views(IMAGE, spec)
    changed = {"source": 0, "target": 0}
    for seed in range(30):
        views = make_views(IMAGE, np.random.default_rng(seed), spec)
        for key in changed:
            changed[key] += not np.array_equal(views[key], centre[key])
    assert (changed["source"] > 20) == augment_source and (changed["target"] > 20) == augment_target
    assert augment_source or changed["source"] == 0
    assert augment_target or changed["target"] == 0


def test_randaugment_rate():
    spec = ViewSpec(source_resolution=40, target_resolution=40, crop_rate=0.0, randaugment_rate=0.65)
    centre = eval_views(IMAGE, spec)
    drawn = [make_views(IMAGE, np.random.default_rng(seed), spec) for seed in range(400)]
    source = [not np.array_equal(views["source"], centre["source"]) for views in drawn]
    target = [not np.array_equal(views["target"], centre["target"]) for views in drawn]
    # IMAGE is noise of all levels, on which AutoContrast does nothing: 2 of 2 operations in 1 of 225.
    assert np.mean(source) == pytest.approx(0.65, abs=0.07) and np.mean(target) == pytest.approx(0.65, abs=0.07)
    assert np.corrcoef(source, target)[0, 1] == pytest.approx(0, abs=0.15)


def test_same_policy_distorts_both_alike():
    spec = ViewSpec("same", source_resolution=32, target_resolution=32, randaugment_rate=1.0)
    for seed in range(20):
        views = make_views(IMAGE, np.random.default_rng(seed), spec)
        np.testing.assert_array_equal(views["source"][0], views["target"])
        np.testing.assert_array_equal(views["source_window"][0], views["target_window"])


def test_randaugment_off_changes_no_draw():
    first, second = (
        make_views(IMAGE, np.random.default_rng(5), ViewSpec(randaugment_rate=rate, randaugment_ops=3))
        for rate in (0.0, 1e-9)
    )
    np.testing.assert_array_equal(first["source"], second["source"])
    np.testing.assert_array_equal(first["target"], second["target"])


@pytest.mark.parametrize(
    ("example", "spec"),
    [
        (_multi_view(6), ViewSpec("camera", num_sources=4, source_resolution=32, target_resolution=32)),
        (IMAGE, ViewSpec(num_sources=4, source_resolution=32, target_resolution=32, randaugment_rate=0.5)),
    ],
    ids=["cameras", "crops"],
)
def test_fewer_sources_are_the_first_of_all_and_the_target_stays(example, spec):
    for seed in range(5):
        everything = make_views(example, np.random.default_rng(seed), spec)
        for count in (1, 3):
            views = make_views(example, np.random.default_rng(seed), spec, num_sources=count)
            assert views.keys() == everything.keys() and views["source_mask"].tolist() == [True] * count
            for key, value in views.items():
                expected = everything[key][:count] if key.startswith("source") else everything[key]
                np.testing.assert_array_equal(value, expected, err_msg=key)


def test_sources_that_are_not_shown_are_not_decoded(monkeypatch):
    decode, decoded = EncodedImage.decode, []
    monkeypatch.setattr(EncodedImage, "decode", lambda self, *args: decoded.append(self) or decode(self, *args))
    buffer = io.BytesIO()
    Image.fromarray(IMAGE["image"]).save(buffer, "PNG")
    example = _multi_view(6)
    for view in example["views"]:
        view["image"] = EncodedImage(buffer.getvalue())
    spec = ViewSpec("camera", num_sources=4, source_resolution=32, target_resolution=32)
    make_views(example, np.random.default_rng(0), spec, num_sources=2)
    assert len(decoded) == 3


def test_class_policy_targets_the_partner():
    spec = ViewSpec("class", num_sources=2, source_resolution=16, target_resolution=16, randaugment_rate=0.0)
    example = {"image": np.full((40, 50, 3), 10, np.uint8), "label": np.int32(1)}
    partner = {"image": np.full((30, 20, 3), 200, np.uint8), "label": np.int32(1)}
    for views in (make_views(example, np.random.default_rng(0), spec, partner), eval_views(example, spec, partner)):
        assert np.all(views["source"] == 10) and np.all(views["target"] == 200)
        assert views["label"] == 1 and views["source"].shape == (2, 16, 16, 3)
    np.testing.assert_allclose(views["target_window"], [-1, -2 / 3, 1, 2 / 3], rtol=1e-5)
    with pytest.raises(ValueError, match="needs a partner"):
        make_views(example, np.random.default_rng(0), spec)


@pytest.mark.parametrize("shape", [(256, 341), (341, 256), (500, 375), (256, 256)])
def test_evaluation_crop_is_the_protocol_of_resizing_and_cropping(shape):
    """Short side to 64, then the centre 56, as Pillow does it: 87.5%."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = (127.5 + 100 * np.sin(np.stack([x / 30, y / 25, (x + y) / 40], -1))).astype(np.uint8)
    spec = ViewSpec(source_resolution=56, target_resolution=64, eval_crop=0.875)
    views = eval_views({"image": image}, spec)
    scale = 64 / min(shape)
    small = Image.fromarray(image).resize((round(shape[1] * scale), round(shape[0] * scale)), Image.BICUBIC)
    left, top = (small.width - 56) / 2, (small.height - 56) / 2
    expected = np.asarray(small.transform((56, 56), Image.AFFINE, (1, 0, left, 0, 1, top), Image.BICUBIC))
    assert np.abs(views["source"][0].astype(int) - expected).mean() < 2
    half = 0.875 * min(shape) / np.array(shape)
    np.testing.assert_allclose(views["source_window"][0], [-half[1], -half[0], half[1], half[0]], atol=0.01)
    whole = eval_views({"image": image}, dataclasses.replace(spec, eval_crop=1.0))
    np.testing.assert_array_equal(views["target"], whole["target"])  # a target shows the whole square
    assert np.abs(views["source"][0].astype(int) - whole["source"][0]).mean() > 5


def test_evaluation_crop_leaves_training_alone_and_source_and_target_alike():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for policy in ("augment", "same"):
        spec = ViewSpec(policy, source_resolution=16, target_resolution=16)
        cropped = dataclasses.replace(spec, eval_crop=0.5)
        first, second = (make_views({"image": image}, np.random.default_rng(1), s) for s in (spec, cropped))
        np.testing.assert_array_equal(first["source"], second["source"])
        np.testing.assert_array_equal(first["target"], second["target"])
    same = eval_views({"image": image}, cropped)
    np.testing.assert_array_equal(same["source"][0], same["target"])
    np.testing.assert_allclose(same["target_window"], [-0.4, -0.5, 0.4, 0.5])


@pytest.mark.parametrize("value", [0.0, -1, 1.01])
def test_impossible_evaluation_crops_are_refused(value):
    with pytest.raises(ValueError, match="eval_crop"):
        ViewSpec(eval_crop=value)
    with pytest.raises(ValueError, match="policy='camera' shows whole views"):
        ViewSpec("camera", eval_crop=0.875)
