"""`python -m paper_checks.methods_table > docs/methods.md`: what every method of the catalogue declares, as a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from convergence.catalogue import METHODS
from convergence.oracle.parts import CALLS

# Field of a method -> its symbol, in the order of the formulas
SYMBOLS = {"lower_steps": "K", "cg_steps": "N", "terms": "Q", "size": "q"}
_AT = {"lower_steps": 7, "cg_steps": 5, "terms": 11, "size": 13}  # where the formulas are read off

HEAD = """# The methods

Written by `python -m paper_checks.methods_table`; a test holds it equal to what the classes declare
([test_methods_table.py](../tests/paper_checks/test_methods_table.py)). Each entry is held against a measurement:
calls and memory by the [contract tests](../tests/convergence/methods/test_contract.py), the bias by
[method_bias](../paper_checks/method_bias.py), rates by [method_rates](../paper_checks/method_rates.py), what a method
attains for its calls by [method_comparison](../paper_checks/method_comparison.py). To add a method: a frozen
dataclass with `needs` and `declared` in [convergence/methods/](../convergence/methods), and one line in
[catalogue.py](../convergence/catalogue.py).

Calls are those of one task and upper iteration, the second: K lower steps, N steps of CG, Q terms of a series,
q entries of θ (SRBA begins each period with one call of each kind on the whole sums). HVP: a product with ∂²g/∂θ²;
cross: one with ∂²g/∂φ∂θ. Memory: bytes of one iteration over K. Exact: φ tends to a zero of ∇Φ with all tasks, exact
objectives and constant small steps. Rates r: the mean of ‖∇Φ‖² over T iterates is O(T^−r), in that setting and with
noise of fixed variance; "–" where the method has no such limit or its source no such theorem.
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
    titles = ("method", "∇θ g", "HVP", "cross", "∇f", "memory", "exact", "r", "r, noise", "bias", "needs", "source")
    rows = [titles, tuple("---" for _ in titles), *map(_row, METHODS.values())]
    return HEAD + "\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(make: Callable[..., Any]) -> tuple[str, ...]:
    says = make.declared
    fields = [name for name in SYMBOLS if name in inspect.signature(make).parameters]

    def method(at: dict[str, int]) -> Any:
        return make(**at, upper_step_size=1.0)

    def count(at: dict[str, int], call: str) -> int:
        declared = method(at).declared_calls
        later = {"iteration": 1} if "iteration" in inspect.signature(declared).parameters else {}
        return declared(1, **later)[call]

    calls = [formula(partial(count, call=call), fields) for call in CALLS]
    needs = [need.what for need in method({name: _AT[name] for name in fields}).needs]
    return (
        says.title,
        *calls,
        says.memory,
        "yes" if says.exact else "no",
        _rate(says.rate),
        _rate(says.noisy_rate),
        _cell(says.bias) or "none",
        "; ".join(map(_cell, needs)) or "nothing",
        _cell(says.source),
    )


def _rate(rate: float | None) -> str:
    return "–" if rate is None else str(Fraction(rate).limit_denominator(20))


def _cell(text: str) -> str:
    """What the renderer of the page would take for markup is written out."""
    return text.replace("|", r"\|").replace("_", r"\_").replace("*", r"\*").replace("^", r"\^")


if __name__ == "__main__":
    print(table(), end="")
