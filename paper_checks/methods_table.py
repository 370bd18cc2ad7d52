"""`python -m paper_checks.methods_table > docs/methods.md`: what every method of the catalogue declares, as a table."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from convergence.catalogue import METHODS
from convergence.oracle.parts import CALLS

# Field of a method -> its symbol, in the order of the formulas
SYMBOLS = {"lower_steps": "K", "cg_steps": "N", "terms": "Q", "size": "q"}
_AT = {"lower_steps": 7, "cg_steps": 5, "terms": 11, "size": 13}  # where the formulas are read off

_SYMBOLS = {"varrho": "ϱ", "theta": "θ", "phi": "φ", "Phi": "Φ", "chi": "χ", "eta": "η", "lambda": "λ", "grad ": "∇"}

HEAD = """# The methods

Written by `python -m paper_checks.methods_table`; a test holds it equal to what the classes declare
([test_methods_table.py](../tests/paper_checks/test_methods_table.py)). Each entry is held against a measurement:
calls and memory by the [contract tests](../tests/convergence/methods/test_contract.py), the bias by
[method_bias](../paper_checks/method_bias.py), rates by [method_rates](../paper_checks/method_rates.py), what a method
attains for its calls by [method_comparison](../paper_checks/method_comparison.py). To add a method: a frozen
dataclass with `needs` and `declared` in [convergence/methods/](../convergence/methods), and one line in
[catalogue.py](../convergence/catalogue.py).
"""

COSTS = """
## Costs and rates

Calls are those of one task and upper iteration, the second: K lower steps, N steps of CG, Q terms of a series,
q entries of θ (SRBA begins each period with one call of each kind on the whole sums). HVP: a product with ∂²g/∂θ²;
cross: one with ∂²g/∂φ∂θ. Memory: bytes of one iteration over K. Exact: φ tends to a zero of ∇Φ with all tasks, exact
objectives and constant small steps. Rates r: the mean of ‖∇Φ‖² over T iterates is O(T<sup>−r</sup>), in that setting
and with noise of fixed variance; "–" where the method has no such limit or its source no such theorem.

"""

BIASES = """
## Bias, needs, sources

How far E d is from ∇Φ, in the notation of [the theory](theory.md): ϱ the contraction of a lower step, χ<sub>N</sub>
that of N steps of CG, H = ∂²g/∂θ², η the step of a series. What a problem must have: ∂²g/∂θ², second derivatives that
tell how θ∗ moves; a finite pool of tasks; objectives that are finite sums, cut into blocks; a start θ<sub>0</sub> that
depends on φ, is φ, or depends on some tensors of φ and not on others.

"""


def formula(count: Callable[[dict[str, int]], int], fields: list[str]) -> str:
    """A count that is affine in these fields, as text. Raises ValueError where it is not.

    >>> formula(lambda at: 2 * at["lower_steps"] + 3, ["lower_steps"])
    '2K + 3'
    """
    here = {name: _AT[name] for name in fields}
    slopes = {name: count(here | {name: here[name] + 1}) - count(here) for name in fields}
    constant = count(here) - sum(slopes[name] * here[name] for name in fields)
    elsewhere = {name: 3 * value + 1 for name, value in here.items()}
    if count(elsewhere) != constant + sum(slopes[name] * elsewhere[name] for name in fields):
        raise ValueError(f"expected a count that is affine in {', '.join(fields)}, got one that is not")
    parts = [f"{'' if slopes[name] == 1 else slopes[name]}{SYMBOLS[name]}" for name in fields if slopes[name]]
    if not parts:
        return str(constant)
    tail = f" {'+' if constant > 0 else '−'} {abs(constant)}" if constant else ""
    return " + ".join(parts) + tail


def table() -> str:
    """The page."""
    costs = _rows(("method", "∇<sub>θ</sub>g", "HVP", "cross", "∇f", "memory", "exact", "r", "r, noise"), _costs)
    biases = _rows(("method", "off ∇Φ by", "needs", "source"), _bias)
    return HEAD + COSTS + costs + BIASES + biases


def _rows(titles: tuple[str, ...], row: Callable[[Callable[..., Any]], tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *map(row, METHODS.values())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _fields(make: Callable[..., Any]) -> list[str]:
    return [name for name in SYMBOLS if name in inspect.signature(make).parameters]


def _method(make: Callable[..., Any], at: dict[str, int]) -> Any:
    return make(**at, upper_step_size=1.0)


def _costs(make: Callable[..., Any]) -> tuple[str, ...]:
    says, fields = make.declared, _fields(make)

    def count(at: dict[str, int], call: str) -> int:
        declared = _method(make, at).declared_calls
        later = {"iteration": 1} if "iteration" in inspect.signature(declared).parameters else {}
        return declared(1, **later)[call]

    calls = [formula(partial(count, call=call), fields) for call in CALLS]
    exact = "yes" if says.exact else "no"
    return says.title, *calls, says.memory, exact, _rate(says.rate), _rate(says.noisy_rate)


def _bias(make: Callable[..., Any]) -> tuple[str, ...]:
    says = make.declared
    needs = [need.short for need in _method(make, {name: _AT[name] for name in _fields(make)}).needs]
    entries = (says.bias or "nothing", ", ".join(needs) or "nothing", says.source)
    return says.title, *map(typeset, entries)


def _rate(rate: float | None) -> str:
    return "–" if rate is None else str(Fraction(rate).limit_denominator(20))


def typeset(text: str) -> str:
    """Formulas in ASCII as Markdown shows them: Greek letters, indices, exponents, a link to the theory.

    >>> typeset("K varrho^K and chi_N (docs/theory.md S1); (I - eta H)^(Q+1), d2g/dtheta2 at theta*")
    'K ϱ<sup>K</sup> and χ<sub>N</sub> ([S1](theory.md)); (I − η H)<sup>Q+1</sup>, ∂²g/∂θ² at θ∗'
    """
    text = re.sub(r"\bd2g/d(\w+?)2\b", r"∂²g/∂\1²", text)
    text = re.sub(r"docs/theory\.md (S\w+(?:, S\w+)*)", r"[\1](theory.md)", text)
    for name, symbol in _SYMBOLS.items():
        text = re.sub(rf"(?<![A-Za-z]){name}(?![A-Za-z])" if name.isalpha() else rf"\b{name}", symbol, text)
    text = re.sub(r"_(?:\{([^}]*)\}|(\w))", lambda index: f"<sub>{index[1] or index[2]}</sub>", text)
    text = re.sub(r"\^(?:\(([^)]*)\)|(-?\w+))", lambda power: f"<sup>{power[1] or power[2]}</sup>", text)
    text = re.sub(r"(?<![A-Za-z])-(?=[ \d])", "−", text)
    return text.replace("|", r"\|").replace("*", "∗")


if __name__ == "__main__":
    print(table(), end="")
