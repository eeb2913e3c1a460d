import json
import pickle

import numpy as np
import pytest
from PIL import Image

from soda_jax import data
from soda_jax.data import cameras
from soda_jax.data.datasets.transforms_json import Lens


def _image(number, size=(16, 12)):
    """RGB that tells the view's number, with a gradient so that cropping and scaling show."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    return np.stack([np.full_like(rows, number), rows * 8, columns * 8], -1).astype(np.uint8)


def _write_object(folder, count=4, first=0, *, file="transforms.json", size=(16, 12), suffix=".png", **fields):
    """An object whose view j has red level first + j and looks from azimuth j / 3."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for j in range(count):
        name = f"{file.removesuffix('.json')}_{j}"
        Image.fromarray(_image(first + j, size)).save(folder / f"{name}{suffix}", lossless=True)
        matrix = cameras.orbit(j / 3, 0.4, 3.0).tolist()
        frames.append({"file_path": f"./{name}{suffix}", "transform_matrix": matrix})
    document = {"camera_angle_x": 0.7, **fields, "frames": frames}
    _rewrite(folder / file, document)
    return document


def _rewrite(file, document):
    file.write_text(json.dumps(document))


def _open(root, split="train", **options):
    return data.load_dataset("multiview", root, split, **options)


@pytest.fixture
def many(tmp_path):
    for number in range(40):
        _write_object(tmp_path / f"thing{number:02d}", 3, 4 * number, category="odd" if number % 2 else "even")
    return tmp_path


def _first_levels(dataset):
    return {int(dataset[i]["views"][0]["image"][0, 0, 0]) for i in range(len(dataset))}


def test_an_object_is_credited_as_its_file_says(tmp_path):
    _write_object(tmp_path / "train" / "a", title="Chair", creator="Ada", library="Models-CC-BY")
    _write_object(tmp_path / "train" / "b", creator="Ada", title=3)
    _write_object(tmp_path / "train" / "c", title="Chair")
    assert [_open(tmp_path).credit(i) for i in range(3)] == ["Chair by Ada (Models-CC-BY)", "train/b by Ada", ""]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_views_bring_image_pose_and_intrinsics(tmp_path, cache_bytes):
    _write_object(tmp_path / "train" / "a", 3)
    dataset = _open(tmp_path, cache_bytes=cache_bytes)
    views = dataset[0]["views"]
    assert len(dataset) == 1 and len(views) == 3 and len(list(views)) == 3
    for j in range(3):
        np.testing.assert_array_equal(views[j]["image"], _image(j))
        assert isinstance(views[j]["image"], np.ndarray)
        np.testing.assert_allclose(views[j]["pose"], cameras.orbit(j / 3, 0.4, 3.0), atol=1e-6)
        assert views[j]["pose"].dtype == views[j]["intrinsics"].dtype == np.float32
        focal = 8 / np.tan(0.35)
        np.testing.assert_allclose(views[j]["intrinsics"], [focal, focal, 8, 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fl_x": 20, "fl_y": 22, "cx": 7, "cy": 5, "w": 16, "h": 12}, [20, 22, 7, 5]),
        ({"fl_x": 20}, [20, 20, 8, 6]),
        ({"fl_y": 20, "cx": 3.5}, [20, 20, 3.5, 6]),
        # Stored at half the size that the camera was calibrated at.
        ({"fl_x": 40, "fl_y": 44, "cx": 14, "cy": 10, "w": 32, "h": 24}, [20, 22, 7, 5]),
        ({"fl_x": 40, "cx": 14, "w": 32}, [20, 20, 7, 6]),
        ({"camera_angle_x": 0.7, "w": 32, "h": 24}, [8 / np.tan(0.35)] * 2 + [8, 6]),
        ({"camera_angle_y": 0.7}, [6 / np.tan(0.35)] * 2 + [8, 6]),
        ({"camera_angle_x": 0.7, "camera_angle_y": 0.5}, [8 / np.tan(0.35), 6 / np.tan(0.25), 8, 6]),
    ],
)
def test_intrinsics_in_all_their_forms(fields, expected):
    np.testing.assert_allclose(Lens(**fields).intrinsics(12, 16), expected, rtol=1e-6)


