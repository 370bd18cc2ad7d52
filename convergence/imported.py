"""What `module:Name` names: classes of one's own on the command line."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from convergence.arguments import shown
from convergence.method import Method
from problems import Problem

RAISED = (Exception, SystemExit)  # by what somebody else has written: to exit is no verdict
_OURS = ("convergence", "problems", "paper_checks", "figures")
_INSTALLED = tuple({Path(path).resolve() for path in sysconfig.get_paths().values()})
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
    except RAISED as error:  # whatever the module does while it is imported
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
    named = make.func if isinstance(make, partial) else make
    if not (inspect.isclass(named) or inspect.isfunction(named)) or "<" in named.__qualname__:
        raise ValueError(
            f"expected a class, a function by its name, or a partial of one, that makes a method in {spec}, "
            f"got {shown(make)}"
        )
    made = make if inspect.isclass(make) else _tried(make)
    if lost := [name for name in _PROTOCOL if not callable(getattr(made, name, None))]:
        raise ValueError(f"expected a method with {', '.join(_PROTOCOL)}, got {spec} without {', '.join(lost)}")
    return make


def _tried(make: Callable[..., Any]) -> Any:
    """What a function makes of fields as those of the paper's method, or what it returns, if that says more."""
    try:
        return make(lower_steps=1, lower_step_size=0.1, cg_steps=1, upper_step_size=0.1, warm_start=False)
    except RAISED:  # it takes others; of a partial the class is known
        return make.func if isinstance(make, partial) else None


def problem_of(spec: str, seed: int) -> Problem:
    """The problem that `module:Name` names: a class or a function that makes one, given the seed if it takes one.

    What it draws from torch's global generator is drawn from `seed`, and leaves the generator as it was.
    Raises ValueError where there is no such problem, or it cannot be made.
    """
    make = imported(spec, "a problem")
    if not callable(make):
        raise ValueError(f"expected a class or a function that makes a problem in {spec}, got {shown(make)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            problem = make(seed=seed) if "seed" in inspect.signature(make).parameters else make()
        except RAISED as error:  # of the user's constructor
            raise ValueError(f"expected {spec} to make a problem, got {said(error)}") from error
    if not isinstance(problem, Problem):
        raise ValueError(f"expected a problems.Problem from {spec}, got {type(problem).__name__}")
    return problem


def source_digest(make: Any) -> str:
    """SHA-256 of the source of the module that `make` stands in, and of all that it imports beside what is installed.

    make   a class, a function or a partial of one
    """
    first = inspect.getmodule(make.func if isinstance(make, partial) else make)
    waiting, sources = [first] if first else [], dict[str, bytes]()
    while waiting:
        module = waiting.pop()
        if module.__name__ not in sources and (module is first or _is_own(module)):
            file = Path(module.__file__ or "")
            sources[module.__name__] = file.read_bytes() if file.suffix == ".py" and file.is_file() else b""
            waiting += [sys.modules[name] for name in _imports(module, sources[module.__name__]) if name in sys.modules]
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(b"\0".join((name.encode(), sources[name], b"")))
    return digest.hexdigest()


def _imports(module: ModuleType, source: bytes) -> Iterator[str]:
    """The modules that the import statements in a module's source may name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            named = "." * node.level + (node.module or "")
            whole = importlib.util.resolve_name(named, module.__package__ or "") if node.level else named
            yield whole
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def _is_own(module: ModuleType) -> bool:
    """Whether a module is neither installed, nor Python's, nor of this package."""
    file = getattr(module, "__file__", None)
    if not file or module.__name__.partition(".")[0] in _OURS:
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(place) for place in _INSTALLED)


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
    message = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"
