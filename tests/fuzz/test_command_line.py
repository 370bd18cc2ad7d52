"""Wrong usage of every command: exit status 2, one line on standard error, nothing written."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import typer
from hypothesis import strategies as st

import convergence.__main__
import figures.__main__
import paper_checks.__main__
from convergence import command_line
from tests.fuzz.ends import Case
from tests.fuzz.fuzzing import fuzz

APPS: dict[str, typer.Typer] = {
    "convergence": convergence.__main__.app,
    "paper_checks": paper_checks.__main__.app,
    "figures": figures.__main__.app,
}


class Ended(NamedTuple):
    """What a command left behind."""

    status: object
    error: str
    files: list[str]


def refused(ended: Ended) -> bool:
    """Wrong usage, said in one line; a message that holds a list keeps its lines, indented."""
    first, *more = ended.error.strip("\n").split("\n")
    said = first.startswith("error: ") and len(first) > 15 and (not more or any(line[:1].isspace() for line in more))
    return ended.status == 2 and said and "Traceback" not in ended.error and not ended.files


def invoked(program: str, arguments: list[str]) -> Ended:
    """The command in this process, in an empty folder that holds a file called `file` and a folder called `folder`."""
    before, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    error, status = io.StringIO(), None
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("file").write_text("{}")
        Path("folder").mkdir()
        sys.argv = [program, *arguments]
        try:
            with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
                command_line.main(APPS[program])
        except SystemExit as end:
            status = end.code
        finally:
            os.chdir(before)
            sys.argv = argv
            os.environ.clear()
            os.environ.update(environment)
        held = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))
    return Ended(status, error.getvalue(), [name for name in held if name not in ("file", "folder")])


NOT_WHOLE = [
    "x",
    "",
    " ",
    "1.5",
    "nan",
    "inf",
    "²",
    "0x10",
    "1e3",
    "--",
    "1,000",
    "True",
    "None",
    "é\n",
    "[1]",
    "9" * 40,
]
NEGATIVE = ["-1", "-9223372036854775809"]
NO_NUMBER = ["x", "", "nan", "-nan", "inf", "-inf", "1,5", "0x1p3", "1e400", "--", "None", "½", "é\n", "1e3e3", "-1"]
NO_DEVICE = ["", "gpu", "cuda:-1", "cuda:x", "meta", "mps", "cpu:", "fakegpu", "é\n", "cuda:99", "privateuseone", "-1"]
NO_MEMORY = ["", "x", "-1", "0", "nan", "1e3", "1 XiB", "GiB", "2 2GiB", "0.1", "9" * 400, "²GiB", "1.2.3MB", "1GiB\n2"]
NO_NAME = ["", " ", "x", "../x", "é\n", "quadratic ", "QUADRATIC", "-rf", "a" * 500, "[red]x[/red]", "[/]", "\x00"]
NO_FOLDER = ["file", "file/below", "no/such/folder/out", "\x00", "a" * 300]
NO_SPEC = [
    "x:",
    ":x",
    "no_such_module:X",
    "json:nothing",
    "os.path:",
    "a b:c",
    "builtins:int",
    "-:x",
    "x:y:z",
]
NO_FIELD = ["", "x", "=", "=1", "lower_steps", "lower_steps=", "nothing=1", "lower_steps=nan", "lower_steps=[1]"]
NO_FIELD += [
    "lower_steps=" + "9" * 400,
    "lower_steps=" + "[" * 3000,
    "accuracy=1e999",
    "warm_start=maybe",
    "recompute=1",
]
NO_FIELD += [
    "linear_solver=1",
    'lower_steps={"a":NaN}',
    "lower_step_size=Infinity",
    "lower_step_size=true",
    "accuracy=NaN",
]
COUNT = NOT_WHOLE + NEGATIVE
FROM_ONE = [*COUNT, "0"]
POSITIVE = [*NO_NUMBER, "0"]

SOLVE: dict[str, list[str]] = {
    "--method": [*NO_NAME, *NO_SPEC],
    "--iterations": COUNT,
    "--lower-steps": COUNT,
    "--cg-steps": COUNT,
    "--lower-step-size": POSITIVE,
    "--upper-step-size": POSITIVE,
    "--accuracy": POSITIVE,
    "--set": NO_FIELD,
    "--batch": [*FROM_ONE, "9", "1000000000000000000"],
    "--replicas": [*FROM_ONE, "1000000000000000000", "1000000000000"],
    "--stop": POSITIVE,
    "--probe-every": FROM_ONE,
    "--probe": NO_NAME,
    "--seed": COUNT,
    "--device": NO_DEVICE,
    "--memory": NO_MEMORY,
    "--out": ["folder", *NO_FOLDER[1:]],
    "--keep": NO_FOLDER[:2],
    "--keep-every": FROM_ONE,
    "--rank-timeout": POSITIVE,
    "--resume": [""],
    "--no-such-option": ["1"],
    "--iter": ["x"],
}
RUN: dict[str, list[str]] = {
    "--scale": NO_NAME,
    "--device": NO_DEVICE,
    "--seed": COUNT,
    "--threads": [*FROM_ONE, "1000000000000000000"],
    "--jobs": FROM_ONE,
    "--memory": NO_MEMORY,
    "--method": NO_SPEC,
    "--problem": NO_SPEC,
    "--out": NO_FOLDER[:2] + NO_FOLDER[3:],
    "--no-such-option": ["1"],
}
FALSIFY: dict[str, list[str]] = {
    "--budget": POSITIVE,
    "--seed": COUNT,
    "--replay": ["file", "folder", "nowhere", "\x00", "a" * 300],
    "--out": NO_FOLDER[:2] + NO_FOLDER[3:],
}
TRAIN: dict[str, list[str]] = {
    "--data": NO_NAME,
    "--method": NO_NAME,
    "--embedding": NO_NAME,
    "--optimizer": NO_NAME,
    "--schedule": NO_NAME,
    "--bn": NO_NAME,
    "--dtype": [*NO_NAME, "float16", "int64"],
    "--device": NO_DEVICE,
    "--memory": NO_MEMORY,
    "--iterations": COUNT,
    "--seed": COUNT,
    "--learning-rate": POSITIVE,
    "--lower-step-size": POSITIVE,
    "--ridge": NO_NUMBER,
    "--lasso": NO_NUMBER,
    "--decay": POSITIVE,
    "--rank-timeout": POSITIVE,
    "--crop": [*COUNT, "1000"],
    **{
        f"--{name}": FROM_ONE
        for name in ("channels", "way", "shot", "queries", "evaluation-queries", "batch", "patience")
    },
    **{f"--{name}": FROM_ONE for name in ("validation-episodes", "checkpoint-every", "chunk", "threads", "size")},
    **{f"--{name}": COUNT for name in ("lower-steps", "cg-steps", "validate-every", "decay-every", "images-per-class")},
    "--seeds": ["x", "", "1 x", "-1", "0 0", "nan", "1.5", "9" * 40],
    "--root": ["nowhere", "file", "\x00"],
    "--out": ["file"],
    "--resume": [""],
}
EVALUATE: dict[str, list[str]] = {
    "": ["nowhere", "file", "folder", "\x00", "a" * 300, "é\n"],
    "--episodes": FROM_ONE,
    "--seed": COUNT,
    "--chunk": FROM_ONE,
    "--list": ["nowhere", "file", "folder"],
}
COMMANDS: dict[str, tuple[str, list[str], dict[str, list[str]]]] = {
    "solve": ("convergence", ["solve", "quadratic", "--iterations", "2"], SOLVE),
    "run": ("paper_checks", ["run", "cg_rate"], RUN),
    "falsify": ("paper_checks", ["falsify", "cg_rate", "--budget", "0.01"], FALSIFY),
    "train": ("convergence", ["train", "--data", "glyphs", "--iterations", "1", "--out", "new"], TRAIN),
    "evaluate": ("convergence", ["evaluate"], EVALUATE),
}


def _case(name: str, program: str, arguments: list[str]) -> Case:
    return Case(name, lambda: invoked(program, arguments), refused)


@st.composite
def options(draw: Callable[..., str]) -> Case:
    """One option of one command, with text that it cannot mean."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    program, base, malformed = COMMANDS[command]
    option = draw(st.sampled_from(sorted(malformed)))
    value = draw(st.sampled_from(malformed[option]))
    given = [option] if option == "--resume" else [value] if not option else [f"{option}={value}"]
    return _case(f"{command} {option} {value[:60]!r}", program, [*base, *given])


