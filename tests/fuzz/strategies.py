"""Hostile values, by name, and what an annotation allows of them: without a look at how arguments are checked."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.ends import Case


class Named(NamedTuple):
    """A value, and what it is called: tensors and objects have no short repr that is the same each time."""

    name: str
    value: Any


def _named(*values: Any) -> list[Named]:
    return [Named(f"{type(value).__name__} {value!r}"[:80], value) for value in values]


PLAIN = _named(
    *(None, True, False, -1, 0, 1, 3, 2.0, 2.5, 0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e308),
    *(10**18, 2**48, 2**63, -(2**63), 10**400, "", "3", "1e3", "nan", "é\n", "-rf", "0" * 300, b"3", [], [1], (), {}),
    *({"a": 1}, {1}, 1 + 2j, range(3), Decimal("0.5"), Fraction(1, 2), slice(2), ..., int, NotImplemented),
)
PLAIN += [Named("object()", object()), Named("a function", lambda *_: 1), Named("a generator", (x for x in ()))]
ARRAYS = [
    *_named(np.int64(3), np.float32(0.5), np.float64(math.nan), np.bool_(True), np.str_("a"), np.datetime64("2020")),
    *_named(np.array(3), np.array([1.0, 2.0]), np.array(["a"]), np.array([None]), np.empty((0,)), np.ma.masked),
    *_named(torch.tensor(3), torch.tensor(2.5), torch.tensor(math.nan), torch.tensor([1, 2]), torch.empty(0)),
    *_named(torch.tensor(1.0, requires_grad=True), torch.tensor(1j), torch.tensor(True), torch.tensor(1.0).half()),
    Named("a meta tensor", torch.ones((), device="meta")),
    Named("a sparse tensor", torch.eye(2).to_sparse()),
]
INTEGERS = st.one_of(st.integers(-(10**3), 10**3), st.integers(min_value=10**14), st.integers(max_value=-(10**4)))
DRAWN = st.one_of(  # no number that is merely large: to work long on it would be right
    INTEGERS, st.floats(), st.text(max_size=5), st.binary(max_size=3), st.lists(st.integers(), max_size=3)
).map(lambda value: Named(f"{type(value).__name__} {value!r}", value))
VALUES = st.one_of(st.sampled_from(PLAIN), st.sampled_from(PLAIN + ARRAYS), DRAWN)


def is_integer(value: Any) -> bool:
    """An integer, however it is stored; no truth value."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, (Tensor, np.ndarray)):
        whole = value.ndim == 0 and value.dtype not in (torch.bool, np.dtype(bool))
        return whole and isinstance(value.item() if not _valueless(value) else None, int)
    return isinstance(value, (int, np.integer))


def is_number(value: Any) -> bool:
    """A real number that a float can stand for."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or isinstance(value, Fraction):
        return False
    return math.isfinite(value) if not isinstance(value, int) else abs(value) < 2**1023


def _valueless(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def fits(annotation: Any, value: Any) -> bool:
    """Whether a value is one of the annotation's, numbers finite."""
    if annotation in (Any, inspect.Parameter.empty):
        return True
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return is_integer(value)
    if annotation is float:
        return is_number(value)
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(each, value) for each in of)
    if origin is Literal:
        return isinstance(value, str) and value in of
    if origin is tuple:
        wanted = of[:1] * len(value) if isinstance(value, tuple) and of[-1] is ... else of
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(fits, wanted, value))
    if getattr(annotation, "_is_protocol", False):
        return all(hasattr(value, member) for member in vars(annotation) if not member.startswith("_"))
    return isinstance(value, origin or annotation)


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    if not inspect.isclass(make):
        return typing.get_type_hints(make)
    return typing.get_type_hints(make if dataclasses.is_dataclass(make) else make.__init__)


def replaced(
    name: str,
    make: Callable[..., Any],
    valid: Mapping[str, Any],
    *,
    hints: Mapping[str, Any] | None = None,
    right: Callable[[Any], bool] = lambda made: True,
    values: st.SearchStrategy[Named] = VALUES,
    only: tuple[str, ...] = (),
) -> st.SearchStrategy[Case]:
    """make(**valid) with one argument replaced: a value that its annotation does not allow must be refused."""
    hints = hints or _hints(make)
    fields = [field for field in hints if field in (only or inspect.signature(make).parameters)]

    def case(field: str, value: Named) -> Case:
        allowed = fits(hints[field], value.value)
        return Case(
            f"{name}({field}={value.name})",
            lambda: make(**{**valid, field: value.value}),
            right if allowed else None,
        )

    return st.builds(case, st.sampled_from(fields), values)
