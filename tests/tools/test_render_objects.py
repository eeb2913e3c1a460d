import json
import shutil

import cv2
import numpy as np
import pytest

from soda_jax import data
from soda_jax.data import cameras

pytest.importorskip("trimesh", reason="needs the render extra")
from soda_jax.rendering.errors import RendererError  # noqa: E402
from soda_jax.rendering.renderer import Renderer  # noqa: E402
from soda_jax.rendering.views import Protocol  # noqa: E402
from soda_jax.tools.render_objects import render_folder  # noqa: E402

PROTOCOL = Protocol(num_views=4, resolution=48, altitudes=(10, 60), supersample=2)


@pytest.fixture(scope="module")
def drawing():
    try:
        Renderer(8).close()
    except RendererError as error:
        pytest.skip(f"no OpenGL: {error}")


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """Three boxes with a red top (y up), and a broken file."""
    root = tmp_path_factory.mktemp("meshes")
    manifest = []
    for number in range(3):
        folder = root / f"box{number}"
        folder.mkdir()
        height = 1 + number
        corners = [(x, y * height, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
        sides = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "1 3 7 5", "2 6 8 4"]
        lines = ["mtllib box.mtl", *(f"v {x} {y} {z}" for x, y, z in corners)]
        lines += ["usemtl side", *(f"f {side}" for side in sides), "usemtl top", "f 3 4 8 7"]
        (folder / "box.obj").write_text("\n".join(lines))
        (folder / "box.mtl").write_text("newmtl side\nKd 0 0 1\nnewmtl top\nKd 1 0 0\n")
        manifest.append({"path": f"box{number}/box.obj", "name": f"Box {number}", "category": f"height {number}"})
    (root / "broken.obj").write_text("nothing")
    manifest[0] |= {"creator": "Ann", "library": "boxes"}
    (root / "box0" / "LICENCE.txt").write_text("CC0")
    (root / "manifest.json").write_text(json.dumps([*manifest, {"path": "broken.obj"}]))
    return root


@pytest.fixture(scope="module")
def rendered(drawing, meshes, tmp_path_factory):
    out = tmp_path_factory.mktemp("renders")
    (out / ".partial-box9").mkdir()
    return out, render_folder(meshes, out, PROTOCOL, workers=2)


def _names(out):
    return sorted(path.parent.name for path in out.glob("*/transforms.json"))


def test_good_models_are_rendered_and_broken_ones_named(rendered):
    out, report = rendered
    assert _names(out) == ["box0-box", "box1-box", "box2-box"] and not list(out.glob(".partial-*"))
    assert report.rendered == 3 and report.present == 0 and list(report.skipped) == ["broken"]
    assert (out / "skipped.txt").read_text().startswith("broken.obj: ")
    for name in _names(out):
        assert sorted(p.name for p in (out / name).glob("*.png")) == [f"00{j}.png" for j in range(4)]


def test_images_show_the_box_where_the_cameras_say(rendered):
    out, _ = rendered
    document = json.loads((out / "box1-box" / "transforms.json").read_text())
    intrinsics = [document[key] for key in ("fl_x", "fl_y", "cx", "cy")]
    np.testing.assert_allclose(intrinsics, cameras.centred_intrinsics(48, document["camera_angle_x"]), rtol=1e-6)
    # The box of 2 x 2 x 4 in the file fits the unit sphere, z up: half sides (1, 1, 2) / sqrt(6).
    half = np.array([1, 1, 2]) / np.sqrt(6)
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    for frame in document["frames"]:
        image = cv2.imread(str(out / "box1-box" / frame["file_path"])).astype(int)[..., ::-1]
        pose = np.array(frame["transform_matrix"])
        rows, columns = np.nonzero(image.min(-1) < 128)
        seen = cameras.project(corners, pose, intrinsics)
        # The outline reaches to the outermost corners, to within a pixel.
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, [*seen.min(0), *seen.max(0)], atol=1.0)
        column, row = cameras.project([0, 0, half[2]], pose, intrinsics).astype(int)
        if pose[2, 3] > half[2] + 0.3:  # Seen from above: the red top.
            assert image[row, column].argmax() == 0 and image[row, column].max() > 150


