"""Checks of arguments, each answered in one sentence: what was expected and what came."""

from __future__ import annotations

import math
import numbers
import operator


def integer(name: str, value: object, *, least: int, otherwise: str = "") -> int:
    """The value as an int >= least; numpy's integers pass, True and 2.0 do not. Raises ValueError.

    >>> integer("cg_steps", -1, least=0)
    Traceback (most recent call last):
        ...
    ValueError: expected cg_steps an integer >= 0, got -1
    """
    try:
        found = least - 1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = least - 1
    if not least <= found < 2**63:
        raise ValueError(f"expected {name} {otherwise}an integer >= {least}, got {value!r}")
    return found


def positive(name: str, value: object) -> None:
    """Raise ValueError unless the value is a finite number > 0; numpy's numbers pass, True and "1" do not."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or value <= 0 or not value < math.inf:
        raise ValueError(f"expected {name} a finite number > 0, got {value!r}")
