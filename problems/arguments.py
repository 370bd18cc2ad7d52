"""Checks of arguments, each answered in one sentence: what was expected and what came."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeGuard, TypeVar

import numpy as np
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST = 200  # characters of a value that a sentence shows
_TOO_MUCH = ("can't allocate memory", "Storage size calculation overflowed", "is too big", "Maximum allowed dimension")


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


def instance(name: str, value: object, kind: type) -> None:
    """Raise TypeError unless the value is an instance of the class.

    >>> instance("tasks", 3, str)
    Traceback (most recent call last):
        ...
    TypeError: expected tasks a str, got 3
    """
    if not isinstance(value, kind):
        raise TypeError(f"expected {name} a {kind.__name__}, got {shown(value)}")


def room(what: str, count: int, each: int) -> None:
    """Raise ValueError where so many things of so many bytes each are more than this machine can hold.

    What is asked for by a slip of a few digits would else end the process, or keep it busy until it does.
    """
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if count * each > whole:
        raise ValueError(f"expected {what} that fit the {whole} bytes of this machine, got {count} of {each} bytes")


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


# ---- all arguments of a function at once, by their annotations


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """The function with arguments held against its annotations, where these are of the following.

    int             an integer >= 1, or >= 0 where it is called seed; given to the function as an int
    float, bool     a finite number, given as a float; True or False
    Sequence[float], tuple[float, float]   of finite numbers, one at least, or two
    Tensor, or a class of `problems`       an instance
    ... | None      None as well

    Raises ValueError and TypeError, also on sizes that are more than the machine can hold.

    >>> @checked
    ... def ones(size: int) -> list[int]:
    ...     return [1] * size
    >>> ones(2.0)
    Traceback (most recent call last):
        ...
    ValueError: expected size an integer >= 1, got 2.0
    """
    signature = inspect.signature(function)
    hints: dict[str, Any] = {}

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        if not hints:
            hints.update(typing.get_type_hints(function))  # now that all they name is defined
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"expected {function.__qualname__}{signature}, got it called with {error}") from error
        for name, value in bound.arguments.items():
            if name in hints:
                bound.arguments[name] = _argument(name, value, hints[name])
        try:
            return function(*bound.args, **bound.kwargs)
        except (MemoryError, RuntimeError, ValueError) as error:
            if not isinstance(error, MemoryError) and not any(said in str(error) for said in _TOO_MUCH):
                raise
            given = ", ".join(f"{name}={shown(value)}" for name, value in bound.arguments.items() if name in hints)
            raise ValueError(f"expected sizes that this machine can hold, got {given}") from error

    return wrapped


def _argument(name: str, value: Any, annotation: Any) -> Any:
    """The value, if it is of the annotation; integers of other types as ints."""
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType) and len(of) == 2 and of[1] is type(None):
        return None if value is None else _argument(name, value, of[0])
    if annotation is int:
        return integer(name, value, least=0 if name == "seed" else 1)
    if annotation is bool:
        truth(name, value)
    elif annotation is float:
        if not is_finite(value):
            raise ValueError(f"expected {name} a finite number, got {shown(value)}")
        return float(value)
    elif origin in (Sequence, tuple) and of[0] is float:
        if not (isinstance(value, (list, tuple)) and len(value) and all(map(is_finite, value))) or (
            origin is tuple and len(value) != len(of)
        ):
            count = f"{len(of)} finite numbers" if origin is tuple else "a list of finite numbers"
            raise ValueError(f"expected {name} {count}, got {shown(value)}")
    elif annotation is Tensor or getattr(annotation, "__module__", "").startswith("problems."):
        instance(name, value, annotation)
    return value
