"""The page in a real browser, at the width of a desktop and of a phone: pytest -m browser.

Needs `pip install playwright` and Debian's chromium, or another one that SODA_CHROMIUM names.
"""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from soda_jax.explorer.downloads import Downloads
from soda_jax.explorer.explorer import Explorer
from tests.explorer.made_images import random_images

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="needs the demo extra (pip install -e '.[demo]')")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = os.environ.get("SODA_CHROMIUM") or shutil.which("chromium")
WAIT = 60_000  # milliseconds: the first preview of each kind compiles
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def address(model, held_out, tmp_path_factory):
    from soda_jax.explorer import page as pages

    page = pages.build(Explorer(model, held_out, Downloads(tmp_path_factory.mktemp("downloads")), "tiny"))
    _, found, _ = pages.launch(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield found
    page.close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs chromium (apt-get install chromium, or SODA_CHROMIUM=its program)")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(browser, address, request):
    opened = browser.new_page(viewport=dict(zip(("width", "height"), request.param, strict=True)))
    opened.set_default_timeout(WAIT)
    problems, asked = [], []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#image_A img")
    yield opened
    opened.close()
    assert not problems
    own = (address, "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []  # nothing of the page comes from elsewhere


def open_tab(page, name):
    """Opens a tab; where the row of tabs has no room for it, by the menu at its end."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.first.is_visible():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
        return
    tab.first.click()


def source_of(page, name):
    return page.locator(f"#{name} img").first.get_attribute("src")


def test_nothing_is_wider_than_the_window(page):
    for name in ("Reconstruct", "Walk", "Edit", "Mix", "Resample"):
        open_tab(page, name)
        page.wait_for_timeout(300)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= page.viewport_size["width"], name


def test_a_click_on_a_held_out_image_draws_it(page):
    page.wait_for_selector("#reconstructions img")
    before = source_of(page, "image_A"), source_of(page, "reconstructions")
    credits = [page.locator(f"#credit_{slot}").inner_text() for slot in "AB"]
    assert all(credits)
    page.locator("#held_out button.thumbnail-item").nth(5).click()
    page.wait_for_function("src => document.querySelector('#image_A img').src != src", arg=before[0])
    page.wait_for_function(
        "src => document.querySelector('#reconstructions img')?.getAttribute('src') != src", arg=before[1]
    )
    assert page.locator("#credit_A").inner_text() != credits[0]
    assert page.locator("#credit_B").inner_text() == credits[1]


def test_the_keyboard_moves_an_edit(page):
    open_tab(page, "Edit")
    page.wait_for_selector("#edit_after img")
    ruler = page.locator("#edit_ruler svg").get_attribute("aria-label")
    slider = page.get_by_role("slider", name="range slider for Place on the direction").first
    slider.focus()
    for _ in range(20):
        slider.press("ArrowRight")
    page.wait_for_function(
        "label => document.querySelector('#edit_ruler svg').getAttribute('aria-label') != label", arg=ruler
    )
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_downloads_come(page, tmp_path):
    open_tab(page, "Walk")
    page.get_by_role("button", name="Draw the walk").click()
    page.wait_for_selector("#walk_film img")
    page.wait_for_selector("#walk_gif:not([disabled])")
    with page.expect_download() as caught:
        page.locator("#walk_gif").click()
    caught.value.save_as(tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.n_frames > 3


def test_a_bad_upload_is_told(page, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    before = source_of(page, "image_A")
    with page.expect_file_chooser() as chooser:
        page.locator("#upload_A").click()
    chooser.value.set_files(tmp_path / "broken.png")
    page.get_by_text("'broken.png' cannot be decoded").wait_for()
    assert source_of(page, "image_A") == before
    mine = random_images(1, seed=5)[0, 0]
    Image.fromarray(mine).save(tmp_path / "mine.png")
    with page.expect_file_chooser() as chooser:
        page.locator("#upload_A").click()
    chooser.value.set_files(tmp_path / "mine.png")
    page.wait_for_function("src => document.querySelector('#image_A img').getAttribute('src') != src", arg=before)
    shown = np.asarray(
        page.evaluate(
            """async () => {
                const image = document.querySelector('#image_A img');
                await image.decode();
                const canvas = document.createElement('canvas');
                canvas.width = canvas.height = 256;
                const pen = canvas.getContext('2d');
                pen.drawImage(image, 0, 0);
                return Array.from(pen.getImageData(16, 16, 1, 1).data);
            }"""
        )
    )
    assert shown[:3].tolist() == mine[0, 0].tolist()
