import pytest

from soda_jax.rendering.catalogue import Model
from soda_jax.rendering.workers import CRASHED, render_objects

# Only the names matter: worker processes import this module in place of the renderer.
MODULE = """
import os

def render(job, model):
    if model.name.startswith("crash"):
        os._exit(1)
    if model.name == "disk":
        raise OSError("disk full")
    return "broken" if model.name == "bad" else None
"""


@pytest.fixture
def render(tmp_path, monkeypatch):
    (tmp_path / "stand_in_renderer.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import stand_in_renderer

    return stand_in_renderer.render


def test_a_crash_costs_one_model_only(render):
    names = ["a", "crash1", "b", "bad", "crash2", "c", "d"]
    done = {m.name: reason for m, reason in render_objects(None, [Model(n, n, n) for n in names], 2, render)}
    expected = dict.fromkeys(names) | {"bad": "broken", "crash1": CRASHED, "crash2": CRASHED}
    assert done == expected


def test_a_full_disk_ends_the_run(render):
    with pytest.raises(OSError, match="disk full"):
        list(render_objects(None, [Model("disk", "disk", "disk")], 1, render))
