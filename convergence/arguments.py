"""Checks of arguments, each answered in one sentence: what was expected and what came."""

from __future__ import annotations

import math
import numbers
import operator
from typing import TypeGuard


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
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"expected {name} a finite number > 0, got {value!r}")


def non_negative(name: str, value: object) -> None:
    """Raise ValueError unless the value is a finite number >= 0, with the types of `positive`."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"expected {name} a finite number >= 0, got {value!r}")


def share(name: str, value: object) -> None:
    """Raise ValueError unless the value is a number in (0, 1], with the types of `positive`."""
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"expected {name} a number in (0, 1], got {value!r}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