def test_cameras_follow_the_protocol(rendered):
    out, _ = rendered
    poses = [
        np.array(f["transform_matrix"]) for f in json.loads((out / "box0-box/transforms.json").read_text())["frames"]
    ]
    radii = [np.linalg.norm(pose[:3, 3]) for pose in poses]
    altitudes = np.rad2deg([np.arcsin(pose[2, 3] / r) for pose, r in zip(poses, radii, strict=True)])
    assert 3 <= min(radii) and max(radii) <= 4 and 10 <= altitudes.min() and altitudes.max() <= 60
    # Other objects have other cameras; fewer views are the first of more; the seed decides.
    other = PROTOCOL.poses("box1-box")
    assert not np.allclose(other, poses)
    np.testing.assert_array_equal(Protocol(num_views=9, altitudes=(10, 60)).poses("box0-box")[:4], poses)
    assert not np.allclose(Protocol(num_views=4, altitudes=(10, 60), seed=1).poses("box0-box"), poses)


def test_the_multiview_source_reads_it(rendered):
    out, _ = rendered
    splits = json.loads((out / "splits.json").read_text())
    assert sorted(sum(splits.values(), [])) == _names(out)
    seen = {}
    for split, names in splits.items():
        if names:
            dataset = data.load_dataset("multiview", out, split, cache_bytes=0)
            assert dataset.names == names and dataset.labels["label"].classes == ("height 0", "height 1", "height 2")
            seen |= {name: dataset[index] for index, name in enumerate(names)}
    for number in range(3):
        example = seen[f"box{number}-box"]
        assert example["label"] == number and len(example["views"]) == 4
        view = example["views"][2]
        stored = cv2.cvtColor(cv2.imread(str(out / f"box{number}-box" / "002.png")), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(view["image"], stored)
        np.testing.assert_allclose(view["pose"], PROTOCOL.poses(f"box{number}-box")[2], atol=1e-6)


def test_credits_and_contact_sheet(rendered):
    out, _ = rendered
    credit = json.loads((out / "credits.json").read_text())[0]
    assert (credit["title"], credit["creator"], credit["library"]) == ("Box 0", "Ann", "boxes")
    assert (out / credit["licence"]).read_text() == "CC0"
    assert "| box0-box | Box 0 | Ann | boxes | licences/box0_LICENCE.txt |" in (out / "CREDITS.md").read_text()
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape == (48, 3 * 4 * 48, 3)
    np.testing.assert_array_equal(sheet[:, 4 * 48 : 5 * 48], cv2.imread(str(out / "box1-box" / "000.png")))


def test_an_interrupted_run_goes_on_and_settings_stay(rendered, meshes, tmp_path):
    first, _ = rendered
    out = tmp_path / "renders"
    shutil.copytree(first, out)
    shutil.rmtree(out / "box1-box")
    kept = (out / "box0-box" / "000.png").stat().st_mtime_ns
    report = render_folder(meshes, out, PROTOCOL, workers=1)
    assert (report.rendered, report.present) == (1, 2) and _names(out) == _names(first)
    assert (out / "box0-box" / "000.png").stat().st_mtime_ns == kept
    for j in range(4):
        again, before = (cv2.imread(str(root / "box1-box" / f"00{j}.png")) for root in (out, first))
        np.testing.assert_array_equal(again, before)
    splits = (out / "splits.json").read_text()
    assert render_folder(meshes, out, PROTOCOL, limit=1).present == 1
    assert (out / "splits.json").read_text() == splits  # Fewer models this time, but all stay described.
    with pytest.raises(ValueError, match="holds renders with num_views=4; use the same settings"):
        render_folder(meshes, out, Protocol(num_views=5, resolution=48, altitudes=(10, 60)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_views": 0}, "num_views=0"),
        ({"radii": (0.5, 2)}, "beyond the object's radius"),
        ({"radii": (4, 3)}, "radii=\\(4, 3\\)"),
        ({"altitudes": (0, 90)}, "altitudes=\\(0, 90\\)"),
        ({"field_of_view": 180}, "field_of_view=180"),
        ({"renderer": "povray"}, "renderer='povray' is unknown; choose one of pyrender, blender"),
    ],
)
def test_bad_protocols(options, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**options)


def test_whole_objects_fit_the_pictures():
    assert not Protocol().cuts_objects and Protocol(radii=(2, 3)).cuts_objects
