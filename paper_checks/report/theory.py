"""The sections of docs/theory.md that claims refer to, as parts of their page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markupsafe import Markup

FILE = Path(__file__).parents[2] / "docs" / "theory.md"  # of a checkout; an installed package goes without


class Section(NamedTuple):
    """One section: its heading and its text as HTML."""

    title: str
    html: Markup


def cited(sources: Iterable[str], file: Path = FILE) -> dict[str, Section]:
    """The sections S1, S2, ... that the texts name, in order; none where the file is not there."""
    if not file.exists():
        return {}
    named = {found for text in sources if "theory.md" in text for found in re.findall(r"\bS\d+", text)}
    found = {}
    for part in re.split(r"^## (?=S\d)", file.read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        if (name := title.split()[0]) in named:
            found[name] = Section(title.removeprefix(name).strip(), _html(body))
    return found


def linked(html: Markup, sections: Mapping[str, Section]) -> Markup:
    """The names of sections in a text, such as S3a, as links to them."""

    def link(found: re.Match[str]) -> str:
        return f'<a href="#theory-{found[1]}">{found[0]}</a>' if found[1] in sections else found[0]

    return Markup(re.sub(r"\b(S\d+)[a-z]?\b", link, html))


_STAR = re.compile(r"(?<=[\u0370-\u03ff\u2080-\u209c\u1d62-\u1d6a])\*|(?<=\b[A-Za-z])\*")  # of an optimum, no emphasis
_SCRIPT = re.compile(r"(?<=[^\s_^])([_^])(?:\{([^{}]*)\}|([\w*−+]))(?![\w/]*\.(?:py|md))")


def _html(markdown: str) -> Markup:
    """Without its links, which lead out of the page, and with the scripts that plain text writes as _ and ^."""
    tokens = MarkdownIt("commonmark").enable("table")
    text = re.sub(r"^\*Judged by.*?\*$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    html = tokens.render(_STAR.sub(r"\\*", text))
    parts = re.split(r"(<code>.*?</code>|<[^>]*>)", html, flags=re.DOTALL)
    return Markup("".join(part if part.startswith("<") else _SCRIPT.sub(_script, part) for part in parts))


def _script(found: re.Match[str]) -> str:
    tag = {"_": "sub", "^": "sup"}[found[1]]
    return f"<{tag}>{found[2] or found[3]}</{tag}>"
