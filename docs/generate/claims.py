"""docs/claims/: a page for each claim, from its docstring, its PLANTED error and its place in the theory."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from docs.generate import DOCS
from docs.generate.markdown import headings
from docs.generate.templates import ENVIRONMENT
from paper_checks import CLAIMS
from paper_checks.bounds import BOUNDS
from paper_checks.claim import SECTIONS, Claim
from paper_checks.report.mathematics import markdown
from paper_checks.report.page import searched

Typeset = Callable[[str], str]
FOLDER = DOCS / "claims"


def pages(typeset: Typeset = markdown) -> dict[Path, str]:
    """The page of each claim, and README.md, their table in the order of the report; formulas by `typeset`."""
    page, index = ENVIRONMENT.get_template("claim.md.j2"), ENVIRONMENT.get_template("claims.md.j2")
    shown = {"typeset": typeset, "linked": partial(linked, typeset=typeset), "items": items}
    texts = {FOLDER / f"{name}.md": page.render(**shown, **_parts(claim)) for name, claim in CLAIMS.items()}
    return {FOLDER / "README.md": index.render(**shown, claims=[_parts(claim) for claim in CLAIMS.values()]), **texts}


def _parts(claim: Claim) -> dict[str, object]:
    return {
        "claim": claim,
        "sections": [(name, claim.sections[name]) for name in SECTIONS[:-1]],
        "source": claim.sections["Source"],
        "theory": theory_sections(claim),
        "bounded": claim.name in BOUNDS,
        "worst": searched(claim.name),
    }


def theory_sections(claim: Claim) -> list[str]:
    """S1, S7f, ...: the sections of docs/theory.md that the docstring names as its source."""
    return re.findall(r"\bS\d+[a-z]?\b", claim.sections["Source"])


_CLAIM = "|".join(sorted(CLAIMS, key=len, reverse=True))
_REFERENCE = re.compile(
    rf"(?:docs/theory\.md )?(?<![\w^])S(?P<section>\d+)(?P<part>[a-z]?)(?!\w)|docs/(?P<page>\w+\.md)"
    rf"|`(?P<quoted>{_CLAIM})`|(?<![\w/])(?P<claim>(?=\w*_)(?:{_CLAIM}))(?!\w)"  # bare, `memory` is just a word
)
_ITEM = re.compile(r"(?:^|(?<=[.:;] ))(?=\((?:f?\d|[a-z])\) )")


def items(text: str) -> str:
    """Text whose sentences are numbered (1), (2) or (a), (b) as a list, and any other as it is.

    >>> print(items("Both. (1) One. (2) Two."))
    Both.
    <BLANKLINE>
    - (1) One.
    - (2) Two.
    """
    first, *rest = _ITEM.split(text)
    return "\n".join([*([first.strip(), ""] if first else []), *(f"- {item.strip()}" for item in rest)]).strip()


def linked(text: str, typeset: Typeset = markdown) -> str:
    """Typeset text in which pages of docs/, sections of the theory and other claims are links."""
    pieces, end = [], 0
    for found in _REFERENCE.finditer(text):
        pieces += [typeset(text[end : found.start()]), _link(found)]
        end = found.end()
    return "".join([*pieces, typeset(text[end:])])


def _link(found: re.Match[str]) -> str:
    if section := found["section"]:
        return f"[S{section}{found['part']}](../theory.md#{anchor(section)})"
    if page := found["page"]:
        return f"[{page.removesuffix('.md')}](../{page})"
    claim = found["quoted"] or found["claim"]
    return f"[{claim}]({claim}.md)"


def anchor(section: str) -> str:
    """Where section number `section` of docs/theory.md starts: the anchor of its heading."""
    return _anchors()[section]


@cache
def _anchors() -> dict[str, str]:
    found = headings((DOCS / "theory.md").read_text(encoding="utf-8"))
    return {match[1]: slug for title, slug in found if (match := re.match(r"S(\d+) ", title))}
