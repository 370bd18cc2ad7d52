"""Checks of arguments, each answered in one sentence: what was expected and what came."""

from __future__ import annotations

import math
import operator
from typing import TypeGuard

import numpy as np

_LONGEST = 200  # characters of a value that a sentence shows


def integer(name: str, value: object, *, least: int, otherwise: str = "") -> int:
    """The value as an int >= least; integers of numpy and torch pass, True and 2.0 do not. Raises ValueError.

    >>> integer("cg_steps", -1, least=0)
    Traceback (most recent call last):
        ...
    ValueError: expected cg_steps an integer >= 0, got -1
    """
    try:
        found = least - 1 if is_truth(value) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):  # a tensor on the meta device has no value
        found = least - 1
    if not least <= found < 2**63:
        raise ValueError(f"expected {name} {otherwise}an integer >= {least}, got {shown(value)}")
    return found


def positive(name: str, value: object) -> None:
    """Raise ValueError unless the value is a finite number > 0; numpy's numbers pass, True and "1" do not."""
    if not is_finite(value) or not value > 0:
        raise ValueError(f"expected {name} a finite number > 0, got {shown(value)}")


def non_negative(name: str, value: object) -> None:
    """Raise ValueError unless the value is a finite number >= 0, with the types of `positive`."""
    if not is_finite(value) or not value >= 0:
        raise ValueError(f"expected {name} a finite number >= 0, got {shown(value)}")


def share(name: str, value: object) -> None:
    """Raise ValueError unless the value is a number in (0, 1], with the types of `positive`."""
    if not is_finite(value) or not 0 < value <= 1:
        raise ValueError(f"expected {name} a number in (0, 1], got {shown(value)}")


def truth(name: str, value: object) -> None:
    """Raise ValueError unless the value is True or False: 0, "no" and an empty list are not meant."""
    if not isinstance(value, bool):
        raise ValueError(f"expected {name} True or False, got {shown(value)}")


def capable(name: str, value: object, *members: str) -> None:
    """Raise TypeError unless the value, no class, has all these methods.

    >>> capable("linear_solver", 3, "solve")
    Traceback (most recent call last):
        ...
    TypeError: expected linear_solver an object with solve, got 3
    """
    if isinstance(value, type) or not all(callable(getattr(value, member, None)) for member in members):
        raise TypeError(f"expected {name} an object with {', '.join(members)}, got {shown(value)}")


def shown(value: object) -> str:
    """The value as it is written, on one line, which is cut where it is long."""
    try:
        written = " ".join(repr(value).split())
    except ValueError:  # Python writes no integers of thousands of digits
        written = f"an {type(value).__name__} of more digits than can be shown"
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}..."


def is_finite(value: object) -> TypeGuard[float]:
    """Whether the value is a finite number of Python or numpy, of the size of floats; True is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_truth(value: object) -> bool:
    """Whether the value is True or False, also of numpy or in a tensor."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
