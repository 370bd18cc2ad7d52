"""docs/claims/: a page for each claim, from its docstring, its PLANTED error and its place in the theory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from docs.generate import DOCS, ROOT
from docs.generate.markdown import headings
from docs.generate.templates import ENVIRONMENT
from figures import gallery
from paper_checks import CLAIMS, own_problem
from paper_checks.bounds import BOUNDS
from paper_checks.claim import SECTIONS, Claim
from paper_checks.report.mathematics import markdown
from paper_checks.report.page import searched

Typeset = Callable[[str], str]
FOLDER = DOCS / "claims"


def on_github(text: str) -> str:
    """Formulas as LaTeX without backslashes before punctuation, which Markdown would take for its own."""
    return markdown(text).replace(r"\,", r"\thinspace ")


class Family(NamedTuple):
    """Claims that are listed on one page, the folder of their pages, and that of their modules."""

    claims: Mapping[str, Claim]
    folder: Path
    sources: Path

    def to(self, path: Path) -> str:
        """Where a file is, seen from the pages."""
        return os.path.relpath(path, self.folder)


PAPER = Family(CLAIMS, FOLDER, ROOT / "paper_checks")
OWN = Family(own_problem.CLAIMS, FOLDER / "own_problem", ROOT / "paper_checks" / "own_problem")


def pages() -> dict[Path, str]:
    """The page of each claim, and of each family a README.md, its table in the order of the report."""
    texts = {}
    for family in (PAPER, OWN):
        shown = {
            "typeset": on_github,
            "linked": partial(linked, family=family),
            "items": partial(items, typeset=partial(linked, family=family)),
            "gallery": gallery,
            "own": family is OWN,
            "paper": PAPER.claims.keys(),
            "also_own": OWN.claims.keys() if family is PAPER else (),
            "to": lambda path, family=family: family.to(ROOT / path),
        }
        page, index = ENVIRONMENT.get_template("claim.md.j2"), ENVIRONMENT.get_template("claims.md.j2")
        parts = {name: _parts(claim, family) for name, claim in family.claims.items()}
        texts[family.folder / "README.md"] = index.render(**shown, claims=parts.values())
        texts |= {family.folder / f"{name}.md": page.render(**shown, **part) for name, part in parts.items()}
    return texts


def _parts(claim: Claim, family: Family) -> dict[str, object]:
    return {
        "claim": claim,
        "module": (family.sources / f"{claim.name}.py").relative_to(ROOT),
        "sections": [(name, claim.sections[name]) for name in SECTIONS[:-1]],
        "source": claim.sections["Source"],
        "theory": theory_sections(claim),
        "bounded": family is PAPER and claim.name in BOUNDS,
        "worst": searched(claim.name) if family is PAPER else [],
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


def items(text: str, typeset: Typeset = str) -> str:
    """Text whose sentences are numbered (1), (2) or (a), (b) as a list, and any other as it is.

    >>> print(items("Both. (1) One. (2) Two."))
    Both.
    <BLANKLINE>
    - (1) One.
    - (2) Two.
    """
    first, *rest = (typeset(part.strip()) for part in _ITEM.split(text))
    return "\n".join([*([first, ""] if first else []), *(f"- {item}" for item in rest)]).strip()


def linked(text: str, family: Family = PAPER, typeset: Typeset = on_github) -> str:
    """Typeset text in which pages of docs/, sections of the theory and other claims are links."""
    pieces, end = [], 0
    for found in _REFERENCE.finditer(text):
        pieces += [typeset(text[end : found.start()]), _link(found, family)]
        end = found.end()
    return "".join([*pieces, typeset(text[end:])])


def _link(found: re.Match[str], family: Family) -> str:
    if section := found["section"]:
        return f"[S{section}{found['part']}]({family.to(DOCS / 'theory.md')}#{anchor(section)})"
    if page := found["page"]:
        return f"[{page.removesuffix('.md')}]({family.to(DOCS / page)})"
    claim = found["quoted"] or found["claim"]
    return f"[{claim}]({family.to(FOLDER / claim)}.md)"


def anchor(section: str) -> str:
    """Where section number `section` of docs/theory.md starts: the anchor of its heading."""
    return _anchors()[section]


@cache
def _anchors() -> dict[str, str]:
    found = headings((DOCS / "theory.md").read_text(encoding="utf-8"))
    return {match[1]: slug for title, slug in found if (match := re.match(r"S(\d+) ", title))}
