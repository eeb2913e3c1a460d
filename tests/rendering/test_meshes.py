import numpy as np
import pytest
from PIL import Image

from soda_jax.rendering.errors import MeshError
from soda_jax.rendering.meshes import crease_normals, load_model

# The corners of a box's six sides, counter-clockwise from outside.
_SIDES = [(0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
_CORNERS = [(0, 0, 0), (2, 0, 0), (2, 4, 0), (0, 4, 0), (0, 0, 1), (2, 0, 1), (2, 4, 1), (0, 4, 1)]
COSINE = np.cos(np.deg2rad(40))


@pytest.fixture(autouse=True)
def trimesh():
    return pytest.importorskip("trimesh", reason="needs the render extra")


def box_triangles():
    corners = np.array(_CORNERS, float)
    return np.stack([corners[[side[0], side[i], side[i + 1]]] for side in _SIDES for i in (1, 2)])


def write_obj(path, materials="", faces=None):
    lines = [f"v {x} {y} {z}" for x, y, z in _CORNERS]
    lines += faces or ["f " + " ".join(str(i + 1) for i in side) for side in _SIDES]
    path.write_text("\n".join(["mtllib m.mtl", *lines]))
    (path.parent / "m.mtl").write_text(materials)
    return path


def test_edges_stay_sharp_and_curves_become_smooth(trimesh):
    triangles = box_triangles()
    normals = crease_normals(triangles, COSINE)
    flat = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(normals, np.repeat(flat[:, None], 3, 1), atol=1e-12)
    # On a sphere of many faces a corner's normal is the direction of the corner.
    ball = np.asarray(trimesh.creation.icosphere(4).triangles)
    assert np.einsum("fij,fij->fi", crease_normals(ball, COSINE), ball).min() > 0.999


def test_model_is_centred_scaled_and_turned_upright(tmp_path):
    half = np.array([1.0, 2.0, 0.5])
    for up, turned in (("auto", [1, 0.5, 2]), ("y", [1, 0.5, 2]), ("z", half)):
        (part,) = load_model(write_obj(tmp_path / "box.obj"), up=up, radius=1.5)
        points = part.positions.reshape(-1, 3)
        expected = np.array(turned) * 1.5 / np.linalg.norm(half)
        np.testing.assert_allclose(points.max(0), expected, rtol=1e-6)
        np.testing.assert_allclose(points.min(0), -expected, rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(points, axis=1).max(), 1.5, rtol=1e-6)
        outwards = np.einsum("fij,fij->fi", part.normals, part.positions)
        assert outwards.min() > 0  # A box around the origin: turned with the positions, normals point out.
    # y up becomes z up: what was at the file's +z now faces the camera at azimuth 0, on the -y side.
    (part,) = load_model(write_obj(tmp_path / "side.obj", faces=["f 5 6 7 8"]))
    np.testing.assert_allclose(part.normals, np.broadcast_to([0, -1, 0], part.normals.shape), atol=1e-6)


def test_mtl_colours_transparency_and_finish(tmp_path):
    materials = "newmtl red\nKd 1 0 0\nd 0.25\nnewmtl shiny\nKd 0.5 0.5 0.5\nKs 1 1 1\nNs 200\nillum 2\n"
    faces = ["usemtl red", "f 1 2 3", "usemtl shiny", "f 5 6 7"]
    parts = load_model(write_obj(tmp_path / "a.obj", materials, faces))
    red = next(part for part in parts if part.transparent)
    shiny = next(part for part in parts if not part.transparent)
    np.testing.assert_allclose(red.colour, [1, 0, 0, 0.25], atol=1e-6)
    # sRGB .5 is .214 in linear light.
    np.testing.assert_allclose(shiny.colour, [0.214, 0.214, 0.214, 1], atol=0.003)
    assert shiny.roughness < 0.5 and red.roughness == 1


def test_texture_replaces_the_diffuse_colour(tmp_path):
    Image.new("RGBA", (3, 5), (10, 20, 30, 255)).save(tmp_path / "wood grain.png")
    text = ["vt 0 0", "vt 1 0", "vt 1 1", "usemtl m", "f 1/1 2/2 3/3"]
    path = write_obj(tmp_path / "a.obj", "newmtl m\nKd 0.1 0.1 0.1\nmap_Kd wood grain.png\n", text)
    (part,) = load_model(path)
    assert part.colour == (1, 1, 1, 1) and part.texture.mode == "RGB" and not part.transparent
    assert part.texture.getpixel((0, 0)) == (10, 20, 30)
    np.testing.assert_allclose(part.uv, [[[0, 0], [1, 0], [1, 1]]])
    Image.new("RGBA", (3, 5), (10, 20, 30, 0)).save(tmp_path / "wood grain.png")
    (part,) = load_model(path)
    assert part.texture.mode == "RGBA" and part.transparent


def test_ply_vertex_colours(tmp_path, trimesh):
    mesh = trimesh.creation.box()
    mesh.visual.vertex_colors = np.tile([255, 0, 128, 255], (8, 1))
    mesh.export(tmp_path / "a.ply")
    (part,) = load_model(tmp_path / "a.ply")
    np.testing.assert_allclose(part.colours, np.broadcast_to([1, 0, 0.2159, 1], (12, 3, 4)), atol=1e-3)
    assert not part.transparent


def test_gltf_factors_are_linear(tmp_path, trimesh):
    material = trimesh.visual.material.PBRMaterial(
        baseColorFactor=[255, 51, 0, 128], roughnessFactor=0.7, metallicFactor=0.0, alphaMode="BLEND"
    )
    mesh = trimesh.creation.box()
    mesh.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), material=material)
    mesh.export(tmp_path / "a.glb")
    (part,) = load_model(tmp_path / "a.glb")
    np.testing.assert_allclose(part.colour, [1, 0.2, 0, 0.5], atol=0.004)
    assert part.roughness == pytest.approx(0.7) and part.transparent


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", "", "has no faces|cannot be read"),
        ("a.obj", "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3", "has no faces"),
        ("a.obj", "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3", "has no faces|cannot be read"),
        ("a.glb", "this is no glTF", "cannot be read"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex", "cannot be read"),
    ],
)
def test_broken_models_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(MeshError, match=message):
        load_model(tmp_path / name)
    with pytest.raises(MeshError, match="cannot be read"):
        load_model(tmp_path / f"absent{name[1:]}")


def test_up_is_checked(tmp_path):
    with pytest.raises(ValueError, match="up='x' is unknown; choose one of auto, y, z"):
        load_model(tmp_path / "a.obj", up="x")