def test_a_frame_may_have_a_camera_of_its_own(tmp_path):
    document = _write_object(tmp_path / "train" / "a", 3)
    document["frames"][1] |= {"fl_x": 30, "cx": 4}
    document["frames"][2]["camera_angle_x"] = 0.5
    _rewrite(tmp_path / "train" / "a" / "transforms.json", document)
    views = _open(tmp_path)[0]["views"]
    focals = [views[j]["intrinsics"][0] for j in range(3)]
    np.testing.assert_allclose(focals, [8 / np.tan(0.35), 30, 8 / np.tan(0.25)], rtol=1e-6)
    assert [views[j]["intrinsics"][2] for j in range(3)] == [8, 4, 8]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp"])
def test_file_paths_may_lack_their_extension(tmp_path, suffix):
    document = _write_object(tmp_path / "train" / "a", suffix=suffix)
    for frame in document["frames"]:
        frame["file_path"] = frame["file_path"].removesuffix(suffix)
    _rewrite(tmp_path / "train" / "a" / "transforms.json", document)
    np.testing.assert_array_equal(_open(tmp_path)[0]["views"][2]["image"], _image(2))


def test_transparency_is_white_and_exif_orientation_is_left_alone(tmp_path):
    document = _write_object(tmp_path / "train" / "a", 2, suffix=".webp", fl_x=20, w=16, h=12)
    folder = tmp_path / "train" / "a"
    Image.new("RGBA", (16, 12), (9, 9, 9, 0)).save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "Turn by 90 degrees": the camera was calibrated on the pixels as they are stored.
    Image.new("RGB", (16, 12), (50, 60, 70)).save(folder / "turned.jpg", exif=exif)
    document["frames"][0]["file_path"], document["frames"][1]["file_path"] = "clear.png", "turned.jpg"
    _rewrite(folder / "transforms.json", document)
    for cache_bytes in (0, 1 << 20):
        views = _open(tmp_path, cache_bytes=cache_bytes)[0]["views"]
        assert np.all(views[0]["image"] == 255)
        assert views[1]["image"].shape == (12, 16, 3) and abs(views[1]["image"][0, 0].astype(int) - 60).max() <= 12


def test_scene_centre_and_scale_move_the_cameras(tmp_path):
    _write_object(tmp_path / "train" / "a", scene_centre=[0.5, -1, 2], scene_scale=0.25)
    plain = cameras.orbit(1 / 3, 0.4, 3.0)
    pose = _open(tmp_path)[0]["views"][1]["pose"]
    np.testing.assert_allclose(pose[:3, 3], (plain[:3, 3] - [0.5, -1, 2]) / 4, atol=1e-6)
    np.testing.assert_allclose(pose[:3, :3], plain[:3, :3], atol=1e-6)


def test_hashed_splits_keep_objects_whole_and_do_not_move(many):
    before = [_open(many, split) for split in ("train", "validation", "test")]
    levels = [_first_levels(dataset) for dataset in before]
    assert sum(map(len, before)) == 40 and len(before[0]) > 20
    assert set.union(*levels) == {4 * n for n in range(40)}
    assert [len(dataset[0]["views"]) for dataset in before] == [3, 3, 3]
    for number in range(40, 60):
        _write_object(many / f"thing{number}", 3, 4 * number % 256, category="odd")
    for old, split in zip(before, ("train", "validation", "test"), strict=True):
        assert set(old.names) <= set(_open(many, split).names)


