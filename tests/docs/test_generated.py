"""docs/generate.py: what the pages hold is what the code says now."""

import subprocess
import sys

import pytest

from tests import tiny
from tests.docs import generator, pages

SOURCE = """
def get_config():
    config = ConfigDict()
    config.seed = 0

    config.train = ConfigDict()  # how it is trained
    config.train.rate = 2e-4
    # Two lines above,
    # and one behind.
    config.train.kind = "a"  # or "b|c"
    config.train.sizes = (
        1,
        2,
    )  # of all
    config.train.text = "no # comment"
    return config


def other(config):
    config.train.rate = 1.0
"""


def test_pages_are_fresh():
    stale = [pages.name(path) for path in generator.stale_pages()]
    assert not stale, f"run python docs/generate.py: {', '.join(stale)}"


def test_every_block_stands_in_a_page():
    text = "".join(pages.read(page) for page in pages.PAGES)
    assert all(f"<!-- generated: {name} -->" in text for name in generator.BLOCKS)
    assert text.count("\n<!-- generated: ") == text.count("\n<!-- end of generated: ")


def test_fields_with_defaults_and_comments():
    assert list(generator.read_fields(SOURCE)) == [
        ("seed", "0", ""),
        ("train.rate", "2e-4", ""),
        ("train.kind", '"a"', 'Two lines above, and one behind. or "b|c"'),
        ("train.sizes", "(\n        1,\n        2,\n    )", "of all"),
        ("train.text", '"no # comment"', ""),
    ]
    assert generator.section_notes(SOURCE) == {"train": "how it is trained"}


def test_fields_are_those_of_the_config():
    def names(tree, prefix=""):
        for key, value in tree.items():
            yield from names(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]

    assert sorted(field.name for field in generator.common_fields()) == sorted(names(tiny.get_config().to_dict()))


def test_only_what_stands_between_the_markers_changes():
    page = "before\n<!-- generated: fields -->\nold\n<!-- end of generated: fields -->\nafter\n"
    filled = generator.filled(page)
    assert filled.startswith("before\n<!-- generated: fields -->\n\n### ")
    assert filled.endswith("\n\n<!-- end of generated: fields -->\nafter\n") and "\nold\n" not in filled
    assert generator.filled(filled) == filled
    with pytest.raises(ValueError, match="'nothing' is unknown; known are fields"):
        generator.filled("<!-- generated: nothing -->\n<!-- end of generated: nothing -->")


def test_the_command_tells_and_mends_what_is_stale(tmp_path):
    """On a copy of what the script reads."""
    script, common = tmp_path / "docs" / "generate.py", generator.common_path()
    copied = tmp_path / common.relative_to(pages.ROOT)
    copied.parent.mkdir(parents=True)
    script.parent.mkdir()
    copied.write_text(common.read_text())
    script.write_text((pages.ROOT / "docs" / "generate.py").read_text())
    page = script.with_name("page.md")
    page.write_text("<!-- generated: fields -->\n<!-- end of generated: fields -->\n")

    def run(*arguments):
        return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60)

    check = run("--check")
    assert check.returncode == 1 and "stale: docs/page.md; run python docs/generate.py" in check.stderr
    assert run().stdout == "wrote docs/page.md\n"
    assert "| `train.num_steps` |" in page.read_text()
    assert run("--check").returncode == 0
