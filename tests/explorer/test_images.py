"""Where the explorer's images come from, and what bad uploads are answered."""

import io
import struct
import types
import zlib

import numpy as np
import pytest
from PIL import Image

import soda_jax
from soda_jax.explorer import images
from tests import tiny, tiny_checkpoint, tiny_exports
from tests.explorer.made_images import SIDE, random_images


def without_data(**attributes):
    """A model that has a config, and what else is given."""
    return types.SimpleNamespace(config=tiny.get_config(), **attributes)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_an_upload_is_cropped_to_its_centre_and_resized(tmp_path):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = (200, 100, 50)
    found = images.of_upload(save(tmp_path / "wide.png", wide), without_data())
    assert found.views.shape == (1, SIDE, SIDE, 3) and found.name == "wide.png" and found.cameras is None
    assert (found.views == (200, 100, 50)).all()


def test_a_photograph_stands_upright(tmp_path):
    picture, exif = np.zeros((40, 40, 3), np.uint8), Image.Exif()
    picture[:20] = 255
    exif[0x0112] = 3  # upside down
    found = images.of_upload(save(tmp_path / "turned.jpg", picture, exif=exif, quality=95), without_data())
    assert found.views[0, :3].max() < 60 and found.views[0, -3:].min() > 200


def png_of(width, height):
    """A PNG that says these sides and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bad_uploads_say_what_is_wrong(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(whole, "PNG")
    cases = {
        "empty.png": (b"", "'empty.png' cannot be decoded .it is empty"),
        "text.png": (b"no image at all", "'text.png' cannot be decoded .not one of JPEG, PNG"),
        "cut.png": (whole.getvalue()[:60], "'cut.png' cannot be decoded"),
        "wide.png": (png_of(30_000, 2_000), "wide.png has 30000 x 2000 pixels: make it smaller"),
        "bomb.png": (png_of(100_000, 100_000), "'bomb.png' cannot be decoded"),
        "large.png": (bytes(images.MOST_BYTES + 1), "large.png has 26 MB: give an image below 26 MB"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            images.of_upload(tmp_path / name, without_data())
        assert str(tmp_path) not in str(caught.value)  # which is the server's own affair


def test_held_out_images_of_the_runs_dataset(tmp_path):
    root, folder = tmp_path / "scenes", tmp_path / "run"
    tiny_checkpoint.write(folder, tiny.scenes_config(str(root)), 1)
    found, said = images.find(soda_jax.load(folder), limit=6)
    assert found.views.shape == (6, 1, 32, 32, 3) and "6 held-out images of scenes (test)" in said
    assert len(np.unique(found.views, axis=0)) == 6
    rows = found.rows(4, seed=1)
    assert len(set(rows)) == 4 and list(rows) == sorted(rows) and len(found.rows(99, seed=1)) == 6
    assert any(not np.array_equal(rows, found.rows(4, seed=seed)) for seed in range(2, 6))
    np.testing.assert_array_equal(found[3].views, found.views[3])


def test_images_of_a_folder_come_first(tmp_path):
    for name in ("b.png", "a.png"):
        save(tmp_path / name, np.full((20, 20, 3), ord(name[0]), np.uint8))
    carried = types.SimpleNamespace(images=random_images(3, 0)[:, 0])
    found, said = images.find(without_data(examples=carried), str(tmp_path))
    assert found.views[:, 0, 0, 0, 0].tolist() == [97, 98] and "2 images of" in said
    with pytest.raises(ValueError, match="--images=.*nowhere: there is no such file or folder"):
        images.find(without_data(examples=carried), str(tmp_path / "nowhere"))


def test_images_that_a_model_carries():
    double = random_images(3, 0, views=2).repeat(2, axis=2).repeat(2, axis=3)
    poses = np.tile(np.eye(4), (3, 2, 1, 1))
    poses[:, :, 0, 3] = np.arange(6).reshape(3, 2)
    cameras = soda_jax.Cameras(poses, np.array([9.0, 9.0, 8.0, 8.0]))
    carried = types.SimpleNamespace(
        images=double, cameras=cameras, credits=("a", "b", "c"), licenses=("", "cc0-1.0", "")
    )
    found, said = images.find(without_data(examples=carried))
    assert found.views.shape == (3, 2, SIDE, SIDE, 3) and "3 held-out images that the model carries" in said
    chosen = found[1]
    assert chosen.name == "b (cc0-1.0)" and found[0].name == "a"
    assert chosen.cameras.pose[:, 0, 3].tolist() == [2, 3] and chosen.cameras.image_size == (2 * SIDE, 2 * SIDE)
    single = types.SimpleNamespace(images=double[:, 0], cameras=None, credits=("a",) * 3, licenses=("",) * 3)
    plain = images.of_examples(without_data(examples=single))
    assert plain.views.shape == (3, 1, SIDE, SIDE, 3) and plain[0].cameras is None
    with pytest.raises(IndexError):
        found[3]


def test_images_beside_an_export(tmp_path):
    tiny_exports.write(tmp_path / "export", with_examples=True)
    model = soda_jax.load(tmp_path / "export")
    found, said = images.find(model)
    np.testing.assert_array_equal(found.views[:, 0], model.examples.images)
    assert found[2].name == "somebody's, example 2 (cc0-1.0)" and "4 held-out images that the model carries" in said


def test_no_images_at_all(tmp_path):
    tiny_exports.write(tmp_path / "export", tiny.get_config(data__name="folder"))  # its data stayed where it was
    found, said = images.find(soda_jax.load(tmp_path / "export"))
    assert len(found) == 0 and found.views.shape[1:] == (1, SIDE, SIDE, 3)
    assert "no held-out images: the run's dataset cannot be read here" in said and "give --images" in said