def test_splits_file_decides(many):
    (many / "splits.json").write_text(json.dumps({"train": ["thing03", "thing01"], "val": ["thing02"], "rest": []}))
    assert _open(many).names == ["thing01", "thing03"] and _open(many, "validation").names == ["thing02"]
    with pytest.raises(ValueError, match=r"'rest' .* is empty; objects: train \(2\), validation \(1\), rest \(0\)"):
        _open(many, "rest")
    with pytest.raises(ValueError, match=r"'test' .* is unknown"):
        _open(many, "test")
    for content, message in (
        ('{"train": ["thing99"]}', "names 1 objects that are not there, first 'thing99'"),
        ('{"train": ["thing01"], "test": ["thing01"]}', "'thing01' more than once"),
        ('["thing01"]', "repair or remove"),
        ("{", "not JSON"),
    ):
        (many / "splits.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            _open(many)


def test_split_folders(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        _write_object(tmp_path / split / "chair" / "a", 2, 10 * number)
        _write_object(tmp_path / split / "lamp" / "b", 2, 10 * number + 5)
    for number, split in enumerate(("train", "validation", "test")):
        dataset = _open(tmp_path, split)
        assert _first_levels(dataset) == {10 * number, 10 * number + 5}
        assert dataset.labels["label"].classes == ("chair", "lamp")


def test_objects_beside_split_folders_are_left_out_of_all_splits(tmp_path, caplog):
    for number, split in enumerate(("train", "test", "demo")):
        _write_object(tmp_path / split / "chair", 2, 10 * number)
    assert _open(tmp_path).names == ["train/chair"] and _open(tmp_path, "test").names == ["test/chair"]
    assert "nothing else in it is read: not demo/chair." in caplog.text
    with pytest.raises(ValueError, match=r"'validation' .* is empty.*not demo/chair.*config.data.eval_split"):
        _open(tmp_path, "validation")


def test_a_linked_object_is_one_object(tmp_path):
    _write_object(tmp_path / "train" / "a")
    (tmp_path / "train" / "again").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "round").symlink_to(tmp_path)
    assert _open(tmp_path).names == ["train/a"]


def test_objects_with_too_few_views_are_named_and_left_out(tmp_path, caplog):
    for name, count in (("a", 3), ("b", 2), ("c", 4)):
        _write_object(tmp_path / "train" / name, count)
    for cache_bytes in (0, 1 << 20):
        dataset = _open(tmp_path, min_views=3, cache_bytes=cache_bytes)
        assert dataset.names == ["train/a", "train/c"] and len(dataset[1]["views"]) == 4
    assert "1 of 3 objects" in caplog.text and "have fewer than 3 views: train/b; they are left out" in caplog.text
    (tmp_path / "train" / "a" / "transforms_0.png").write_bytes(b"no image")
    assert _open(tmp_path, min_views=3, max_bad_share=0.2).names == ["train/c"]
    with pytest.raises(ValueError, match="3 of 3 objects .* fewer than 5 views.*lower config.data.num_sources"):
        _open(tmp_path, min_views=5, cache_bytes=0)


def test_labels_come_from_categories_or_folders(many, tmp_path_factory):
    for split in ("train", "validation", "test"):
        dataset = _open(many, split)
        assert dataset.labels["label"].classes == ("even", "odd")
        for index, name in enumerate(dataset.names):
            assert dataset[index]["label"] == int(name[-2:]) % 2 == dataset.class_ids[index]
    # Where one object has no category, folders decide; where one has no folder, there is no label.
    root = tmp_path_factory.mktemp("objects")
    _write_object(root / "chair" / "train_a", category="x")
    _write_object(root / "lamp" / "b")
    (root / "splits.json").write_text('{"train": ["chair/train_a", "lamp/b"]}')
    assert [_open(root)[i]["label"] for i in range(2)] == [0, 1]
    assert _open(root).labels["label"].classes == ("chair", "lamp")
    _write_object(root / "alone")
    assert _open(root).labels == {} and "label" not in _open(root)[0]


def test_one_object_with_a_file_for_every_split(tmp_path):
    root = tmp_path / "lego"
    for number, split in enumerate(("train", "val", "test")):
        _write_object(root, 2 + number, 10 * number, file=f"transforms_{split}.json")
    for number, split in enumerate(("train", "validation", "test")):
        views = _open(root, split)[0]["views"]
        assert len(views) == 2 + number and views[0]["image"][0, 0, 0] == 10 * number
    # From above it is one object among many, with all its views.
    (tmp_path / "splits.json").write_text('{"train": ["lego"]}')
    assert len(_open(tmp_path)[0]["views"]) == 2 + 3 + 4
    _write_object(tmp_path / "single")
    with pytest.raises(ValueError, match="give the folder above it as root"):
        _open(tmp_path / "single")


def test_cache_is_shared_rebuilt_after_changes_and_not_needed(many):
    cached, lazy = _open(many), _open(many, cache_bytes=0)
    copy = pickle.loads(pickle.dumps(cached))
    assert len(pickle.dumps(cached)) < 100_000  # The pixels stay in their file.
    for index in (0, len(lazy) - 1):
        for j in range(3):
            for dataset in (cached, copy):
                for key, value in lazy[index]["views"][j].items():
                    np.testing.assert_array_equal(dataset[index]["views"][j][key], value)
    changed = many / cached.names[0] / "transforms_1.png"
    Image.fromarray(_image(200)).save(changed)
    np.testing.assert_array_equal(_open(many)[0]["views"][1]["image"], _image(200))


def test_images_of_several_sizes_need_no_cache(tmp_path):
    _write_object(tmp_path / "train" / "a", size=(16, 12))
    _write_object(tmp_path / "train" / "b", size=(20, 20))
    dataset = _open(tmp_path)
    assert dataset[1]["views"][0]["image"].shape == (20, 20, 3)
    spec = data.ViewSpec("camera", num_sources=2, source_resolution=12, target_resolution=6)
    batch = data.train_batches(dataset, spec, batch_size=4, seed=0)[0]
    assert batch["source"].shape == (4, 2, 12, 12, 3)
    # The middle 12 px of one, all 20 px of the other, at 6 px.
    expected = {round(float(focal * 6 / side), 3) for focal, side in ((8 / np.tan(0.35), 12), (10 / np.tan(0.35), 20))}
    assert {round(float(fx), 3) for fx in batch["target_intrinsics"][:, 0]} == expected


def test_batches_show_pixels_where_their_cameras_say(tmp_path):
    # A red dot at one point of the world, drawn into every view: after crop and resize it must still be there.
    point, size = np.array([0.3, -0.2, 0.4]), (40, 32)
    document = _write_object(tmp_path / "train" / "a", 6, size=size)
    intrinsics = Lens(camera_angle_x=0.7).intrinsics(size[1], size[0])
    for j, frame in enumerate(document["frames"]):
        x, y = cameras.project(point, cameras.orbit(j / 3, 0.4, 3.0), intrinsics)
        rows, columns = np.mgrid[: size[1], : size[0]] + 0.5
        dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
        image = np.repeat(np.rint(255 * (1 - dot))[..., None], 3, -1).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "train" / "a" / frame["file_path"])
    spec = data.ViewSpec("camera", num_sources=3, source_resolution=32, target_resolution=16)
    batch = data.train_batches(_open(tmp_path), spec, batch_size=2, seed=0)[0]
    for image, pose, lens in [
        *zip(batch["source"][0], batch["source_pose"][0], batch["source_intrinsics"][0], strict=True),
        *zip(batch["target"], batch["target_pose"], batch["target_intrinsics"], strict=True),
    ]:
        weights = 255.0 - image[..., 0]
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        seen = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        np.testing.assert_allclose(seen, cameras.project(point, pose, lens), atol=0.1)


