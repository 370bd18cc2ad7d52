"""What decides about a run, of JSON's types, so that it can be kept and held against another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def described(thing: Any) -> Any:
    """A dataclass as its type and fields, containers likewise, anything else that is not of JSON's types as its type.

    >>> from convergence.linear_solvers import ConjugateGradient
    >>> described(ConjugateGradient(3))
    {'type': 'ConjugateGradient', 'steps': 3, 'tolerance': None}
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [described(each) for each in thing]
    own = {field.name: described(getattr(thing, field.name)) for field in fields(thing)} if is_dataclass(thing) else {}
    return {"type": type(thing).__name__, **own}


def require_same(config: Mapping[str, Any], held: Mapping[str, Any], where: Path, *, free: frozenset[str]) -> None:
    """Raise ValueError naming the first entry in which a run asked for differs from the one that is held."""
    for path, now, then in _differences(config, held):
        if path not in free and not path.startswith("versions"):
            raise ValueError(f"expected {path} = {then!r}, as in {where}, got {now!r}")


def _differences(now: Any, then: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        for name in {**then, **now}:
            yield from _differences(now.get(name), then.get(name), f"{path}.{name}" if path else name)
    elif now != then:
        yield path, now, then
