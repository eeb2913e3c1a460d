"""The notebooks as they lie there: short, of public parts, and fit to be opened anywhere. Nothing is executed."""

import ast
import json
import re
import subprocess
import sys

import pytest

import soda_jax
from tests.docs import pages, test_names
from tests.notebooks import books

MOST_CELLS = 25
MOST_BYTES = 600_000
API = pages.read(pages.ROOT / "docs" / "api.md")
DOCUMENTED = {
    pair for block in pages.blocks(API) if block.language == "python" for pair in books.imported(ast.parse(block.text))
} | {("soda_jax", name) for name in soda_jax.__all__}
# Below the root of a machine; a path of the notebook's own folder is none.
ABSOLUTE = re.compile(r"(?<![\w.:/}~-])/(?:home|root|Users|tmp|var|usr|opt|work|content|mnt|private)\b|\b[A-Z]:\\\\")

address = books.script("address")


def test_all_are_listed():
    assert [path.name for path in books.BOOKS] == sorted(address.TITLES)
    listed = pages.links(pages.read(books.FOLDER / "README.md"))
    assert {path.name for path in books.BOOKS} <= set(listed)


@pytest.mark.parametrize("path", books.BOOKS, ids=lambda path: path.stem)
class TestBook:
    def test_it_is_short_and_whole(self, path):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert notebook["nbformat"] == 4 and notebook["metadata"]["kernelspec"]["name"] == "python3"
        assert len(notebook["cells"]) <= MOST_CELLS and path.stat().st_size <= MOST_BYTES
        assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
        assert "widgets" not in notebook["metadata"]
        for cell in notebook["cells"]:
            assert cell["cell_type"] in ("markdown", "code") and cell["source"]

    def test_it_begins_with_the_button_and_what_colab_needs(self, path):
        first, second, *_ = books.cells(path)
        assert (
            first["source"].startswith(f"# {address.TITLES[path.name]}\n")
            and address.button(path.name) in (first["source"])
        )
        assert second["source"].count("REPOSITORY =") == second["source"].count("REVISION =") == 1
        assert re.search(r'if "google\.colab" in sys\.modules:\n    %pip install ', second["source"])

    def test_it_has_one_cell_of_parameters(self, path):
        tagged = [cell for cell in books.cells(path) if "parameters" in cell["metadata"].get("tags", ())]
        assert len(tagged) == 1 and tagged[0] == books.cells(path)[2]
        assert all(isinstance(node, ast.Assign) for node in books.parsed(tagged[0]["source"]).body)

    def test_it_explains(self, path):
        """Every cell of code but those at the top follows prose, itself or the one before it."""
        kinds = [cell["cell_type"] for cell in books.cells(path)]
        assert "code code code" not in " ".join(kinds[3:])
        assert len(books.prose(path).split()) > 200

    def test_it_keeps_to_what_is_public(self, path):
        for source in books.code(path):
            tree = books.parsed(source)
            assert books.imported(tree) <= DOCUMENTED
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    assert not node.attr.startswith("_")
                    if isinstance(node.value, ast.Name) and node.value.id == "model":
                        assert re.search(rf"\.{node.attr}\b|`{node.attr}\(", API), f"model.{node.attr}"

    def test_what_it_names_exists(self, path):
        text = books.prose(path)
        everything = "\n".join([text, *books.code(path)])
        assert all(test_names.exists(name) for name in test_names.paths(text))
        assert all((books.FOLDER / name).exists() for name in re.findall(r"\b\w+\.ipynb\b", text))
        fields = test_names.FIELDS | test_names.SECTIONS
        # Of fields that flags name; `model.config.FIELD` is the tests' that execute it.
        assert set(re.findall(r"--config\.([\w.]*\w)", everything)) <= fields
        for module, flags in re.findall(r"-m (soda_jax[\w.]*)([^`\n]*)", " ".join(everything.split(" "))):
            named = set(re.findall(r"--(\w+)", flags))
            assert named <= test_names.flags_of(module), module

    def test_it_names_no_place_of_a_machine(self, path):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            shown = cell["source"]
            for output in cell.get("outputs", []):
                assert output["output_type"] != "error"
                data = output.get("data", {})
                shown = [*shown, *output.get("text", []), *data.get("text/plain", []), *data.get("text/markdown", [])]
            assert not ABSOLUTE.search("".join(shown))


def test_the_address_stands_in_one_place():
    """A notebook holds what notebooks/address.py makes of it."""
    assert not address.stale(), "run python notebooks/address.py"
    done = subprocess.run(
        [sys.executable, str(books.FOLDER / "address.py"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_another_address_reaches_button_and_install(monkeypatch):
    path = books.BOOKS[0]
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr(address, "REPOSITORY", "someone/elsewhere")
    monkeypatch.setattr(address, "REVISION", "v9.9")
    assert {stale.name for stale in address.stale()} == set(address.TITLES)
    after = json.loads(address.filled(path.name, before))["cells"]
    first, second = ("".join(cell["source"]) for cell in after[:2])
    assert f"colab.research.google.com/github/someone/elsewhere/blob/v9.9/notebooks/{path.name})" in first
    assert 'REPOSITORY = "someone/elsewhere"\nREVISION = "v9.9"\n' in second
    assert after[2:] == json.loads(before)["cells"][2:]


def test_places_are_found():
    for text in ("/home/me/x.npz", "wrote /tmp/run", "see /opt/main", "C:\\\\Users"):
        assert ABSOLUTE.search(text)
    for text in ("soda_own/run", "https://a.org/home/b", "./tmp/x", "~/tmp", "and/or", "images/s"):
        assert not ABSOLUTE.search(text)


def test_imports_are_found():
    source = "!ls\nif x:\n    %pip install y\nimport soda_jax, os\nfrom soda_jax.latents import walks as w\n"
    assert books.imported(books.parsed(source)) == {("soda_jax", ""), ("soda_jax.latents", "walks")}
    assert ("soda_jax.data", "cameras") in DOCUMENTED and ("soda_jax.api", "load") not in DOCUMENTED