def _changed(document, **fields):
    return document | fields


def _with_frame(document, **fields):
    return document | {"frames": [document["frames"][0] | fields, *document["frames"][1:]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _changed(d, k1=0.02), r"distorted \(k1=0.02\); undistort"),
        (lambda d: _with_frame(d, p2=-1e-3), "p2=-0.001"),
        (lambda d: _changed(d, camera_model="OPENCV_FISHEYE"), "OPENCV_FISHEYE"),
        (lambda d: _changed(d, camera_angle_x=None), "no focal length; add 'camera_angle_x'"),
        (lambda d: _changed(d, camera_angle_x=40), "less than pi"),
        (lambda d: _changed(d, fl_x=-3), "fl_x=-3.0 must be"),
        (lambda d: _changed(d, fl_x="wide"), "could not convert"),
        (lambda d: _changed(d, frames=[]), "no list of 'frames'"),
        (lambda d: _with_frame(d, transform_matrix=np.eye(4)[:3].tolist()), "frame 0 has no .* 4 x 4"),
        (lambda d: _with_frame(d, transform_matrix=None), "frame 0 has no"),
        (lambda d: _with_frame(d, transform_matrix=np.diag([2.0, 2, 2, 1]).tolist()), "pose 0 scales.*export"),
        (lambda d: _with_frame(d, transform_matrix=np.diag([1.0, 1, -1, 1]).tolist()), "pose 0 mirrors"),
        (lambda d: _with_frame(d, file_path="./gone.png"), r"1 of its 4 images are missing, first './gone.png'"),
        (lambda d: _changed(d, scene_scale=0), "scene_scale=0.0"),
    ],
)
def test_bad_transforms_are_explained(tmp_path, change, message):
    file = tmp_path / "train" / "a" / "transforms.json"
    document = _write_object(file.parent)
    _rewrite(file, change(document))
    with pytest.raises(ValueError, match=message) as error:
        _open(tmp_path)
    assert str(file) in str(error.value)
    _rewrite(file, _changed(document, k1=0.0, camera_model="OPENCV"))
    assert len(_open(tmp_path)) == 1


