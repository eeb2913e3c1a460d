import pickle
import time

import numpy as np
import pytest

from soda_jax import data
from soda_jax.data import cameras
from soda_jax.data.datasets import raymarch
from soda_jax.data.datasets import scenes as scenes_module
from soda_jax.data.datasets.base import fixed_split


def test_splits_partition_all_combinations():
    parts = [fixed_split(480_000, s, 480_000) for s in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [384_000, 48_000, 48_000]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(480_000))


def test_examples_carry_their_factors(scenes):
    assert len(scenes) == 384_000
    labels = scenes.labels["factors"]
    assert labels.sizes == (10, 10, 10, 8, 4, 15) and labels.names[-1] == "orientation"
    indices = np.array([0, 5, 77, 383_999])
    examples = scenes.get_many(indices)
    for index, example in zip(indices, examples, strict=True):
        assert example["image"].shape == (32, 32, 3) and example["image"].dtype == np.uint8
        assert example["factors"].dtype == np.int32 and example["factors"].shape == (6,)
        single = scenes[int(index)]
        np.testing.assert_array_equal(single["image"], example["image"])
        np.testing.assert_array_equal(single["factors"], example["factors"])
    factors = scenes.factors(np.arange(20_000))
    assert len(np.unique(factors, axis=0)) == 20_000
    np.testing.assert_array_equal(factors.min(0), 0)
    np.testing.assert_array_equal(factors.max(0), np.array(labels.sizes) - 1)
    np.testing.assert_array_equal(scenes.index_of(factors[:100]), np.arange(100))
    other = data.load_dataset("scenes", None, "test", resolution=32)
    assert np.all(other.index_of(factors) == -1)


def test_image_is_the_direct_rendering(scenes):
    index = 4
    factors = scenes[index]["factors"]
    camera = scenes.camera(index)
    weights = raymarch.render(
        raymarch.SHAPES[factors[4]],
        scenes_module.SIZES[factors[3]],
        camera["pose"],
        camera["intrinsics"],
        32,
        room=raymarch.Room(half_size=3.4),
    )
    albedos = scenes_module.PALETTE[factors[:3]]
    expected = 255 * np.minimum(weights[..., :3] @ albedos + weights[..., 3:], 1)
    # Four weights rounded to 8 bits, then the colour.
    assert np.abs(scenes[index]["image"] - expected).max() < 3


def test_each_hue_colours_its_own_surface(scenes):
    geometry = np.ravel_multi_index((4, 2, 7), (8, 4, 15))
    base, floor, wall, thing = scenes.compose(
        np.full(4, geometry), np.array([[0, 3, 6], [5, 3, 6], [0, 8, 6], [0, 3, 1]])
    ).astype(int)
    changed = [np.abs(other - base).max(-1) > 12 for other in (floor, wall, thing)]
    assert not np.any(changed[0] & changed[1] & changed[2])
    assert changed[0][-1].all() and not changed[0][0].any()  # The floor is below,
    assert changed[1][0].all() and not changed[1][-1].any()  # the wall above,
    assert changed[2][16, 16] and not changed[2][:, 0].any()  # the object in the middle.


def test_hues_scales_and_shapes_look_different(scenes):
    gaps = np.abs(scenes_module.PALETTE[:, None] - scenes_module.PALETTE[None]).sum(-1)
    assert gaps[~np.eye(10, dtype=bool)].min() > 0.25
    hues = np.array([0, 5, 2])
    geometry = np.arange(480).reshape(8, 4, 15)[:, :, 7]
    images = scenes.compose(geometry.ravel(), np.tile(hues, (32, 1))).astype(float)
    flat = images.reshape(32, -1)
    distance = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1))
    assert distance[~np.eye(32, dtype=bool)].min() > 4


def test_orientation_turns_the_camera_around_the_object(scenes):
    poses = scenes_module.orientation_poses()
    azimuth = np.rad2deg(np.arctan2(poses[:, 0, 3], -poses[:, 1, 3]))
    np.testing.assert_allclose(azimuth, np.linspace(-30, 30, 15), atol=1e-9)
    centre = cameras.project(np.array([0, 0, 0.85]), poses[3], scenes.intrinsics)
    np.testing.assert_allclose(centre, [16, 16], atol=1e-5)
    # The room is mirror-symmetric, the light is not: silhouettes of opposite orientations mirror.
    weights = scenes._weights.array.reshape(8, 4, 15, 32, 32, 4)[5, 0]
    left, right = weights[0, ..., 2] > 0, weights[14, ..., 2] > 0
    assert np.mean(left != right[:, ::-1]) < 0.01 and np.mean(left != right) > 0.001


