import numpy as np
import pytest
from PIL import Image

from soda_jax.data import cameras
from soda_jax.rendering.meshes import Part

FRONT = cameras.orbit(0.0, 0.0, 3.0)
INTRINSICS = cameras.centred_intrinsics(64, np.deg2rad(40))
RED, GREEN, BLUE = (1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0)


def quad(colour, depth=0.0, half=0.5, **look):
    """A square that faces the camera `FRONT`, which looks along +y; `depth` is how far behind the origin."""
    x, y, z = half * np.array([-1, 1, 1, -1]), np.full(4, depth), half * np.array([-1, -1, 1, 1])
    corners = np.stack([x, y, z], -1)
    positions = corners[[[0, 1, 2], [0, 2, 3]]].astype(np.float32)
    return Part(positions, np.broadcast_to(np.float32([0, -1, 0]), positions.shape).copy(), colour, **look)


def diamond(centre, radius, colour):
    """A small octahedron: its silhouette is centred where its centre projects."""
    axes = radius * np.concatenate([np.eye(3), -np.eye(3)])
    faces = [(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)]
    positions = np.stack([axes[list(face)] for face in faces])
    normals = np.repeat(positions.mean(1, keepdims=True), 3, 1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return Part((positions + centre).astype(np.float32), normals.astype(np.float32), colour)


@pytest.fixture(scope="module")
def renderer(make_renderer):
    """One for all tests: a context takes a while to set up."""
    renderer = make_renderer(64)
    yield renderer
    renderer.close()


@pytest.mark.parametrize("supersample", [1, 3])
def test_points_appear_where_the_camera_projects_them(make_renderer, supersample):
    renderer = make_renderer(200, supersample=supersample)
    points = np.array([[0.5, 0.2, 0.1], [-0.3, 0.6, 0.4], [0.1, -0.7, -0.2]])
    intrinsics = np.array([260.0, 230.0, 90.0, 110.0])  # Neither square pixels nor a centred axis.
    poses = cameras.hemisphere(np.random.default_rng(0).random((4, 3)), (0.1, 1.2), (3, 4))
    rows, columns = np.mgrid[:200, :200] + 0.5
    for point in points:
        renderer.load([diamond(point, 0.06, RED)])
        for pose in poses:
            # Red has no blue, the background has all of it: what is missing is what the diamond covers.
            coverage = 255.0 - renderer.render(pose, intrinsics)[..., 2]
            seen = np.array([(columns * coverage).sum(), (rows * coverage).sum()]) / coverage.sum()
            np.testing.assert_allclose(seen, cameras.project(point, pose, intrinsics), atol=0.2)
    renderer.close()


def test_blender_shows_the_same(renderer):
    pytest.importorskip("bpy")
    from soda_jax.rendering.blender import BlenderRenderer

    blender = BlenderRenderer(64, supersample=1)
    texture = Image.fromarray(
        np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]).repeat(4, 0).repeat(4, 1)
    )
    uv = np.float32([[0, 0], [1, 0], [1, 1], [0, 1]])[[[0, 1, 2], [0, 2, 3]]]
    colours = np.broadcast_to(np.float32([0.2, 1, 0.2, 1]), (2, 3, 4)).copy()
    white = (1.0, 1.0, 1.0, 1.0)
    intrinsics = INTRINSICS + [0, 0, 5, -3]  # An axis off the centre.
    pose = cameras.orbit(0.3, 0.4, 3.0)
    for part in (quad(white, uv=uv, texture=texture), quad(white, colours=colours), quad((0.0, 0.0, 1.0, 0.5))):
        images = []
        for each in (renderer, blender):
            each.load([part])
            images.append(each.render(pose, intrinsics).astype(float))
        # But for highlights and noise, the same image to within a fraction of a pixel at the edges.
        assert images[0].min() < 200 and np.abs(images[0] - images[1]).mean() < 3
    with pytest.raises(ValueError, match="square pixels"):
        blender.render(pose, intrinsics * [1, 2, 1, 1])
    blender.close()


