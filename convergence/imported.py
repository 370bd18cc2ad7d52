"""What `module:Name` names: classes of one's own on the command line."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from convergence.method import Method
from problems import Problem

_PROTOCOL = ("start", "step", "declared_calls")  # of `Method`
_SPEC = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")


def is_spec(text: str) -> bool:
    """Whether the text is `module:Name`, and not the name of something in a catalogue."""
    return ":" in text


def imported(spec: str, what: str) -> Any:
    """The object that `module:Name` names; modules in the working directory are found as well.

    what   what is expected, for the sentences: "a method"

    Raises ValueError where the text is no such name, the module cannot be imported, or has nothing of that name.

    >>> imported("fractions:Fraction", "a class")
    <class 'fractions.Fraction'>
    >>> imported("fractions:Fracton", "a class")
    Traceback (most recent call last):
        ...
    ValueError: expected a class in the module fractions, got no 'Fracton' there: did you mean 'Fraction'?
    """
    match = _SPEC.fullmatch(spec)
    if match is None or match["module"].endswith(".py"):
        hint = f": write {spec.replace('.py:', ':').replace('/', '.')}" if ".py:" in spec else ""
        raise ValueError(f"expected {what} as MODULE:NAME, as mypackage.module:MyClass, got {spec!r}{hint}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has done; a console script has not
    module = _module(match["module"], what)
    if not hasattr(module, match["name"]):
        near = difflib.get_close_matches(match["name"], vars(module), n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected {what} in the module {match['module']}, got no {match['name']!r} there{hint}")
    return getattr(module, match["name"])


def _module(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the module does while it is imported
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"expected {what} in a module that can be imported from {os.getcwd()}, got {name!r}: "
                f"there is no module {error.name!r}"
            ) from error
        raise ValueError(
            f"expected {what} in a module that can be imported, got {name!r}, which raised {said(error)}"
        ) from error


def method_of(spec: str) -> Callable[..., Method]:
    """What makes the method that `module:Class` names. Raises ValueError where it is none."""
    make = imported(spec, "a method")
    if not callable(make):
        raise ValueError(f"expected a class or a function that makes a method in {spec}, got {make!r}")
    made = make if inspect.isclass(make) else _tried(make)
    if lost := [name for name in _PROTOCOL if not callable(getattr(made, name, None))]:
        raise ValueError(f"expected a method with {', '.join(_PROTOCOL)}, got {spec} without {', '.join(lost)}")
    return make


def _tried(make: Callable[..., Any]) -> Any:
    """What a function makes of fields as those of the paper's method, or what it returns, if that says more."""
    try:
        return make(lower_steps=1, lower_step_size=0.1, cg_steps=1, upper_step_size=0.1, warm_start=False)
    except Exception:  # it takes others; of `functools.partial(Method, ...)` the class is known
        return getattr(make, "func", None)


def problem_of(spec: str, seed: int) -> Problem:
    """The problem that `module:Name` names: a class or a function that makes one, given the seed if it takes one.

    What it draws from torch's global generator is drawn from `seed`, and leaves the generator as it was.
    Raises ValueError where there is no such problem, or it cannot be made.
    """
    make = imported(spec, "a problem")
    if not callable(make):
        raise ValueError(f"expected a class or a function that makes a problem in {spec}, got {make!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            problem = make(seed=seed) if "seed" in inspect.signature(make).parameters else make()
        except Exception as error:  # of the user's constructor
            raise ValueError(f"expected {spec} to make a problem, got {said(error)}") from error
    if not isinstance(problem, Problem):
        raise ValueError(f"expected a problems.Problem from {spec}, got {type(problem).__name__}")
    return problem


def said(error: BaseException, file: str | None = None) -> str:
    """An exception in one line: its class, its message, and the line that it came from, in `file` where it was there.

    >>> try:
    ...     {}["a"]
    ... except KeyError as error:
    ...     said(error).split(" at ")[0]
    "KeyError: 'a'"
    """
    frames = traceback.extract_tb(error.__traceback__)
    chosen = [frame for frame in frames if frame.filename == file] or frames
    where = f" at {os.path.basename(chosen[-1].filename)}, line {chosen[-1].lineno}" if chosen else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"
