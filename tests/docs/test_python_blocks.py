"""The Python blocks of the pages run on a model of random weights, and of the README on one that comes along, too."""

import numpy as np
import pytest

import soda_jax
from soda_jax.data import cameras
from soda_jax.tools import export as tool
from soda_jax.workdir import export as exports
from tests import tiny, tiny_checkpoint, tiny_exports
from tests.docs import pages

SIDE, OBJECTS, VIEWS = 8, 2, 3
RUNNABLE = [pages.ROOT / "README.md", pages.ROOT / "docs" / "api.md"]


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, SIDE, SIDE, 3), np.uint8)


# What the pages say that their reader has; of the blocks below some headings something else.
GIVEN = {"images": images(OBJECTS)}
GIVEN_BELOW = {
    "Novel views": {
        "images": images(OBJECTS, VIEWS),
        "poses": cameras.orbit(np.arange(VIEWS) + [[0.0], [0.3]], 0.4, 3.0),
        **dict(zip(("fx", "fy", "cx", "cy"), (9.0, 9.5, 4.1, 3.8), strict=True)),
    }
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """The folders that stand for those that the pages name."""
    configs = {
        "/tmp/soda_quickstart": tiny.get_config(sampling__num_steps=5),
        "/tmp/soda_objects": tiny.posed_config(data__num_sources=VIEWS),
    }
    found = {}
    for name, config in configs.items():
        found[name] = tmp_path_factory.mktemp("run")
        tiny_checkpoint.write(found[name], config, 1, labels={"factors": tiny.LABELS["factors"]})
    found["/tmp/soda_export"] = tmp_path_factory.mktemp("exports") / "export"
    exports.write(
        found["/tmp/soda_export"], tool.export_of(soda_jax.load(found["/tmp/soda_quickstart"])), "float16", ""
    )
    found["scenes"] = tmp_path_factory.mktemp("exports") / "scenes"
    tiny_exports.write(found["scenes"], labels={"label": tiny.LABELS["label"]}, with_examples=True)
    return found


@pytest.mark.parametrize("page", RUNNABLE, ids=pages.name)
def test_blocks_run(page, workdirs, tmp_path, monkeypatch):
    """In their order and one namespace, as a reader would paste them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # of what a dataset renders
    namespace, heading, number = dict(GIVEN), None, 0
    if page.name == "README.md":
        workdirs = {name: folder for name, folder in workdirs.items() if name != "scenes"}
    for block in pages.blocks(pages.read(page)):
        if block.language != "python":
            continue
        if block.heading != heading:
            heading = block.heading
            namespace |= GIVEN_BELOW.get(heading, {})
        source = block.text
        for name, folder in workdirs.items():
            opened = f'load("{name}"'  # not load_dataset, which knows other things by such a name
            source = source.replace(opened, f"load({str(folder)!r}")
        number += 1
        exec(compile(source, f"{pages.name(page)}: {heading}, Python block {number}", "exec"), namespace)
    assert number
    CHECKS[page.name](namespace)


def check_readme(found):
    rooms = found["rooms"].astype(int)
    assert found["again"].shape == found["edited"].shape == rooms.shape == (24, 32, 32, 3)
    assert np.abs(found["again"] - rooms).mean() < 8 < np.abs(found["edited"] - rooms).mean()
    assert found["varied"].shape == (OBJECTS, SIDE, SIDE, 3)
    assert found["new"].shape == (8, SIDE, SIDE, 3) and found["mixed"].shape == (1, SIDE, SIDE, 3)


def check_api(found):
    """The shapes that the page's comments promise."""
    assert found["walk"].shape == (OBJECTS, 3, SIDE, SIDE, 3) and found["between"].shape == (OBJECTS, 4, SIDE, SIDE, 3)
    assert found["anew"].shape == (OBJECTS, 2, SIDE, SIDE, 3) and found["made_up"].shape == (3, SIDE, SIDE, 3)
    assert found["kept"].shape == found["blend"].shape == found["typical"].shape == (OBJECTS, SIDE, SIDE, 3)
    assert found["z_of_views"].shape == found["z_of_first"].shape == found["z"].shape == (OBJECTS, 16)
    np.testing.assert_allclose(found["z_of_first"], found["z"], atol=1e-5)
    assert found["classes"].keys() == {"hue", "shape"}
    np.testing.assert_allclose(found["z_of_export"], found["z"], atol=1e-2 * np.abs(found["z"]).max())
    assert found["film"].shape == (5, 1, SIDE, SIDE, 3) and found["again"].dtype == np.uint8
    assert found["mixed"].shape == (1, SIDE, SIDE, 3) and found["fast"].shape == (OBJECTS, SIDE, SIDE, 3)
    assert found["seen"].shape == found["unposed"].shape == found["objects"].shape == (OBJECTS, 4, SIDE, SIDE, 3)
    assert found["free"].shape == (OBJECTS, SIDE, SIDE, 3)
    assert found["z_of_shown"].shape == found["shown"].codes.shape == (4, 16) and len(found["ours"].examples) == 4
    assert found["probe"].predict(found["z"]).shape == (OBJECTS,) and found["by_label"].vector.shape == (16,)
    assert found["room"]["image"].shape == (32, 32, 3) and found["room"]["factors"].shape == (6,)
    assert found["predicted"].shape == (50,) and found["random_poses"].shape == (5, 4, 4)
    np.testing.assert_allclose(found["xy"], [[32, 32]], atol=1e-6)
    np.testing.assert_allclose(found["from_colmap"], cameras.from_opencv(found["pose"]), atol=1e-12)


CHECKS = {"README.md": check_readme, "api.md": check_api}
