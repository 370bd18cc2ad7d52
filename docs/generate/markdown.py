"""Links of Markdown pages, headings, and the anchors that lead to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token


def parser() -> MarkdownIt:
    """Markdown as these pages are written: CommonMark with tables."""
    return MarkdownIt("commonmark", {"html": True}).enable("table")


PARSER = parser()


def links(tokens: list[Token]) -> Iterator[tuple[Token, str, str]]:
    """Every link and picture within the repository: its token, the attribute, and where it leads."""
    for token in tokens:
        for attribute in ("href", "src"):
            target = token.attrs.get(attribute)
            if isinstance(target, str) and not re.match(r"[a-z]+:", target):
                yield token, attribute, unquote(target)
        yield from links(token.children or [])


def headings(markdown: str) -> list[tuple[str, str]]:
    """Text and anchor of every heading, as GitHub makes them."""
    tokens = PARSER.parse(markdown)
    titles = [inline.content for token, inline in pairwise(tokens) if token.type == "heading_open"]
    seen: dict[str, int] = {}
    found = []
    for title in titles:
        slug = slugify(title)
        seen[slug] = seen.get(slug, -1) + 1
        found.append((title, f"{slug}-{seen[slug]}" if seen[slug] else slug))
    return found


def slugify(title: str) -> str:
    """The anchor that GitHub gives to a heading: small letters, hyphens for spaces, nothing else but digits and _.

    >>> slugify("S1 The error of a hypergradient: O(1/eps), p = 10⁶")
    's1-the-error-of-a-hypergradient-o1eps-p--10'
    """
    return re.sub(r"[^\w\- ]|[²³¹⁰-₉]", "", title.lower()).replace(" ", "-")


def broken(page: Path) -> list[str]:
    """Links of a Markdown page that lead to no file, or to no heading of a page."""
    found = []
    for _, _, target in links(PARSER.parse(page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


@cache
def anchors(page: Path) -> frozenset[str]:
    """Where links may lead within a Markdown page."""
    return frozenset(anchor for _, anchor in headings(page.read_text(encoding="utf-8")))
