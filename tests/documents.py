"""The documentation as its tests read it: pages, their snippets, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
# For a package index, where no link to another page works; tests/test_packaging.py reads it.
DESCRIPTION = ROOT / "docs" / "package.md"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for page in ROOT.glob("docs/*.md") if page != DESCRIPTION),
        *ROOT.glob("examples/*/README.md"),
        ROOT / "otel_voice" / "browser" / "README.md",
    ]
)
# What stands in a fence of another language, or of none, is what one sees.
RUNNABLE = frozenset({"sh", "python", "js", "jsx", "nginx", "caddy", "ini"})


class Snippet(NamedTuple):
    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def inline(page: Path) -> Iterator[Token]:
    """Texts, codes, links and pictures."""
    for token in tokens(page):
        yield from token.children or ()


def links(page: Path) -> list[str]:
    found = (token.attrGet("href") or token.attrGet("src") for token in inline(page))
    return [str(each) for each in found if each]


def codes(page: Path) -> list[str]:
    """What is set as code within the text."""
    return [token.content for token in inline(page) if token.type == "code_inline"]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: list[str] = []
    after_opening = False
    for token in tokens(page):
        if after_opening:
            text = "".join(child.content for child in token.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
        after_opening = token.type == "heading_open"
    return set(found)


def snippets() -> list[Snippet]:
    return [
        Snippet(name(page), token.info.strip(), token.content)
        for page in PAGES
        for token in tokens(page)
        if token.type == "fence"
    ]


# Snippets that some test runs, or says why none can; tests/test_snippets.py sees that there are no others.
taken: set[Snippet] = set()


def snippet(page: str, beginning: str) -> str:
    """The one of a page that begins so, for a test to run."""
    (found,) = {each for each in snippets() if each.page == page and each.text.startswith(beginning)}
    taken.add(found)
    return found.text
