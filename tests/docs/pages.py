"""The documentation as the tests read it: pages, their headings, blocks and inline code."""

import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "REPRODUCTION", "CHANGELOG"))])
PAGES += sorted(ROOT.glob("docs/*.md"))
# What the history says was true when it was written.
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Block(NamedTuple):
    """A fenced block: its language ("" where none is named), its text, and the last heading above it."""

    language: str
    text: str
    heading: str


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def read(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def blocks(text: str) -> Iterator[Block]:
    for match in _FENCE.finditer(text):
        above = headings(text[: match.start()])
        yield Block(match["language"], match["text"], above[-1] if above else "")


def inline_code(text: str) -> list[str]:
    """The pieces of inline code, each on one line."""
    return [" ".join(code.split()) for code in _INLINE.findall(prose(text))]


def headings(text: str) -> list[str]:
    return re.findall(r"^#{1,6} +(.+?) *$", prose(text), re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings: of equal ones the second gets -1, the third -2."""
    found: dict[str, int] = {}
    for heading in headings(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if not number else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


def links(text: str) -> list[str]:
    """Targets of links and pictures, outside of code."""
    plain = _INLINE.sub("", prose(text))
    return re.findall(r"\]\(([^)\s]+)\)", plain) + re.findall(r'<img[^>]* src="([^"]+)"', plain)


def commands(text: str) -> Iterator[str]:
    """Every command of a page, from blocks without a language or of bash, and from inline code, each on one line."""
    for block in blocks(text):
        if block.language in ("", "bash"):
            yield from block.text.replace("\\\n", " ").splitlines()
    yield from inline_code(text)
