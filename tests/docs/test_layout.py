"""The layout in CONTRIBUTING.md is the package's."""

import re

from tests import test_house
from tests.docs import pages

PACKAGE = pages.ROOT / "soda_jax"
LAYOUT = next(
    block.text for block in pages.blocks(pages.read(pages.ROOT / "CONTRIBUTING.md")) if block.heading == "Layout"
)


def entries(layout: str, indent: str) -> dict[str, str]:
    """What is said of every file and folder whose line begins with `indent`, further lines included."""
    found = re.findall(rf"^{indent}([\w.]+/?)(?!\S)(.*(?:\n{indent}  .*)*)", layout, re.MULTILINE)
    return dict(found)


def test_rooms_are_those_of_the_package_in_their_order():
    """The order that imports follow."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    there = folders | {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    rooms = [name.removesuffix("/").removesuffix(".py") for name in entries(LAYOUT, "  ")]
    assert sorted(rooms) == sorted(there)
    assert rooms == [room for room in test_house.ROOMS if room in there]


def test_what_the_layout_names_exists():
    missing = [name for name in entries(LAYOUT, "") if not (pages.ROOT / name).exists()]
    for room, said in entries(LAYOUT, "  ").items():
        folder = PACKAGE / room
        assert folder.is_dir() == room.endswith("/")
        named = re.findall(r"(?<![\w/.])(\w+(?:\.py\b|/))(?!\w)", said)
        missing += [f"{room}{name}" for name in named if not any((top / name).exists() for top in (folder, pages.ROOT))]
    assert not missing


def test_entries_are_found():
    layout = "top/\n  a/     x.py,\n         y.py\n  b.py   of all\n  c.py\nother/   z.py\n"
    assert list(entries(layout, "")) == ["top/", "other/"]
    assert list(entries(layout, "  ")) == ["a/", "b.py", "c.py"]
    assert "y.py" in entries(layout, "  ")["a/"] and "of all" not in entries(layout, "  ")["a/"]
