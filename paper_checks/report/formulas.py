"""Formulas as trees, and what they look like in MathML and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Name in docstrings -> symbol, LaTeX
GREEK = {
    "alpha": ("α", r"\alpha"), "beta": ("β", r"\beta"), "gamma": ("γ", r"\gamma"), "Gamma": ("Γ", r"\Gamma"),
    "delta": ("δ", r"\delta"), "Delta": ("Δ", r"\Delta"), "eps": ("ε", r"\varepsilon"),
    "epsilon": ("ε", r"\varepsilon"), "zeta": ("ζ", r"\zeta"), "eta": ("η", r"\eta"), "theta": ("θ", r"\theta"),
    "kappa": ("κ", r"\kappa"), "lambda": ("λ", r"\lambda"), "Lambda": ("Λ", r"\Lambda"), "mu": ("μ", r"\mu"),
    "nu": ("ν", r"\nu"), "xi": ("ξ", r"\xi"), "pi": ("π", r"\pi"), "rho": ("ρ", r"\rho"),
    "varrho": ("ϱ", r"\varrho"), "sigma": ("σ", r"\sigma"), "tau": ("τ", r"\tau"), "phi": ("φ", r"\varphi"),
    "Phi": ("Φ", r"\Phi"), "chi": ("χ", r"\chi"), "psi": ("ψ", r"\psi"), "omega": ("ω", r"\omega"),
    "ell": ("ℓ", r"\ell"),
}  # fmt: skip
OTHERS = {
    "grad": ("∇", r"\nabla"), "partial": ("∂", r"\partial"), "infinity": ("∞", r"\infty"), "sum": ("∑", r"\sum"),
    "expectation": ("𝔼", r"\mathbb{E}"), "prime": ("′", r"\prime"), "star": ("∗", r"*"), "dots": ("…", r"\dots"),
}  # fmt: skip
OPERATORS = {
    "<=": ("≤", r"\le"), ">=": ("≥", r"\ge"), "!=": ("≠", r"\ne"), "->": ("→", r"\to"), "~": ("∼", r"\sim"),
    "=": ("=", "="), "<": ("<", "<"), ">": (">", ">"), "in": ("∈", r"\in"), "+": ("+", "+"), "-": ("−", "-"),
    "+-": ("±", r"\pm"), "x": ("×", r"\times"), "(x)": ("⊗", r"\otimes"), "/": ("/", "/"), ",": (",", ","),
    "..": ("…", r"\dots"), "...": ("…", r"\dots"),
}  # fmt: skip
RELATIONS = frozenset(("<=", ">=", "!=", "->", "~", "=", "<", ">", "in"))
SUMS = frozenset(("+", "-", "+-"))
FENCES = {"<": ("⟨", "⟩"), "(": ("(", ")"), "[": ("[", "]"), "{": ("{", "}"), "|": ("|", "|"), "ceil": ("⌈", "⌉")}
_LATEX_FENCES = {
    "<": (r"\langle ", r"\rangle"),
    "{": (r"\{", r"\}"),
    "|": (r"\lvert ", r"\rvert"),
    "ceil": (r"\lceil ", r"\rceil"),
}
ACCENTS = {"hat": ("ˆ", r"\hat"), "tilde": ("~", r"\tilde"), "bar": ("¯", r"\bar")}


@dataclass(frozen=True)
class Symbol:
    """A letter, or a name of OTHERS."""

    name: str


@dataclass(frozen=True)
class Name:
    """An upright name: log, max, prox."""

    text: str


@dataclass(frozen=True)
class Number:
    """As it is written; 1e-12 becomes a power of ten."""

    text: str


@dataclass(frozen=True)
class Operator:
    """One of OPERATORS; `prefix` where it has nothing on its left, as a sign has not."""

    name: str
    prefix: bool = False


@dataclass(frozen=True)
class Row:
    """One after the other."""

    items: tuple[Formula, ...]


@dataclass(frozen=True)
class Scripts:
    """What stands below and above on the right."""

    base: Formula
    below: Formula | None = None
    above: Formula | None = None


@dataclass(frozen=True)
class Accent:
    """hat, tilde or bar over a symbol."""

    base: Formula
    accent: str


@dataclass(frozen=True)
class Fraction:
    """Stacked."""

    above: Formula
    below: Formula


@dataclass(frozen=True)
class Root:
    """A square root."""

    body: Formula


@dataclass(frozen=True)
class Fenced:
    """In brackets or bars, one of FENCES."""

    kind: str
    body: Formula


Formula = Symbol | Name | Number | Operator | Row | Scripts | Accent | Fraction | Root | Fenced


def width(formula: Formula) -> float:
    """About how wide, in characters: scripts are smaller, of a fraction the wider part counts."""
    match formula:
        case Name(text) | Number(text):
            return len(text)
        case Row(items):
            return sum(map(width, items))
        case Scripts(base, below, above):
            return width(base) + 0.7 * max(width(part) if part else 0 for part in (below, above))
        case Fraction(above, below):
            return 0.8 * max(width(above), width(below))
        case Accent(base):
            return width(base)
        case Root(body):
            return width(body) + 1
        case Fenced(_, body):
            return width(body) + 1
        case Operator(name):
            return 1 if name in ("/", ",") else 2.2
    return 1.1


def tall(formula: Formula) -> bool:
    """Whether a fraction makes it higher than a line."""
    match formula:
        case Fraction():
            return True
        case Row(items):
            return any(map(tall, items))
        case Scripts(base) | Accent(base):
            return tall(base)
        case Fenced(_, body) | Root(body):
            return tall(body)
    return False


def mathml(formula: Formula, *, alone: bool = False) -> str:
    """The formula as MathML Core, without the element math around it.

    alone   it is a piece between two breaks: no room is left before its first operator and behind its last
    """
    match formula:
        case Symbol(name):
            return _letter(name)
        case Name(text):
            return f'<mi mathvariant="normal">{escape(text)}</mi>' if len(text) == 1 else f"<mi>{escape(text)}</mi>"
        case Number(text):
            return _power(text, lambda t: f"<mn>{t}</mn>", lambda base, power: f"<msup>{base}{power}</msup>", _MINUS)
        case Operator(name, prefix):
            return _operator(name, prefix, alone, alone)
        case Row(items):
            return _row(items, alone)
        case Scripts(base, below, above):
            parts = [_one(part) for part in (base, below, above) if part]
            tag = "msubsup" if below and above else "msub" if below else "msup"
            return f"<{tag}>{''.join(parts)}</{tag}>"
        case Accent(base, accent):
            return f'<mover accent="true">{_one(base)}<mo stretchy="false">{ACCENTS[accent][0]}</mo></mover>'
        case Fraction(above, below):
            return f"<mfrac>{_one(above)}{_one(below)}</mfrac>"
        case Root(body):
            return f"<msqrt>{mathml(body)}</msqrt>"
        case Fenced(kind, body):
            left, right = (fence(kind, side, stretchy=tall(body)) for side in (0, 1))
            return f"<mrow>{left}{mathml(body)}{right}</mrow>"


def fence(kind: str, side: int, *, stretchy: bool = True) -> str:
    """The left (0) or right (1) bracket alone, in MathML."""
    form, grows = ("prefix", "postfix")[side], "" if stretchy else ' stretchy="false"'
    return f'<mo form="{form}"{grows}>{FENCES[kind][side]}</mo>'


def _one(formula: Formula) -> str:
    """As one child of an element that counts its children."""
    whole = mathml(formula)
    return f"<mrow>{whole}</mrow>" if isinstance(formula, Row | Number) and whole.count("</") != 1 else whole


_MINUS = '<mo form="prefix">−</mo>'
_SPACE = '<mspace width="0.17em"/>'


def _letter(name: str) -> str:
    if name in OTHERS:
        text = OTHERS[name][0]
        return f"<mo>{text}</mo>" if name == "sum" else f'<mi mathvariant="normal">{text}</mi>'
    text = GREEK[name][0] if name in GREEK else name
    upright = ' mathvariant="normal"' if name in GREEK and name[0].isupper() else ""
    return f"<mi{upright}>{escape(text)}</mi>"


def _operator(name: str, prefix: bool, first: bool, last: bool) -> str:
    text = escape(OPERATORS[name][0])
    if prefix:
        return f'<mo form="prefix">{text}</mo>'
    if name in ("/", "..", "..."):
        space = "0.05em" if name == "/" else "0.2em"
        return f'<mo lspace="{space}" rspace="{space}">{text}</mo>'
    if not (first or last):
        return f"<mo>{text}</mo>"
    room = ' lspace="0"' * first + ' rspace="0"' * last
    return f'<mo form="infix"{room}>{text}</mo>'


def _row(items: Sequence[Formula], alone: bool) -> str:
    """Side by side, with some room around names and before numbers: products are written without a sign."""
    parts: list[str] = []
    for k, item in enumerate(items):
        before = items[k - 1] if k else None
        if before is not None and spaced(before, item):
            parts.append(_SPACE)
        if alone and isinstance(item, Operator):
            parts.append(_operator(item.name, item.prefix, k == 0, k == len(items) - 1))
        else:
            parts.append(mathml(item))
    return "".join(parts)


def spaced(left: Formula, right: Formula) -> bool:
    """Whether two factors need room between them to be told apart: log t, T min, kappa 10."""
    if isinstance(left, Operator) or isinstance(right, Operator):
        return False
    if isinstance(right, Number) or _named(right):
        return True
    applied = isinstance(right, Fenced) and right.kind != "|"
    return _named(left) and not isinstance(left, Row) and not applied


def _named(formula: Formula) -> bool:
    match formula:
        case Scripts(base):
            return _named(base)
        case Row(items):
            return bool(items) and _named(items[0])
    return isinstance(formula, Name) or formula == Symbol("expectation")


def _power(text: str, plain: Callable[[str], str], raised: Callable[[str, str], str], minus: str) -> str:
    """A number; 2e-3 as 2 x 10^-3."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return plain(text)
    digits = exponent.lstrip("+-").lstrip("0") or "0"
    sign = minus if exponent.startswith("-") else ""
    grouped = f"<mrow>{sign}{plain(digits)}</mrow>" if minus == _MINUS else f"{sign}{plain(digits)}"
    power = raised(plain("10"), grouped)
    times = '<mo lspace="0.15em" rspace="0.15em">·</mo>' if minus == _MINUS else r" \cdot "
    return power if mantissa == "1" else f"{plain(mantissa)}{times}{power}"


