"""Sentences in the notation of the docstrings, read into words and formulas.

A formula is what touches a Greek name, a single letter or a relation: "|grad Phi(phi_t)|^2 <= 2 V_0 / (beta T)". Names
in text (the article a, "the sum of ...") stay words, and so do labels such as (a), (2), S3a.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from paper_checks.report.formulas import (
    ACCENTS,
    GREEK,
    OPERATORS,
    RELATIONS,
    SUMS,
    Accent,
    Fenced,
    Formula,
    Fraction,
    Name,
    Number,
    Operator,
    Root,
    Row,
    Scripts,
    Symbol,
    width,
)

# Words that are names of functions where something follows that they can be applied to
FUNCTIONS = frozenset(
    ("min", "max", "mean", "sum", "sup", "log", "ln", "exp", "cos", "tr", "diag", "span", "ceil", "sqrt")
)
_LARGE = frozenset(("min", "max", "mean", "sum", "sup"))  # what follows is their argument, up to the next sum
_BETWEEN = (",", ";", "..", "...", "(x)", *RELATIONS, *SUMS)  # between terms
_NAMES = frozenset(("prox",))  # more than a letter, and yet a number
_LETTERS = frozenset(("word", "name", "number"))
_CITED = frozenset(("Lemma", "Theorem", "Proposition", "Algorithm", "Section"))
_SMALL = r"theta|phi"
_TOKEN = re.compile(
    rf"""
    (?P<code>`[^`]+`)
  | (?P<path>[\w./-]+\.(?:md|py|json|npz|html|png|svg)\b)
  | (?P<abbreviation>i\.i\.d\.|e\.g\.|i\.e\.|et\ al\.|[Cc]f\.|vs\.|Prop\.)
  | (?P<option>(?<!\S)--[a-z]+(?:-[a-z]+)*)
  | (?P<derivative>\bd2?[A-Za-z]+(?:_\w+)?/d(?:{_SMALL})(?:2|\ d(?:{_SMALL}))?)
  | (?P<second>\bd2(?=\ ?[A-Z]))
  | (?P<label>(?<=[(,\ ])\d[a-d](?=[).,;:\ ])(?!\ [-+*/^=<>]))
  | (?P<name>[^\W\d_]+\d\w*)
  | (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)
  | (?P<genitive>[^\W\d_]+'s\b)
  | (?P<word>[^\W\d_]+)
  | (?P<space>\s+)
  | (?P<mark><=|>=|!=|->|\+-|\.\.\.|\.\.|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", "<": ">"}


@dataclass
class Piece:
    """A word, a mark, a space, or a bracket with what is in it; `formula` where it has been read as one.

    state  True: part of a formula; False: text; None: what its neighbours are
    """

    kind: str
    text: str
    inner: list[Piece] = field(default_factory=list)
    formula: Formula | None = None
    state: bool | None = False

    @property
    def space(self) -> bool:
        """Whether it is white space."""
        return self.kind == "space"

    def is_mark(self, *texts: str) -> bool:
        """Whether it is one of these marks."""
        return self.kind == "mark" and self.text in texts


@lru_cache(maxsize=8192)  # the texts of claims stand on page after page
def read(sentence: str, *, stacked: bool = True) -> tuple[str | Row, ...]:
    """The sentence in order: text, and formulas between it. `...` in the text is code.

    stacked   ratios are fractions of one above the other, where they are not small
    """
    return tuple(_joined(_classified(_grouped(_tokens(sentence))), stacked=stacked))


def _tokens(sentence: str) -> list[Piece]:
    pieces = [Piece(str(found.lastgroup), found[0]) for found in _TOKEN.finditer(sentence)]
    return list(_split(pieces))


def _split(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """UU' and p'Hp: two letters at a transpose are two factors; identifiers_of_code are one piece."""
    k = 0
    while k < len(pieces):
        piece = pieces[k]
        after, before = pieces[k + 1 : k + 3], pieces[k - 1] if k else None
        if piece.kind == "word" and not _symbolic(piece.text):
            if after and after[0].is_mark("_") and len(after) > 1 and not piece.text.startswith(tuple(FUNCTIONS)):
                end = k + 1
                while end < len(pieces) and (pieces[end].kind in _LETTERS or pieces[end].is_mark("_")):
                    end += 1
                yield Piece("identifier", "".join(each.text for each in pieces[k:end]))
                k = end
                continue
            if len(piece.text) == 2 and any(each and each.is_mark("'") for each in (before, *after[:1])):
                yield from (Piece("word", letter) for letter in piece.text)
                k += 1
                continue
        yield piece
        k += 1


def _symbolic(word: str) -> bool:
    return len(word) == 1 or word in GREEK or word in ("grad", "infinity") or word in FUNCTIONS or word in _NAMES


def _grouped(tokens: Sequence[Piece]) -> list[Piece]:
    """Brackets and bars with their contents as one piece each; what has no partner is a mark."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for k, token in enumerate(tokens):
        if token.is_mark("|"):
            if opened and tokens[opened[-1]].text == "|":
                partner[opened.pop()] = k
            else:
                opened.append(k)
        elif token.is_mark("(", "[", "{") or (token.is_mark("<") and _opens(tokens, k)):
            opened.append(k)
        elif token.is_mark(")", "]", "}") or (token.is_mark(">") and not tokens[k - 1].space):
            while opened and tokens[opened[-1]].text in "|<" and tokens[opened[-1]].text + token.text != "<>":
                opened.pop()
            if opened and _CLOSING[tokens[opened[-1]].text] == token.text:
                partner[opened.pop()] = k

    def between(start: int, stop: int) -> list[Piece]:
        pieces, k = [], start
        while k < stop:
            if k in partner and _is_tensor_sign(tokens, k):
                pieces.append(Piece("mark", "(x)"))
                k = partner[k]
            elif k in partner:
                pieces.append(Piece("group", tokens[k].text, between(k + 1, partner[k])))
                k = partner[k]
            else:
                pieces.append(tokens[k])
            k += 1
        return pieces

    return between(0, len(tokens))


def _opens(tokens: Sequence[Piece], k: int) -> bool:
    """Whether the sign at k begins an inner product <u, v>: relations have room on both sides, or on none."""
    before = k == 0 or tokens[k - 1].space or tokens[k - 1].is_mark("(", "[")
    return before and _tight(tokens, k, 1)


def _is_tensor_sign(tokens: Sequence[Piece], k: int) -> bool:
    around = "".join(token.text for token in tokens[max(k - 1, 0) : k + 4])
    return around == " (x) "


# ---- what is a formula


def _classified(pieces: list[Piece], *, certain: bool = False) -> list[Piece]:
    """The pieces with scripts attached and each one's state settled; `certain`: all of it is a formula."""
    for piece in pieces:
        if piece.kind == "group":
            piece.inner = _classified(piece.inner, certain=certain or piece.text == "|")
    pieces = _scripted(pieces)
    for k, piece in enumerate(pieces):
        piece.state = True if certain else _state(pieces, k)
    for _ in range(2):  # a number beside an operator beside a letter
        for k in (*range(len(pieces)), *reversed(range(len(pieces)))):
            if pieces[k].state is None and _drawn_in(pieces, k):
                pieces[k].state = True
    for piece in pieces:
        piece.state = bool(piece.state)
    return pieces


def _beside(pieces: Sequence[Piece], k: int, step: int) -> Piece | None:
    """The next piece that is no space."""
    k += step
    while 0 <= k < len(pieces) and pieces[k].space:
        k += step
    return pieces[k] if 0 <= k < len(pieces) else None


def _tight(pieces: Sequence[Piece], k: int, step: int) -> bool:
    return 0 <= k + step < len(pieces) and not pieces[k + step].space


def _state(pieces: Sequence[Piece], k: int) -> bool | None:
    """Whether a piece is certainly a formula, certainly text, or what its neighbours make of it."""
    piece = pieces[k]
    left, right = _beside(pieces, k, -1), _beside(pieces, k, 1)
    match piece.kind:
        case "scripted" | "derivative" | "second":
            return True
        case "number":
            return True if "e" in piece.text else None
        case "word":
            return _word_state(pieces, k, left, right)
        case "group":
            return _group_state(pieces, k, left)
        case "mark" if piece.text in RELATIONS or piece.text in ("(x)", "+-"):
            return True
        case "mark" if piece.text in SUMS or piece.text in ("/", "..", "..."):
            return None
    return False


def _word_state(pieces: Sequence[Piece], k: int, left: Piece | None, right: Piece | None) -> bool | None:
    word = pieces[k].text
    if word in ("a", "A"):
        marks = (*RELATIONS, "+", "/", *(["-"] if not _tight(pieces, k, 1) else []))
        listed = right is not None and right.is_mark(",") and word == "A"
        bound = left is not None and left.is_mark(*RELATIONS, "+", "/")
        return listed or bound or (right is not None and right.is_mark(*marks))
    if word == "s" and left is not None and left.kind == "number" and not _operator_like(right):
        return False  # seconds
    if word == "x" and all(each is not None and each.kind == "number" for each in (left, right)):
        return True
    if word in FUNCTIONS:
        if right is None or right.is_mark(",", ".", ")"):
            return False
        applied = right.kind == "group" and (right.text == "|" or _tight(pieces, k, 1) or right.text == "[")
        return applied or right.kind in ("scripted", "derivative") or _is_symbol(right, word)
    return _symbolic(word)


def _is_symbol(piece: Piece, function: str) -> bool:
    if piece.kind == "number":
        return function in ("sqrt", "log", "ln")
    return piece.kind == "word" and piece.text not in ("a", "A", "I") and _symbolic(piece.text)


def _operator_like(piece: Piece | None) -> bool:
    return piece is not None and (piece.is_mark("+", "-", "/", ")", *RELATIONS) or piece.kind == "group")


def _group_state(pieces: Sequence[Piece], k: int, left: Piece | None) -> bool:
    """Bars always; a bracket of formulas alone; what is applied to a symbol; no labels, no years, no remarks."""
    piece = pieces[k]
    inner = [each for each in piece.inner if not each.space]
    applied = _tight(pieces, k, -1) and pieces[k - 1].state is not False and pieces[k - 1].kind != "mark"
    if piece.text == "|":
        return bool(inner)
    listed = all(each.state or each.kind == "number" or each.is_mark(",", "..", "...", ";") for each in inner)
    if not inner or not listed:
        return False
    if applied:
        return True
    if len(inner) == 1 and (inner[0].kind == "number" or (inner[0].kind == "word" and inner[0].text in "abcdefgh")):
        inner[0].state = False  # (1), (a)
        return False
    tuple_of_numbers = len(inner) > 1 and left is not None and (left.is_mark(*RELATIONS, ",") or piece.text == "[")
    return any(each.state for each in inner) or tuple_of_numbers


def _drawn_in(pieces: Sequence[Piece], k: int) -> bool:
    """Whether a number, a sum sign, a slash or dots belong to the formula beside them."""
    piece = pieces[k]
    left, right = _beside(pieces, k, -1), _beside(pieces, k, 1)
    tight = _tight(pieces, k, -1), _tight(pieces, k, 1)

    def formula(other: Piece | None) -> bool:
        return other is not None and bool(other.state)

    def operand(other: Piece | None) -> bool:
        return formula(other) or (other is not None and other.kind == "number")

    if piece.kind == "number":
        signs = (*RELATIONS, *SUMS, "/", "..")
        signed = any(each is not None and each.is_mark(*signs) and each.state for each in (left, right))
        cited = left is not None and left.kind == "word" and left.text in _CITED
        product = formula(right) and not cited
        return signed or product or (formula(left) and left is not None and left.kind in ("word", "scripted"))
    if piece.text in SUMS and not tight[0] and tight[1]:
        return operand(right)  # a sign
    if piece.text in ("/", *SUMS):
        if tight[0] != tight[1]:
            return False
        return operand(left) and (operand(right) or (right is not None and right.is_mark("...")))
    return operand(left) and operand(right)  # dots


# ---- scripts: what stands tightly behind a symbol


def _scripted(pieces: list[Piece]) -> list[Piece]:
    """theta_i*, phi~, H_K^-1, J_i' as one piece each."""
    found: list[Piece] = []
    k = 0
    while k < len(pieces):
        piece = pieces[k]
        k += 1
        if not _may_carry(piece, pieces[k : k + 1]):
            found.append(piece)
            continue
        accent, below, above, end = _scripts(pieces, k)
        if end == k:
            found.append(piece)
            continue
        base = _leaf(piece) if piece.kind != "group" else _fenced(piece)
        base = Accent(base, accent) if accent else base
        formula = Scripts(base, _row_or_none(below), _row_or_none(above)) if below or above else base
        found.append(Piece("scripted", piece.text if piece.kind != "group" else "", formula=formula, inner=[piece]))
        k = end
    return found


def _may_carry(piece: Piece, after: Sequence[Piece]) -> bool:
    if piece.kind == "word":
        power = bool(after) and after[0].is_mark("^")
        return _symbolic(piece.text) or power
    if piece.kind == "number":
        return bool(after) and after[0].is_mark("^")
    return piece.kind in ("group", "second")


def _scripts(pieces: Sequence[Piece], k: int) -> tuple[str, list[Formula], list[Formula], int]:
    """Accent, below, above, and where they end."""
    accent, below, above = "", [], []  # type: str, list[Formula], list[Formula]
    while k < len(pieces):
        mark, after = pieces[k], pieces[k + 1] if k + 1 < len(pieces) else None
        if mark.is_mark("'"):
            above.append(Symbol("prime"))
        elif mark.is_mark("~"):
            accent = "tilde"
        elif mark.is_mark("*") and (after is None or after.kind not in ("word", "number")):
            above.append(Symbol("star"))
        elif mark.is_mark("_") and after is not None and after.is_mark("*"):
            below.append(Symbol("star"))
            k += 1
        elif mark.is_mark("_", "^") and (script := _script(pieces, k + 1, mark.text)) is not None:
            items, k = script
            if mark.text == "_" and len(items) == 1 and isinstance(items[0], Name) and items[0].text in ACCENTS:
                accent = items[0].text
            else:
                (below if mark.text == "_" else above).extend(items)
            continue
        else:
            break
        k += 1
    return accent, below, above, k


def _script(pieces: Sequence[Piece], k: int, mark: str) -> tuple[list[Formula], int] | None:
    """The formulas of one script and where it ends: {t+1}, (K-1), i,K, 2N, -1/2."""
    if k >= len(pieces):
        return None
    if pieces[k].kind == "group" and pieces[k].text in "{(":
        inner = _classified([_rebuilt(each) for each in pieces[k].inner], certain=True)
        return [_expression(inner, nested=True)], k + 1
    if pieces[k].is_mark("*"):
        return [Symbol("star")], k + 1
    end = k + 1 if pieces[k].is_mark("-") else k
    taken = end
    while taken < len(pieces) and pieces[taken].kind in ("word", "number"):
        taken += 1
        listed = pieces[taken : taken + 2]
        if mark == "_" and len(listed) == 2 and listed[0].is_mark(",") and listed[1].kind in ("word", "number"):
            taken += 1
        ratio = mark == "^" and end > k and len(listed) == 2 and listed[0].is_mark("/")
        if ratio and listed[1].kind == "number":
            taken += 2
            break
    if taken == end:
        return None
    items: list[Formula] = [_leaf(each) for each in pieces[end:taken]]
    return [*([Operator("-", prefix=True)] if end > k else []), *items], taken


def _rebuilt(piece: Piece) -> Piece:
    """The piece before it was read as text or formula."""
    return piece.inner[0] if piece.kind == "scripted" and piece.formula is None else piece


# ---- from pieces to formulas


def _leaf(piece: Piece) -> Formula:
    """One piece as a formula."""
    text = piece.text
    if piece.formula is not None:
        return piece.formula
    match piece.kind:
        case "number":
            return Number(text)
        case "derivative":
            return _derivative(text)
        case "second":
            return Scripts(Symbol("partial"), above=Number("2"))
        case "group":
            return _fenced(piece)
        case "mark":
            return Operator(text) if text in OPERATORS else Name(text)
    if text in GREEK or text in ("grad", "infinity", "sum"):
        return Symbol(text)
    if text == "in":
        return Operator("in")
    return Symbol(text) if len(text) == 1 else Name(text)


def _derivative(text: str) -> Fraction:
    """d2g_i/dphi dtheta, d2g/dtheta2, dtheta_0/dphi."""
    what, by = text.split("/")
    second = what.startswith("d2")
    base, _, index = what[2 if second else 1 :].partition("_")
    of = Scripts(_leaf(Piece("word", base)), _leaf(Piece("word", index))) if index else _leaf(Piece("word", base))
    sign: Formula = Symbol("partial")
    variables = [each.removeprefix("d") for each in by.split()]
    below: list[Formula] = []
    for variable in variables:
        symbol: Formula = Symbol(variable.rstrip("2"))
        below += [sign, Scripts(symbol, above=Number("2")) if variable.endswith("2") else symbol]
    return Fraction(Row((Scripts(sign, above=Number("2")) if second else sign, of)), Row(tuple(below)))


def _row_or_none(items: Sequence[Formula]) -> Formula | None:
    return (items[0] if len(items) == 1 else Row(tuple(items))) if items else None


def _fenced(piece: Piece) -> Formula:
    return Fenced(piece.text, _expression(piece.inner))


def _expression(pieces: Sequence[Piece], *, nested: bool = False) -> Formula:
    items = _items(pieces, nested=nested)
    return items[0] if len(items) == 1 else Row(tuple(items))


def _items(pieces: Sequence[Piece], *, nested: bool = False) -> list[Formula]:
    """Terms and the operators between them; `nested`: in a script or a fraction, where ratios are not stacked."""
    items: list[Formula] = []
    term: list[Piece] = []
    for piece in pieces:
        if piece.is_mark(*_BETWEEN) or (piece.kind == "word" and piece.text == "in"):
            alone = all(each.space for each in term) and (not items or isinstance(items[-1], Operator))
            items += _term(term, nested)
            term = []
            prefix = alone and piece.text in SUMS
            items.append(Name(";") if piece.is_mark(";") else Operator(piece.text, prefix=prefix))
        else:
            term.append(piece)
    return [*items, *_term(term, nested)]


def _term(pieces: Sequence[Piece], nested: bool) -> list[Formula]:
    """A product without sums: factors, and ratios of what stands before and behind a slash."""
    factors: list[Formula] = []
    start = 0  # where the numerator of a ratio begins: behind the last min, sum, mean
    k = 0
    while k < len(pieces):
        piece = pieces[k]
        if piece.space:
            k += 1
            continue
        if piece.is_mark("/"):
            k = _ratio(pieces, k, factors, start, nested)
            continue
        factor, k = _factor(pieces, k, nested)
        factors.append(factor)
        if _large(piece) or isinstance(factor, Operator) or factor == Symbol("expectation"):
            start = len(factors)
    return factors


def _large(piece: Piece) -> bool:
    return piece.text in _LARGE and piece.kind in ("word", "scripted")


def _ratio(pieces: Sequence[Piece], k: int, factors: list[Formula], start: int, nested: bool) -> int:
    """Put what stands before and behind the slash at k into the last factor; tight ones, as 1/T, stay on the line."""
    tight = _tight(pieces, k, -1) and _tight(pieces, k, 1)
    after = k + 1
    while after < len(pieces) and pieces[after].space:
        after += 1
    if after == len(pieces) or len(factors) == start:
        factors.append(Operator("/"))
        return k + 1
    below, end = _factor(pieces, after, nested=True)
    above = factors[start:]
    while any(isinstance(factor, Fenced) and factor.kind == "[" for factor in above[:-1]):
        above = above[1:]  # [...] a / b: the bracket stays whole
    last = all(each.space for each in pieces[end:])
    small = last and len(above) == 1 and not isinstance(above[0], Fenced | Row) and width(above[0]) + width(below) < 5
    if tight or nested or (small and not isinstance(below, Fenced)):
        factors += [Operator("/"), below]
        return end
    if isinstance(below, Fenced) and below.kind == "(":
        below = _expression(pieces[after].inner, nested=True)
    del factors[-len(above) :]
    before = _beside(pieces, k, -1)
    if len(above) == 1 and before is not None and before.kind == "group" and before.text == "(":
        above = [_expression(before.inner, nested=True)]
    factors.append(Fraction(above[0] if len(above) == 1 else Row(tuple(above)), below))
    return end


def _factor(pieces: Sequence[Piece], k: int, nested: bool) -> tuple[Formula, int]:
    """One factor, with what it is applied to, and where it ends."""
    piece = pieces[k]
    after = pieces[k + 1] if k + 1 < len(pieces) else None
    if piece.kind == "word" and piece.text in ("sqrt", "ceil") and after is not None:
        if after.kind == "group":
            body = _expression(after.inner, nested=nested)
            return (Root(body) if piece.text == "sqrt" else Fenced("ceil", body)), k + 2
        if piece.text == "sqrt" and k + 2 < len(pieces):
            body, end = _factor(pieces, k + 2, nested)
            return Root(body), end
    if piece.kind == "word" and piece.text == "x" and _between_numbers(pieces, k):
        return Operator("x"), k + 1
    if piece.kind == "word" and piece.text == "E" and after is not None and after.space and k + 2 < len(pieces):
        return Symbol("expectation"), k + 1
    head: Formula = _nested_fence(piece) if nested and piece.kind == "group" else _leaf(piece)
    named = piece.text in FUNCTIONS and piece.text not in _LARGE
    if piece.kind in ("word", "scripted") and after is not None and _applied(after):
        argument = _nested_fence(after) if nested else _leaf(after)
        return Row((head, argument)), k + 2
    if named and piece.kind == "word" and after is not None and after.space and k + 2 < len(pieces):
        argument, end = _factor(pieces, k + 2, nested)
        return Row((head, argument)), end
    return head, k + 1


def _applied(after: Piece) -> bool:
    """w(h), x^2(t): a bracket directly behind a symbol, also one that carries scripts itself: h(x)^2."""
    group = after.inner[0] if after.kind == "scripted" and after.inner else after
    return group.kind == "group" and group.text == "("


def _between_numbers(pieces: Sequence[Piece], k: int) -> bool:
    return all(each is not None and each.kind == "number" for each in (_beside(pieces, k, -1), _beside(pieces, k, 1)))


def _nested_fence(piece: Piece) -> Formula:
    if piece.kind == "group" and piece.formula is None:
        return Fenced(piece.text, _expression(piece.inner, nested=True))
    return _leaf(piece)


# ---- runs


def _joined(pieces: Sequence[Piece], *, stacked: bool) -> Iterator[str | Row]:
    """Text and formulas in turn; a formula reaches from the first to the last of pieces that are formulas."""
    text: list[str] = []
    k = 0
    while k < len(pieces):
        piece = pieces[k]
        if piece.state:
            end = _end(pieces, k)
            yield from _flushed(text)
            yield Row(tuple(_items(pieces[k:end], nested=not stacked)))
            k = end
            continue
        if piece.kind == "group":
            yield from _flushed(text, piece.text)
            yield from _joined(piece.inner, stacked=stacked)
            text.append(_CLOSING[piece.text])
        else:
            text.append(piece.text)
        k += 1
    yield from _flushed(text)


def _end(pieces: Sequence[Piece], start: int) -> int:
    """Where the formula that begins at `start` ends: before text, and before and behind a remark such as (N = q)."""
    end = start + 1
    for k in range(start + 1, len(pieces)):
        if pieces[k].space:
            continue
        apart = pieces[k - 1].space
        if not pieces[k].state or (apart and (_is_remark(pieces[k]) or _is_compound(pieces, k))):
            break
        if apart and k >= 2 and _is_remark(pieces[k - 2]) and pieces[k].kind != "mark":
            break
        end = k + 1
    return end


def _is_remark(piece: Piece) -> bool:
    return piece.kind == "group" and piece.text == "(" and any(each.is_mark(*RELATIONS) for each in piece.inner)


def _is_compound(pieces: Sequence[Piece], k: int) -> bool:
    """mu-strongly: a symbol that is the beginning of a word."""
    after = pieces[k + 1 : k + 3]
    return len(after) == 2 and after[0].is_mark("-") and not after[0].state and after[1].kind == "word"


def _flushed(text: list[str], more: str = "") -> Iterator[str]:
    whole = "".join(text) + more
    text.clear()
    if whole:
        yield whole