def test_composition_is_fast(scenes):
    rng = np.random.default_rng(0)
    geometry, hues = rng.integers(0, 480, 2000), rng.integers(0, 10, (2000, 3))
    scenes.compose(geometry[:10], hues[:10])
    start = time.process_time()
    scenes.compose(geometry, hues)
    # About 50,000 images a second on one core; the bound leaves room for slow machines.
    assert 2000 / (time.process_time() - start) > 5000


def test_pickle_is_small_and_equal(scenes, free_scenes):
    copy = pickle.loads(pickle.dumps(scenes))
    np.testing.assert_array_equal(copy[11]["image"], scenes[11]["image"])
    copy = pickle.loads(pickle.dumps(free_scenes))
    np.testing.assert_array_equal(copy[3]["views"][2]["image"], free_scenes[3]["views"][2]["image"])


@pytest.fixture
def quick_render(monkeypatch):
    """Replaces the renderer by one that counts its calls, for tests of the cache."""
    calls = []

    def render(jobs, resolution, room, samples):
        calls.append(len(jobs))
        return np.full((len(jobs), resolution, resolution, 4), 60, np.uint8)

    monkeypatch.setattr(scenes_module, "_render", render)
    return calls


def test_geometry_is_rendered_once_and_again_when_damaged(tmp_path, quick_render):
    def load():
        return data.load_dataset("scenes", tmp_path, "test", resolution=32)[0]["image"]

    image = load()
    load()
    assert quick_render == [480]
    (file,) = tmp_path.iterdir()  # No temporary files are left.
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[5000] ^= 255
    for damage in (flipped, content[:-100], content[:50], b""):
        file.write_bytes(damage)
        np.testing.assert_array_equal(load(), image)
        assert file.read_bytes() == content
    assert quick_render == [480] * 5


def test_cache_name_follows_the_geometry(tmp_path, quick_render, monkeypatch):
    data.load_dataset("scenes", tmp_path, "test", resolution=32)
    monkeypatch.setattr(scenes_module, "SIZES", scenes_module.SIZES * 1.01)
    data.load_dataset("scenes", tmp_path, "test", resolution=32)
    data.load_dataset("scenes", tmp_path, "test", resolution=48)
    assert quick_render == [480] * 3 and len(list(tmp_path.iterdir())) == 3


def test_unwritable_cache_keeps_the_bank_in_memory(tmp_path, quick_render):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    dataset = data.load_dataset("scenes", blocker / "cache", "test", resolution=32)
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[0]["image"], dataset[0]["image"])


@pytest.mark.parametrize("resolution", [16, 129, 32.0])
def test_resolution_is_checked(resolution):
    with pytest.raises(ValueError, match="resolution=.*32..128"):
        data.load_dataset("scenes", None, "train", resolution=resolution)


def test_unknown_split_and_option(scenes):
    with pytest.raises(ValueError, match="'valid' is unknown; choose one of train, validation"):
        data.load_dataset("scenes", None, "valid", resolution=32)
    with pytest.raises(ValueError, match="'scenes' has no option num_views"):
        data.load_dataset("scenes", None, "train", resolution=32, num_views=3)


def test_free_scenes_views(free_scenes):
    assert len(free_scenes) == 25_600
    assert free_scenes.labels["factors"].sizes == (10, 10, 10, 8, 4)
    example = free_scenes[9]
    assert example["factors"].shape == (5,) and len(example["views"]) == 5
    view = example["views"][2]
    assert view["image"].shape == (32, 32, 3) and view["image"].dtype == np.uint8
    assert view["pose"].dtype == np.float32 and view["intrinsics"].dtype == np.float32