def test_background_is_white_and_images_repeat(renderer):
    renderer.load([quad(RED)])
    image = renderer.render(FRONT, INTRINSICS)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert np.all(image[:4] == 255) and np.all(image[30:34, 30:34, 1:] < 60) and np.all(image[30:34, 30:34, 0] > 120)
    np.testing.assert_array_equal(renderer.render(FRONT, INTRINSICS), image)
    renderer.load([quad(GREEN)])  # The next model takes the place of the last.
    assert np.all(renderer.render(FRONT, INTRINSICS)[30:34, 30:34, 0] < 60)


def test_both_sides_of_a_face_are_lit(renderer):
    renderer.load([quad((1.0, 1.0, 1.0, 1.0))])
    for azimuth in (0, np.pi):
        assert 110 < renderer.render(cameras.orbit(azimuth, 0.0, 3.0), INTRINSICS)[32, 32].mean() < 250


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_texture_lies_the_right_way_round(renderer, size):
    # Quadrants, as seen in the image file: red and green above, blue and black below.
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    middle_row, middle_column = size[1] // 2, size[0] // 2
    pixels[:middle_row, :middle_column, 0] = 255
    pixels[:middle_row, middle_column:, 1] = 255
    pixels[middle_row:, :middle_column, 2] = 255
    uv = np.float32([[0, 0], [1, 0], [1, 1], [0, 1]])[[[0, 1, 2], [0, 2, 3]]]
    renderer.load([quad((1.0, 1.0, 1.0, 1.0), uv=uv, texture=Image.fromarray(pixels))])
    image = renderer.render(FRONT, INTRINSICS)
    for (row, column), channel in (((25, 25), 0), ((25, 39), 1), ((39, 25), 2)):
        assert image[row, column].argmax() == channel and np.delete(image[row, column], channel).max() < 60
    assert image[39, 39].max() < 60
    # From behind it is mirrored.
    behind = renderer.render(cameras.orbit(np.pi, 0.0, 3.0), INTRINSICS)
    assert behind[25, 39].argmax() == 0 and behind[25, 25].argmax() == 1


def test_vertex_colours(renderer):
    colours = np.broadcast_to(np.float32(GREEN), (2, 3, 4)).copy()
    renderer.load([quad((1.0, 1.0, 1.0, 1.0), colours=colours)])
    assert renderer.render(FRONT, INTRINSICS)[32, 32].argmax() == 1


def test_what_lies_behind_glass_shows_through_in_any_order(renderer):
    glass = quad((0.0, 0.0, 1.0, 0.5), depth=-0.3)
    renderer.load([quad(RED, depth=0.3)])
    red = renderer.render(FRONT, INTRINSICS)[32, 32].astype(float)
    renderer.load([glass])
    over_white = renderer.render(FRONT, INTRINSICS)[32, 32].astype(float)
    blue = 2 * over_white - 255  # Half of it, half of the white behind.
    milk = quad((0.0, 1.0, 0.0, 0.5), depth=0.0)
    renderer.load([milk])
    green = 2 * renderer.render(FRONT, INTRINSICS)[32, 32].astype(float) - 255
    for parts in ([glass, milk, quad(RED, depth=0.3)], [quad(RED, depth=0.3), milk, glass]):
        renderer.load(parts)
        front = renderer.render(FRONT, INTRINSICS)[32, 32]
        np.testing.assert_allclose(front, (blue + (green + red) / 2) / 2, atol=3)
        # From the other side the red hides all.
        back = renderer.render(cameras.orbit(np.pi, 0.0, 3.0), INTRINSICS)[32, 32]
        assert back[0] > 100 and back[1:].max() < 60


def test_the_far_wall_of_a_bottle_lies_behind_its_content(renderer):
    def tube(half, colour):
        corners = half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        triangles, normals = [], []
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            a, b, c, d = (x0, y0, -half), (x1, y1, -half), (x1, y1, half), (x0, y0, half)
            triangles += [(a, b, c), (a, c, d)]
            normals += [np.array([y1 - y0, x0 - x1, 0]) / (2 * half)] * 2
        return Part(np.float32(triangles), np.repeat(np.float32(normals)[:, None], 3, 1), colour)

    renderer.load([tube(0.5, (0.0, 0.0, 1.0, 0.3)), tube(0.3, (1.0, 0.0, 0.0, 0.97))])
    image = renderer.render(FRONT, INTRINSICS)[32, 32].astype(int)
    # One wall of glass before an almost solid red, whose far side must not have hidden it.
    assert image[0] > image[2] > image[1] - 20 and image[0] > 90
