"""docs/command_line.md: every command and option, from the functions that Typer makes commands of."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

import convergence.__main__
import figures.__main__
import paper_checks.__main__
from docs.generate.templates import ENVIRONMENT

# What is typed -> the app that it starts
APPS = {
    "python -m paper_checks": paper_checks.__main__.app,
    "python -m convergence": convergence.__main__.app,
    "python -m figures": figures.__main__.app,
}
_VALUES = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}


class Parameter(NamedTuple):
    """An argument or option as the guide shows it; an empty `default` where there is none to show."""

    spelled: str
    help: str
    default: str
    required: bool
    is_option: bool


class Command(NamedTuple):
    """A command as the guide shows it: `text` are paragraphs, `examples` lines to type."""

    spelled: str
    text: list[str]
    examples: list[str]
    parameters: list[Parameter]
    epilog: str


def page() -> str:
    """The guide."""
    template = ENVIRONMENT.get_template("command_line.md.j2")
    text = template.render(apps={prog: list(commands(prog, app)) for prog, app in APPS.items()})
    return re.sub(r"\n{3,}", "\n\n", text)  # what is left of loops over nothing


def commands(prog: str, app: typer.Typer) -> Iterator[Command]:
    """The commands of an app; one alone goes without its name, as Typer has it."""
    alone = len(app.registered_commands) == 1 and app.registered_callback is None
    for info in app.registered_commands:
        name = info.name or info.callback.__name__.replace("_", "-")
        yield _command(prog if alone else f"{prog} {name}", info)


def _command(spelled: str, info: CommandInfo) -> Command:
    paragraphs = inspect.cleandoc(info.callback.__doc__ or "").split("\n\n")
    shown = [part for part in paragraphs if part.startswith("\b\nExample")]
    text = [" ".join(part.split()) for part in paragraphs if part not in shown]
    examples = [line.strip() for part in shown for line in part.splitlines()[2:]]
    return Command(spelled, text, examples, list(_parameters(info.callback)), info.epilog or "")


def _parameters(callback: Any) -> Iterator[Parameter]:
    hints = typing.get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        if typing.get_origin(hints[name]) is not typing.Annotated:
            continue  # the context
        kind, declared = typing.get_args(hints[name])
        default = None if parameter.default is parameter.empty else parameter.default
        is_option = isinstance(declared, OptionInfo)
        spelled = _option(name, kind, declared) if is_option else f"{declared.metavar or name.upper()}"
        yield Parameter(
            spelled, declared.help or "", _default(default), parameter.default is parameter.empty, is_option
        )


def _option(name: str, kind: Any, declared: OptionInfo | ArgumentInfo) -> str:
    spelled = [text for text in (declared.default, *(declared.param_decls or ())) if isinstance(text, str)]
    flags = ", ".join(spelled) or f"--{name.replace('_', '-')}"
    value = declared.metavar or _value(kind)
    return f"{flags} {value}".rstrip()


def _value(kind: Any) -> str:
    """What follows an option of this type.

    >>> _value(int | None), _value(tuple[int, int, int]), _value(bool), _value(list[str])
    ('N', 'N N N', '', 'TEXT')
    """
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) in (tuple, list):
        return " ".join(_value(part) for part in typing.get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(member.value for member in kind)
    return _VALUES.get(kind, "")


def _default(value: Any) -> str:
    return "" if value is None or value is False else str(value.value if isinstance(value, Enum) else value)