@fuzz(options(), distinct=45)
def test_options_that_cannot_be_meant():
    """Numbers, names, devices, budgets, folders, fields, modules."""


LINES: list[tuple[str, list[str]]] = [
    *(
        ("convergence", line.split())
        for line in ("nothing", "solve", "solve nothing", "solve quadratic huber", "train", "--x")
    ),
    *(
        ("convergence", line.split())
        for line in ("evaluate", "train --data glyphs", "watch", "watch nowhere", "watch file")
    ),
    *(
        ("convergence", ["watch", "folder", *more])
        for more in ([], ["--refresh", "0"], ["--refresh", "nan"], ["--once"])
    ),
    *(("convergence", ["solve", name]) for name in NO_NAME),
    *(("convergence", ["solve", "heavy-tailed"]), ("convergence", ["solve", "quadratic", "--resume"])),
    ("convergence", ["solve", "quadratic", "--method", "stable", "--set", "size=0"]),
    ("convergence", ["solve", "quadratic", "--method", "boil"]),
    ("convergence", ["solve", "quadratic", "--replicas", "2", "--keep", "kept"]),
    ("convergence", ["solve", "quadratic", "--memory", "1B"]),
    ("convergence", ["train", "--data", "folder", "--out", "new", "--root", "folder"]),
    ("convergence", ["train", "--data", "glyphs", "--out", "new", "--patience", "2", "--validate-every", "0"]),
    ("convergence", ["train", "--data", "glyphs", "--out", "new", "--seed", "1", "--seeds", "1", "2"]),
    ("convergence", ["train", "--data", "glyphs", "--out", "new", "--channels-last", "--channels-first"]),
    *(("paper_checks", ["run", name]) for name in NO_NAME if name),
    *(("paper_checks", [command]) for command in ("falsify", "compare", "cg_rates", "--cale")),
    *(("paper_checks", ["list", word]) for word in ("cg_rate", "--x", "")),
    *(("paper_checks", ["falsify", name]) for name in NO_NAME),
    *(
        ("paper_checks", ["compare", *pair])
        for pair in (["folder"], ["folder", "folder"], ["file", "nowhere"], ["", ""])
    ),
    *(("figures", [name]) for name in ("nowhere", "file", "folder", "", "\x00", "a" * 300, "é\n")),
    *(("figures", more) for more in ([], ["folder", "file"], ["--x"])),
]


@fuzz(st.sampled_from(LINES).map(lambda line: _case(f"{line[0]} {' '.join(line[1])[:80]!r}", *line)), distinct=30)
def test_lines_that_cannot_be_meant():
    """Commands, names and folders that are not there; options that contradict each other."""