def test_errors_of_root_split_and_images(tmp_path):
    for root in (None, tmp_path / "absent"):
        with pytest.raises(ValueError, match="is not a folder"):
            _open(root)
    with pytest.raises(ValueError, match="no transforms.json below"):
        _open(tmp_path)
    folder = tmp_path / "train" / "a"
    _write_object(folder)
    with pytest.raises(ValueError, match=r"'test' .* is empty"):
        _open(tmp_path, "test")
    with pytest.raises(ValueError, match="'all' .* is unknown"):
        _open(tmp_path, "all")
    Image.fromarray(_image(0, (12, 16))).save(folder / "transforms_1.png")
    _rewrite(folder / "transforms.json", json.loads((folder / "transforms.json").read_text()) | {"w": 16, "h": 12})
    with pytest.raises(ValueError, match="transforms_1.png': the image is 12 x 16, its camera says w=16, h=12"):
        _open(tmp_path)[0]["views"][1]
    (folder / "transforms_1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="1 of 4 image files cannot be read .*transforms_1.png"):
        _open(tmp_path)
    (folder / "transforms.json").write_text("{")
    with pytest.raises(ValueError, match="transforms.json is not JSON"):
        _open(tmp_path)


def _levels(dataset):
    return [[int(view["image"][0, 0, 0]) for view in dataset[i]["views"]] for i in range(len(dataset))]


def test_a_broken_view_is_left_out_named_and_remembered(tmp_path):
    for number, name in enumerate("abc"):
        _write_object(tmp_path / "objects" / "train" / name, 3, 3 * number)
    root, listed = tmp_path / "objects", tmp_path / "bad_files.txt"
    for broken in ("a/transforms_0.png", "b/transforms_2.png"):
        (root / "train" / broken).write_bytes(b"no image")
    dataset = _open(root, bad_files=listed, max_bad_share=0.3)
    assert _levels(dataset) == [[1, 2], [3, 4], [6, 7, 8]]
    names = [line.split("\t")[0] for line in listed.read_text().splitlines()]
    assert names == [str(root / "train" / "a/transforms_0.png"), str(root / "train" / "b/transforms_2.png")]
    assert _levels(pickle.loads(pickle.dumps(dataset))) == _levels(dataset)
    # Where nothing is decoded in advance the list leaves nothing out: a run that goes on sees what it saw before.
    uncached = _open(root, bad_files=listed, max_bad_share=0.3, cache_bytes=0)
    assert [len(example["views"]) for example in uncached] == [3, 3, 3]
    Image.fromarray(_image(0)).save(root / "train" / "a/transforms_0.png")
    assert _levels(_open(root, bad_files=listed, max_bad_share=0.3))[0] == [0, 1, 2]
    with pytest.raises(ValueError, match="max_bad_share=0.1"):
        _open(root, max_bad_share=0.1)


def test_an_object_without_readable_views_is_left_out(tmp_path):
    _write_object(tmp_path / "train" / "a", 2, category="lost")
    _write_object(tmp_path / "train" / "b", 2, 5, category="kept")
    for image in (tmp_path / "train" / "a").glob("*.png"):
        image.write_bytes(b"")
    dataset = _open(tmp_path, max_bad_share=0.5)
    assert dataset.names == ["train/b"] and _levels(dataset) == [[5, 6]]
    assert dataset.labels["label"].classes == ("kept", "lost") and dataset[0]["label"] == 0


def test_unknown_broken_views_are_replaced_by_another_object(tmp_path):
    """As in a split too large to be decoded in advance."""
    from soda_jax.data.pipeline import eval_batches, train_batches

    for number in range(8):
        _write_object(tmp_path / "train" / f"o{number}", 2, 2 * number)
    (tmp_path / "train" / "o3" / "transforms_0.png").write_bytes(b"no image")
    dataset = _open(tmp_path, cache_bytes=0, max_bad_share=0.2)
    spec = data.ViewSpec(policy="camera", source_resolution=12, target_resolution=12)
    batch = train_batches(dataset, spec, batch_size=8, seed=0)[0]
    assert batch["target"].shape == (8, 12, 12, 3)
    masks = [batch["mask"] for batch in eval_batches(dataset, spec, batch_size=4)]
    assert np.concatenate(masks).tolist() == [number != 3 for number in range(8)]
    assert dataset.bad_files.names() == [str(tmp_path / "train" / "o3" / "transforms_0.png")]
