"""Every relative link and anchor of the documentation leads somewhere."""

import pytest

from tests.docs import pages


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_links_lead_somewhere(page):
    broken = []
    for link in pages.links(pages.read(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(f"{link}: there is no such file")
        elif anchor and anchor not in pages.anchors(pages.read(target)):
            broken.append(f"{link}: {target.name} has no such heading")
    assert not broken


def test_the_pages_are_indexed():
    """Nobody finds a page that nothing names."""
    indexed = pages.links(pages.read(pages.ROOT / "docs" / "README.md"))
    written = {page.name for page in pages.ROOT.glob("docs/*.md")} - {"README.md"}
    assert written <= set(indexed)


def test_anchors_are_githubs():
    text = "# A `b` c.d\n## The paper's sets\n## Same\n## Same\n```\n# no heading\n```\n### [Link](x.md) & more\n"
    assert pages.anchors(text) == {"a-b-cd", "the-papers-sets", "same", "same-1", "link--more"}


def test_links_are_found_outside_of_code():
    text = 'see [a](b.md#c), ![p](d.png), <img src="e.png" width="2"> but `[f](g.md)`\n```\n[h](i.md)\n```\n'
    assert pages.links(text) == ["b.md#c", "d.png", "e.png"]
