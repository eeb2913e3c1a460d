"""The page as a browser's requests see it, through gradio's own client."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from soda_jax.explorer.downloads import Downloads
from soda_jax.explorer.explorer import Explorer
from soda_jax.explorer.images import HeldOut
from soda_jax.workdir import edits
from tests import tiny, tiny_checkpoint
from tests.explorer.made_images import SIDE, random_images

gradio = pytest.importorskip("gradio", reason="needs the demo extra (pip install -e '.[demo]')")
SAMPLING = {"guidance": 2.0, "steps": 10, "seed": 3}  # one of the page's choices


@pytest.fixture(scope="module")
def served(model, held_out, tmp_path_factory):
    """(explorer, address) of a page that answers."""
    from soda_jax.explorer import page as pages

    explorer = Explorer(model, held_out, Downloads(tmp_path_factory.mktemp("downloads")), "tiny")
    page = pages.build(explorer)
    _, address, _ = pages.launch(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield explorer, address
    page.close()


@pytest.fixture
def client(served, tmp_path):
    import gradio_client

    return gradio_client.Client(served[1], download_files=str(tmp_path / "got"), verbose=False)


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def value(update):
    """What a component is given: by itself, or as an update."""
    return update["value"] if isinstance(update, dict) and "value" in update else update


def test_the_tabs_draw_and_give_files(client):
    gallery, png = client.predict(**SAMPLING, count=3, api_name="/reconstruct")
    images = [opened(item["image"]) for item in value(gallery)]
    assert len(images) == 3 and len({image.tobytes() for image in images}) == 3
    assert images[0].shape == (256, 256, 3) and opened(value(png)).shape[1] > 4 * 96

    frames, film, png, gif = client.predict(**SAMPLING, count=5, api_name="/walk")
    assert len(value(frames)) == 5 and pathlib.Path(value(png)).suffix == ".png"
    with Image.open(value(gif)) as moving:
        assert moving.n_frames == 8  # there and back

    mixed, _ = client.predict(**SAMPLING, at=1, api_name="/mix")
    anew, _ = client.predict(**SAMPLING, rows=[0, 2], number=2, api_name="/resample")
    assert len(value(mixed)) == len(value(anew)) == 2


def test_what_is_drawn_is_the_chosen_image(client, model, held_out, tmp_path):
    gallery, _ = client.predict(**SAMPLING, count=1, api_name="/reconstruct")
    expected = model.reconstruct(held_out.views[0], 2.0, 10, seed=3)[0]
    np.testing.assert_array_equal(opened(value(gallery)[0]["image"])[::32, ::32], expected)

    import gradio_client

    mine = random_images(1, seed=99)[0, 0]
    Image.fromarray(mine).save(tmp_path / "mine.png")
    shown, credit = client.predict(gradio_client.handle_file(str(tmp_path / "mine.png")), api_name="/upload_A")
    assert credit == "<p>mine.png</p>"
    np.testing.assert_array_equal(opened(value(shown))[::32, ::32], mine)
    gallery, _ = client.predict(**SAMPLING, count=1, api_name="/reconstruct")
    expected = model.reconstruct(mine[None], 2.0, 10, seed=3)[0]
    np.testing.assert_array_equal(opened(value(gallery)[0]["image"])[::32, ::32], expected)


def test_an_edit_and_its_file(client, model, held_out):
    slider, ruler, real = client.predict("line", False, api_name="/edit_range")
    own = float(model.directions["line"].position(model.encode(held_out.views[0]))[0])
    assert slider["value"] == pytest.approx(own, abs=0.006) and slider["minimum"] <= slider["value"]
    assert slider["maximum"] == pytest.approx(model.directions["line"].high, abs=0.02)
    assert "Own place" in ruler and len(value(real)) == 6
    asked = {"name": "line", "beyond": False, "position": 1.0, "low": 0, "high": 1, "hold": ["other"]}
    _, before, after, said, _, json_file, source = client.predict(**SAMPLING, **asked, api_name="/edit")
    assert (opened(value(before)) != opened(value(after))).any() and "Asked for" in said
    stored = edits.load(value(json_file), model.weights_digest)
    assert (stored.direction, stored.sigma, stored.sections, stored.hold) == ("line", (1.0,), "0-1", ("other",))
    assert (stored.seed, stored.sampling_steps, stored.guidance) == (3, 10, 2.0)
    np.testing.assert_array_equal(opened(value(source)), held_out.views[0, 0])
    film, gif = client.predict(**SAMPLING, **asked, api_name="/edit_film")
    with Image.open(value(gif)) as moving:
        assert moving.n_frames > 2


def test_bad_input_is_answered_in_a_line(client, tmp_path):
    import gradio_client

    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(gradio_client.exceptions.AppError, match="'text.png' cannot be decoded"):
        client.predict(gradio_client.handle_file(str(tmp_path / "text.png")), api_name="/upload_A")
    with pytest.raises(gradio_client.exceptions.AppError, match="nothing left when line"):
        asked = {"name": "line", "beyond": False, "position": 0.0, "low": 0, "high": 2, "hold": ["line"]}
        client.predict(**SAMPLING, **asked, api_name="/edit")


def endpoints(explorer):
    """Names of what the page of an explorer answers."""
    from soda_jax.explorer import page as pages

    functions = pages.build(explorer).config["dependencies"]
    return {entry["api_name"] for entry in functions if entry["api_visibility"] == "public"}


def test_tabs_that_a_model_cannot_give_are_absent(tmp_path, served):
    import soda_jax

    tiny_checkpoint.write(tmp_path, tiny.get_config(model__modulation__kind="full"), 1)
    model = soda_jax.load(tmp_path)
    nothing = HeldOut(np.zeros((0, 1, SIDE, SIDE, 3), np.uint8))
    found = endpoints(Explorer(model, nothing, Downloads(tmp_path), "whole"))
    assert {"reconstruct", "walk"} <= found and not {"mix", "resample", "novel_view", "edit"} & found
    every = endpoints(served[0])
    assert {"reconstruct", "walk", "edit", "mix", "resample", "upload_A", "upload_B"} <= every
    assert "novel_view" not in every


def test_a_page_without_images_waits_for_an_upload(model, tmp_path):
    import gradio_client

    from soda_jax.explorer import page as pages

    nothing = HeldOut(np.zeros((0, 1, SIDE, SIDE, 3), np.uint8))
    page = pages.build(Explorer(model, nothing, Downloads(tmp_path), "empty"))
    _, address, _ = pages.launch(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = gradio_client.Client(address, download_files=str(tmp_path / "got"), verbose=False)
        with pytest.raises(gradio_client.exceptions.AppError, match="image A is missing: upload one"):
            client.predict(**SAMPLING, count=1, api_name="/reconstruct")
    finally:
        page.close()


def test_novel_views(tmp_path):
    """Of a model that takes cameras."""
    import gradio_client

    import soda_jax
    from soda_jax.data import cameras
    from soda_jax.explorer import page as pages

    tiny_checkpoint.write(tmp_path / "run", tiny.posed_config(), 1)
    poses = cameras.orbit(np.arange(4.0).reshape(2, 2), 0.4, 3.0)
    objects = HeldOut(random_images(2, 3, views=2), soda_jax.Cameras(poses, np.array([9.0, 9.5, 4.1, 3.8])))
    page = pages.build(Explorer(soda_jax.load(tmp_path / "run"), objects, Downloads(tmp_path), "objects"))
    _, address, _ = pages.launch(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = gradio_client.Client(address, download_files=str(tmp_path / "got"), verbose=False)
        views = [
            opened(value(client.predict(**SAMPLING, around=around, at=20, number=number, api_name="/novel_view")[0]))
            for around, number in ((0, 2), (90, 2), (0, 1))
        ]
        assert len({view.tobytes() for view in views}) == 3
    finally:
        page.close()


def test_the_json_is_plain(client, served):
    asked = {"name": "line", "beyond": False, "position": 0.5, "low": 0, "high": 2, "hold": []}
    json_file = value(client.predict(**SAMPLING, **asked, api_name="/edit")[5])
    assert json.loads(pathlib.Path(json_file).read_text())["sections"] is None
