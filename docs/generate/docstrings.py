"""Docstrings as HTML: paragraphs, tables of fields, sections, doctests, and their formulas."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from markupsafe import Markup

from paper_checks.report.mathematics import mathematics

_FIELD = re.compile(r"^([a-zA-Z_]\w*(?:, \w+)*)\s{2,}(\S.*)$")
_ASIDE = re.compile(r"(?:Cost|Memory|Differs|Raises|Returns|Source)\b")


def docstring(text: str) -> Markup:
    """A docstring as this project writes them: plain text with formulas, fields in columns, indented sections."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return Markup("\n").join(_block(block) for block in blocks if block.strip())


def _block(block: str) -> Markup:
    if block.lstrip().startswith(">>>"):
        return Markup("<pre>{}</pre>").format(block)
    lines = block.splitlines()
    if _FIELD.match(lines[0]):
        rows = (Markup("<dt><code>{}</code></dt><dd>{}</dd>").format(*field) for field in _fields(lines))
        return Markup("<dl>{}</dl>").format(Markup("").join(rows))
    return Markup("").join(Markup("<p>{}</p>").format(mathematics(part)) for part in _paragraphs(lines))


def _fields(lines: list[str]) -> Iterator[tuple[str, Markup]]:
    """NAME  what it says, continued on indented lines."""
    name, says = "", ""
    for line in lines:
        if field := _FIELD.match(line):
            if name:
                yield name, mathematics(says)
            name, says = field[1], field[2]
        else:
            says += f" {line.strip()}"
    yield name, mathematics(says)


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """A line that is followed by indented ones begins one, and so do Cost, Raises, Source, ..."""
    part: list[str] = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if part and (_ASIDE.match(line) or (not line.startswith(" ") and after.startswith(" "))):
            yield " ".join(part)
            part = []
        part.append(line.strip())
    yield " ".join(part)
