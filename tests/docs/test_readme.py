"""The README stays one that is read to its end."""

from tests.docs import pages

MAX_LINES, MAX_WORDS = 180, 1500
FIRST_COMMANDS = [
    "pip install -e . && python -m soda_jax.main --config=configs/quickstart.py --workdir=/tmp/soda_quickstart\n",
    "pip install -e '.[test]' && pytest\n",
]


def test_readme_is_short():
    text = pages.read(pages.ROOT / "README.md")
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.split()) <= MAX_WORDS


def test_readme_starts_with_the_two_commands():
    """Each in a block of its own, to be copied whole."""
    found = [block.text for block in pages.blocks(pages.read(pages.ROOT / "README.md")) if block.language == "bash"]
    assert found[:2] == FIRST_COMMANDS
