"""Files that the explorer gives to its user."""

import pathlib

import numpy as np
from PIL import Image

from soda_jax.explorer import actions, downloads
from soda_jax.explorer.actions import Edit, Sampling
from soda_jax.workdir import edits
from tests.explorer.made_images import SIDE, chosen


def test_pictures_and_films(tmp_path):
    files = downloads.Downloads(tmp_path)
    images = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in (0, 100, 200)]
    with Image.open(files.strip("walk", {"a": images[0], "b": images[1]}, "title")) as strip:
        assert strip.format == "PNG" and strip.width > 2 * 96
    for returns, frames in ((True, 4), (False, 3)):
        with Image.open(files.film("walk", images, returns=returns)) as film:
            assert film.n_frames == frames and film.size == (96, 96)
    with Image.open(files.source(chosen(1))) as source:
        np.testing.assert_array_equal(np.asarray(source), chosen(1).views[0])


def test_old_files_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_KEPT", 2)
    files = downloads.Downloads(tmp_path)
    paths = [files.source(chosen(seed)) for seed in range(4)]
    assert [pathlib.Path(path).exists() for path in paths] == [False, False, True, True]


def test_pictures_of_the_page_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_KEPT_PICTURES", 2)
    files = downloads.Downloads(tmp_path)
    images = [chosen(seed).views[0] for seed in range(3)]
    first = pathlib.Path(files.shown(images[0]))
    written = first.stat().st_mtime_ns, first.stat().st_ino
    files.shown(images[1])
    assert files.shown(images[0]) == str(first) and (first.stat().st_mtime_ns, first.stat().st_ino) == written
    with Image.open(first) as picture:
        np.testing.assert_array_equal(np.asarray(picture)[::32, ::32], images[0])
    files.shown(images[2])
    assert first.exists() and len(list(tmp_path.iterdir())) == 2  # the one that was shown longest ago is gone


def test_enlarging_keeps_pixels():
    image = chosen(1).views[0]
    large = downloads.enlarged(image, 256)
    assert large.shape == (256, 256, 3)
    np.testing.assert_array_equal(large[::32, ::32], image)
    assert downloads.enlarged(np.zeros((512, 512, 3), np.uint8), 256).shape == (512, 512, 3)


def test_an_edit_comes_back_from_its_file(model, tmp_path):
    asked = Edit("line", 1.5, sections="0-1", hold=("other",))
    stored = actions.stored(model, asked, Sampling(steps=2, guidance=2.0, seed=3))
    path = downloads.Downloads(tmp_path).edit(stored)
    again = edits.load(path, model.weights_digest)
    assert again == stored and (again.direction, again.sigma, again.mode) == ("line", (1.5,), "set")
    assert (again.sections, again.hold, again.sampling_steps, again.guidance) == ("0-1", ("other",), 2, 2.0)
