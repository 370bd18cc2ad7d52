"""Numbers and formulas as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from markupsafe import Markup, escape

from paper_checks.report.formulas import RELATIONS, SUMS, Fenced, Formula, Operator, Row, fence, latex, mathml, width
from paper_checks.report.notation import read

_SHORT, _LINE = 12.0, 20.0  # characters of a formula that is not broken at all, and of one that is not within sums


def number(value: float) -> str:
    """A number as people read it: 5 significant digits, integers whole.

    >>> number(-0.99999999), number(1e-31), number(18684.0), number(float("nan"))
    ('-1', '1e-31', '18684', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.5g}"


def mathematics(text: str, *, stacked: bool = True, links: Mapping[str, str] | None = None) -> Markup:
    """Text with its formulas as MathML, in pieces between which a line may break, as HTML.

    stacked   ratios may be fractions of one above the other; in tables and titles they are not
    links     identifier in the text -> where it leads, such as {"cg_rate": "#cg_rate"}

    >>> str(mathematics("at most 1/T."))
    'at most <span class="together"><math><mn>1</mn><mo lspace="0.05em" rspace="0.05em">/</mo><mi>T</mi></math>.</span>'
    """
    parts = read(text, stacked=stacked)
    html = "".join(_words(part, links or {}) if isinstance(part, str) else _lines(part) for part in parts)
    return Markup(_TOGETHER.sub(_kept_together, html))


# A browser may break a line before and behind a formula, also where a bracket or a comma stands directly there
_TOGETHER = re.compile(r"([(\[]?)(<math>(?:(?!</math>).)*</math>)([).,;:\]%]*(?:-\w+)?)")


def _kept_together(found: re.Match[str]) -> str:
    return f'<span class="together">{found[0]}</span>' if found[1] or found[3] else found[0]


def markdown(text: str) -> str:
    """Text with its formulas as LaTeX between dollar signs, as Markdown.

    >>> print(markdown("a slope of 2 V_0 / (beta T)"))
    a slope of $\\frac{2V_{0}}{\\beta T}$
    """
    return "".join(_escaped(part) if isinstance(part, str) else f"${latex(part).strip()}$" for part in read(text))


def _escaped(text: str) -> str:
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part[:1] == "`" else re.sub(r"([\\*_#<>|$\[\]])", r"\\\1", part) for part in parts)


_IDENTIFIER = re.compile(r"`([^`]+)`|\b([A-Za-z]+(?:_[A-Za-z0-9]+)+)\b")


def _words(text: str, links: Mapping[str, str]) -> str:
    """Identifiers as code, linked where they lead somewhere."""
    html, end = "", 0
    text = text.replace("...", "…")
    for found in _IDENTIFIER.finditer(text):
        name = found[1] or found[2]
        code = f"<code>{escape(name)}</code>"
        html += escape(text[end : found.start()]) + Markup(
            f'<a href="{links[name]}">{code}</a>' if name in links else code
        )
        end = found.end()
    return html + escape(text[end:])


@lru_cache(maxsize=8192)
def _lines(formula: Row) -> str:
    """One element math for each piece that stays on a line."""
    return " ".join(f"<math>{''.join(parts)}</math>" for parts in _broken(formula))


def _broken(formula: Row) -> Iterator[list[str]]:
    """Before every relation, and in what is wide before every sum, also within brackets."""
    if width(formula) <= _SHORT:
        yield [mathml(formula, alone=True)]
        return
    for items in _split(formula.items, RELATIONS):
        if sum(map(width, items)) <= _LINE:
            yield [mathml(Row(tuple(items)), alone=True)]
            continue
        for term in _split(items, SUMS):
            yield from _opened(term)


def _opened(items: list[Formula]) -> Iterator[list[str]]:
    """A term, broken within its widest bracket where it is too wide."""
    brackets = {k: item for k, item in enumerate(items) if isinstance(item, Fenced)}
    widest = max(brackets, key=lambda k: width(brackets[k]), default=None)
    if widest is None or sum(map(width, items)) <= 1.5 * _LINE:
        yield [mathml(Row(tuple(items)), alone=True)]
        return
    kind, body = brackets[widest].kind, brackets[widest].body
    parts = list(_split(body.items if isinstance(body, Row) else (body,), SUMS | {","}))
    before, after = Row(tuple(items[:widest])), Row(tuple(items[widest + 1 :]))
    for k, part in enumerate(parts):
        head = [mathml(before, alone=True), fence(kind, 0, stretchy=False)] if k == 0 else []
        tail = [fence(kind, 1, stretchy=False), mathml(after)] if k == len(parts) - 1 else []
        yield [*head, mathml(Row(tuple(part)), alone=True), *tail]


def _split(items: tuple[Formula, ...] | list[Formula], at: frozenset[str]) -> Iterator[list[Formula]]:
    """The items in groups that begin with an operator of `at`; a comma ends its group."""
    group: list[Formula] = []
    for item in items:
        begins = isinstance(item, Operator) and item.name in at and not item.prefix and item.name != ","
        if begins and group:
            yield group
            group = []
        group.append(item)
        if isinstance(item, Operator) and item.name == "," and "," in at:
            yield group
            group = []
    if group:
        yield group