def test_free_cameras_are_on_the_upper_hemisphere_and_see_the_object(free_scenes):
    poses = scenes_module.free_poses(48)
    assert poses.shape == (32, 48, 4, 4)
    np.testing.assert_array_equal(scenes_module.free_poses(5), poses[:, :5])
    position = poses[..., :3, 3]
    assert position[..., 2].min() > 0.85 and np.abs(position[..., :2]).max() < 6.5
    assert len(np.unique(position.reshape(-1, 3), axis=0)) == 32 * 48
    pixels = np.stack([cameras.project(np.array([0, 0, 0.85]), p, free_scenes.intrinsics) for p in poses[3]])
    np.testing.assert_allclose(pixels, 16, atol=1e-5)
    seen = (free_scenes._weights.array[..., 2] > 20).sum((1, 2))
    assert seen.min() >= 12


def test_free_view_is_what_its_camera_sees(free_scenes):
    """The object's silhouette, re-projected from the shape's surface through pose and intrinsics."""
    spheres = [i for i in range(200) if free_scenes[i]["factors"][4] == 2]
    example = free_scenes[spheres[0]]
    size = scenes_module.SIZES[example["factors"][3]]
    centre, radius = raymarch.bounding_sphere("sphere", size)
    geometry = int(example["factors"][3] * 4 + 2)
    for number in range(5):
        view = example["views"][number]
        origin, directions = cameras.pixel_rays(view["pose"], view["intrinsics"], 32, 32)
        nearest = np.linalg.norm(np.cross(directions, centre - origin), axis=-1)
        silhouette = free_scenes._weights.array[geometry * 5 + number, ..., 2] > 0
        assert silhouette[nearest < radius * 0.95].all()
        assert not silhouette[nearest > radius * 1.12].any()


def test_free_splits_separate_objects(cache_home):
    combinations = [
        {tuple(dataset[i]["factors"]) for i in range(0, len(dataset), max(1, len(dataset) // 400))}
        for dataset in (
            data.load_dataset("scenes_free", None, s, resolution=32, num_views=5)
            for s in ("train", "validation", "test")
        )
    ]
    assert not combinations[0] & combinations[1] and not combinations[1] & combinations[2]
    parts = [fixed_split(32_000, s, 480_000) for s in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(32_000))


def test_handheld_views_are_what_their_cameras_see_in_their_light(cache_home):
    """Re-projected as above, and brightness by the exposure: the same weights, scaled."""
    snapshots = data.load_dataset("scenes_handheld", None, "train", resolution=32, num_views=5)
    poses, exposures = scenes_module.handheld_cameras(5)
    np.testing.assert_array_equal(scenes_module.handheld_cameras(3)[0], poses[:, :3])
    assert 0.5 <= exposures.min() < 0.6 and 0.9 < exposures.max() <= 1
    example = next(snapshots[i] for i in range(200) if snapshots[i]["factors"][4] == 2)
    geometry = int(example["factors"][3] * 4 + 2)
    centre, radius = raymarch.bounding_sphere("sphere", scenes_module.SIZES[example["factors"][3]])
    for number in range(5):
        view = example["views"][number]
        np.testing.assert_array_equal(view["pose"], poses[geometry, number].astype(np.float32))
        origin, directions = cameras.pixel_rays(view["pose"], view["intrinsics"], 32, 32)
        nearest = np.linalg.norm(np.cross(directions, centre - origin), axis=-1)
        weights = snapshots._weights.array[geometry * 5 + number]
        assert (weights[..., 2] > 0)[nearest < radius * 0.95].all()
        assert not (weights[..., 2] > 0)[nearest > radius * 1.12].any()
        full = weights[..., :3].astype(float) @ scenes_module.PALETTE[example["factors"][:3]] + weights[..., 3:]
        np.testing.assert_allclose(view["image"], np.minimum(exposures[geometry, number] * full, 255), atol=0.51)


def test_handheld_cameras_aim_beside_the_object_and_are_tilted(free_scenes):
    poses, _ = scenes_module.handheld_cameras(48)
    flat = poses.reshape(-1, 4, 4)
    pixels = np.stack([cameras.project(np.array([0, 0, 0.85]), pose, free_scenes.intrinsics) for pose in flat])
    assert (np.abs(pixels - 16).max(0) > 7).all() and (np.abs(pixels - 16) < 13).all()  # anywhere, but in the image
    roll = np.rad2deg(np.arcsin(flat[:, 2, 0]))
    assert roll.min() < -12 and roll.max() > 12
