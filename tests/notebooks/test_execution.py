"""The notebooks run from their first cell to their last, at a reduced size and on models of random weights."""

import dataclasses
import os

import numpy as np
import pytest

from soda_jax.reporting import card
from soda_jax.workdir import examples as example_files
from soda_jax.workdir import export as exports
from tests import tiny, tiny_exports
from tests.docs import pages
from tests.notebooks import books

_EXTRA = "needs pip install -e '.[notebooks]'"
nbformat = pytest.importorskip("nbformat", reason=_EXTRA)
pytest.importorskip("nbclient", reason=_EXTRA)
pytest.importorskip("ipykernel", reason=_EXTRA)
scripts = books.script("execute")

# In the kernel: the tiny models in the place of those that come along, and what `tests.tiny` adds for them.
SEAM = """
import pathlib
from soda_jax.models import resnet
from soda_jax.sharing import shipped

resnet.STAGE_SIZES.setdefault(6, (1,))
shipped.FOLDER = pathlib.Path({folder!r})
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of the models that come along, with tiny ones in it."""
    folder = tmp_path_factory.mktemp("pretrained")
    _write(folder / "scenes", tiny.get_config(probe__kind="factors"), {"factors": tiny.LABELS["factors"]})
    _write(folder / "objects", tiny.posed_config(data__num_sources=3), {}, views=4)
    return folder


def _write(folder, config, labels, views=0):
    """An export of random weights with twelve examples."""
    export = tiny_exports.export_of(config, labels=labels)
    shown = tiny_exports.examples(12, views=views)
    factors = np.stack([np.arange(12, dtype=np.int32) % size for size in tiny.LABELS["factors"].sizes], axis=1)
    shown = dataclasses.replace(shown, labels={"factors": factors} if labels else {})
    files = example_files.to_files(shown, export.weights_digest)
    export = tiny_exports.with_files(export, files)
    exports.write(folder, export, "float32", card.render(export, "float32"))


@pytest.fixture
def run(models, tmp_path, tmp_path_factory, monkeypatch):
    """Executes a notebook with other parameters, among the tiny models; its outputs as one text, and its pictures."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pages.ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))  # of rendered rooms
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # on busy cores its threads wait for each other

    def execute(name, parameters="", folder=models):
        notebook = scripts.execute(books.FOLDER / name, tmp_path, SEAM.format(folder=str(folder)) + parameters)
        found = scripts.cleaned(notebook, tmp_path)
        outputs = [output for cell in found.cells for output in cell.get("outputs", [])]
        text = [output.get("text", "") or output.get("data", {}).get("text/markdown", "") for output in outputs]
        assert str(tmp_path) not in nbformat.writes(found)
        return "\n".join(text), sum("image/png" in output.get("data", {}) for output in outputs)

    return execute


def test_soda_in_five_minutes(run):
    text, pictures = run("1_soda_in_five_minutes.ipynb", "SHOWN, STEPS = 2, 2")
    assert "latents (12, 16), float32" in text and "PSNR by noise: " in text
    assert "hue          right in " in text and "chance 0.25" in text
    assert pictures == 7


@pytest.mark.slow
def test_walk_and_edit(run):
    text, pictures = run("2_walk_and_edit.ipynb", "SHOWN, FITTED, STEPS = 2, 200, 2")
    assert "pca4, whole latent" in text and "orientation" in text
    assert pictures >= 8


@pytest.mark.slow
def test_novel_views(run):
    text, pictures = run("3_novel_views.ipynb", "SHOWN, FRAMES, STEPS = 2, 4, 2")
    assert "1 source: " in text and "3 sources: " in text
    assert pictures >= 4


@pytest.mark.slow
def test_novel_views_without_the_model(run, tmp_path):
    with pytest.raises(Exception, match=r"has no model 'objects' yet \(it has: none\).*docs/novel_views.md"):
        run("3_novel_views.ipynb", folder=tmp_path)


@pytest.mark.slow
def test_train_your_own(run, tmp_path):
    sizes = "--config.train.log_every=2 --config.eval.num_examples=16 --config.sampling.num_steps=2"
    text, pictures = run("4_train_your_own.ipynb", f"COUNT, TRAIN_STEPS, TRAIN_FLAGS = 200, 4, {sizes!r}")
    assert "200 images in soda_own/images" in text and "object_hue   right in " in text and "linear_probe" in text
    assert pictures >= 2
    assert exports.is_export(tmp_path / "soda_own" / "export")


@pytest.mark.slow
def test_compare(run):
    text, pictures = run("5_compare.ipynb", "TRAIN, TEST, BUDGETS = 300, 100, (100, 300)")
    assert "| latent |" in text and "| 16 x 16 pixels |" in text and "apache-2.0" in text
    assert pictures == 2


@pytest.mark.parametrize("tags", [(), ("parameters", "parameters")])
def test_parameters_have_one_place(tags):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("A = 1", metadata={"tags": [tag]}) for tag in tags]
    with pytest.raises(ValueError, match=f"{len(tags)} cells are tagged 'parameters'"):
        scripts.with_parameters(notebook, "A = 2")


def test_what_belongs_to_the_machine_is_left_out(tmp_path):
    notebook = nbformat.v4.new_notebook()
    logged = f"W1128 03:03:34.865628 1401 folder.py:106] in {tmp_path}/run"
    text = f"1%\r2%\rdone\n 50%|## | 1/2\n{logged}\n\x1b[31mred\x1b[0m\n"
    stream = nbformat.v4.new_output("stream", text=text)
    widget = nbformat.v4.new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})
    notebook.cells = [nbformat.v4.new_code_cell("x", outputs=[stream, widget])]
    notebook.metadata.widgets = {"state": {}}
    found = scripts.cleaned(notebook, tmp_path)
    assert [output.text for output in found.cells[0].outputs] == ["done\nin ./run\nred\n"]
    assert "widgets" not in found.metadata