def latex(formula: Formula) -> str:
    """The formula as LaTeX of mathematics mode."""
    match formula:
        case Symbol(name):
            return (GREEK.get(name) or OTHERS.get(name) or (name, name))[1]
        case Name(text):
            return rf"\mathrm{{{text}}}"  # GitHub refuses \operatorname
        case Number(text):
            return _power(text, str, lambda base, power: f"{base}^{{{power}}}", "-")
        case Operator(name, prefix):
            sign = OPERATORS[name][1]
            return sign if prefix else f"{sign} " if name == "," else f" {sign} "
        case Row(items):
            return _latex_row(items)
        case Scripts(base, below, above):
            lower = f"_{{{latex(below)}}}" if below else ""
            return f"{latex(base)}{lower}" + (f"^{{{latex(above)}}}" if above else "")
        case Accent(base, accent):
            return f"{ACCENTS[accent][1]}{{{latex(base)}}}"
        case Fraction(above, below):
            return rf"\frac{{{latex(above)}}}{{{latex(below)}}}"
        case Root(body):
            return rf"\sqrt{{{latex(body)}}}"
        case Fenced(kind, body):
            left, right = _LATEX_FENCES.get(kind) or FENCES[kind]
            return rf"\left{left}{latex(body)}\right{right}"


_COMMAND = re.compile(r"\\[A-Za-z]+$")  # it would take in the letter that follows


def _latex_row(items: Sequence[Formula]) -> str:
    found = ""
    for k, item in enumerate(items):
        room = r"\," if k and spaced(items[k - 1], item) else ""
        text = latex(item)
        apart = " " if _COMMAND.search(found) and text[:1].isalpha() else ""
        found += (room or apart) + text
    return found
