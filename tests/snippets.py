"""The code of a page, run as a reader would run it: Python and shell lines in order, in one folder and one process.

A page is Markdown. Its blocks: fenced `python`, in one namespace for the page (one whose first line is a comment
`# name.py` is that file); indented, shell lines; fenced `text`, what the block before it prints. There `...` stands for
anything, and numbers that are no integers may differ by one in the last digit shown, or by rounding (0.5... is any
that begins so).

    python -m tests.snippets docs/tutorials/check_my_gradient.md

runs a page in a scratch folder, shows what it prints, and draws its pictures again, which lie beside the page.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from markdown_it import MarkdownIt
from torch.distributed.run import get_args_parser

ROOT = Path(__file__).parent.parent
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*(?:e[-+]?\d+)?|e[-+]?\d+)(?![\w.]*\w|\.)")  # and no integer
ROUNDING = 1e-9  # a smaller number is the size of a rounding error, which no two machines share


@dataclass(frozen=True)
class Block:
    """kind: "python", "shell" or "text"; line: where in the page its first line is, from 1."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """What there is to run in a page, and what it is said to print."""
    found = []
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "code_block":
            found.append(Block("shell", token.content, token.map[0] + 1))
        elif token.type == "fence":
            found.append(Block(token.info.strip(), token.content, token.map[0] + 2))
    return found


def shell_lines(page: Path) -> list[str]:
    """All shell lines of a page."""
    return [line for block in blocks(page) if block.kind == "shell" for line in block.text.splitlines()]


def run_page(
    page: Path, folder: Path, patch: pytest.MonkeyPatch, *, only_parsed: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Run it in this folder; the names after each of its Python blocks. Raises AssertionError naming page and line.

    only_parsed   shell lines whose options are read and no more
    """
    patch.chdir(folder)
    patch.syspath_prepend(folder)  # as `python -m` does
    patch.setenv("COLUMNS", "80")
    patch.setenv("MEMORY_REDUCED_CACHE", str(folder / "cache"))
    torch.manual_seed(0)
    before = set(sys.modules)
    names: dict[str, Any] = {"__name__": page.stem}
    found, printed = [], ""
    try:
        for block in blocks(page):
            where = f"{page.name}, line {block.line}"
            if block.kind == "text":
                if difference := apart(block.text, printed):
                    raise AssertionError(f"{where}: {difference}\nprinted:\n{printed}")
                continue
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
                if block.kind == "python":
                    _run_python(block, page, folder, names)
                    found.append(dict(names))
                else:
                    for line in block.text.splitlines():
                        try:
                            run_shell(line, where, patch, only_parsed=line in only_parsed)
                        except AssertionError as error:
                            raise AssertionError(f"{error}\n{out.getvalue()}") from None
            printed = out.getvalue()
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]
    return found


def _run_python(block: Block, page: Path, folder: Path, names: dict[str, Any]) -> None:
    if file := re.match(r"# (\w+\.py)\n", block.text):
        (folder / file[1]).write_text(block.text)
        return
    exec(
        compile("\n" * (block.line - 1) + block.text, page, "exec"), names
    )  # so that tracebacks show lines of the page


# ---- shell lines


def run_shell(line: str, where: str, patch: pytest.MonkeyPatch, *, only_parsed: bool = False) -> None:
    """One line: `python -m`, in this process; `torchrun`, parsed only; `make`, looked up. Others are refused."""
    command, _, comment = line.partition("  #")
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        patch.setenv(*words.pop(0).split("=", 1))
    match words:
        case []:
            return
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), f"{where}: {line}"
        case ["python", "-m", module, *arguments]:
            expected = int(status[1]) if (status := re.search(r"exit status (\d+)", comment)) else 0
            status = _status(module, arguments, patch, only_parsed=only_parsed)
            assert status == (0 if only_parsed else expected), f"{where}: {line}: exit status {status}"
        case ["torchrun", *arguments]:
            asked = get_args_parser().parse_args(arguments)
            assert asked.module, f"{where}: {line}"
            status = _status(asked.training_script, asked.training_script_args, patch, only_parsed=True)
            assert status == 0, f"{where}: {line}: exit status {status}"
        case _:
            raise AssertionError(f"{where}: expected a line of python -m, torchrun or make, got {line!r}")


def _status(module: str, arguments: list[str], patch: pytest.MonkeyPatch, *, only_parsed: bool) -> int:
    """What `python -m module arguments` ends with."""
    with patch.context() as inner:
        inner.setattr(sys, "argv", [module, *arguments])
        if only_parsed:
            inner.setattr("typer.core.TyperCommand.invoke", lambda self, context: None)
        try:
            importlib.import_module(f"{module}.__main__").main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


# ---- what is printed


def apart(expected: str, printed: str) -> str:
    """In what the printed differs from what was expected; "" where it does not.

    >>> apart("steps 20, error 1.25e-03, ... s", "steps  20, error 1.26e-03, 0.731 s")
    ''
    >>> apart("error 1.25e-03", "error 1.27e-03")
    'expected 1.25e-03, got 1.27e-03'
    """
    pattern, numbers, at = "", [], 0
    for number in NUMBER.finditer(expected):
        pattern += _pattern(expected[at : number.start()]) + f"({NUMBER.pattern})"
        numbers.append(number[0])
        at = number.end()
    pattern += _pattern(expected[at:])
    found = re.fullmatch(r"\s*" + pattern.strip() + r"\s*", printed, re.DOTALL)
    if found is None:
        return f"expected\n{expected}"
    for told, got in zip(numbers, found.groups(), strict=True):
        if not _near(told, got):
            return f"expected {told}, got {got}"
    return ""


def _pattern(text: str) -> str:
    """Blanks match blanks, three dots anything."""
    pieces = (r"\s+".join(map(re.escape, re.split(r"\s+", piece))) for piece in text.split("..."))
    return ".*?".join(pieces)


def _near(told: str, got: str) -> bool:
    digits, _, exponent = told.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    a, b = float(told), float(got)
    return abs(a - b) <= 1.001 * last or max(abs(a), abs(b)) < ROUNDING


# ---- pictures


def pictures(page: Path) -> list[str]:
    """Pictures that a page writes: each lies beside it as it lies in the folder where the page was run."""
    return re.findall(r"!\[[^]]*\]\(([\w/-]+\.png)\)", page.read_text())


@contextlib.contextmanager
def _scratch() -> Iterator[tuple[Path, pytest.MonkeyPatch]]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        yield Path(folder), patch


def main(names: list[str]) -> None:
    """Run these pages, and draw their pictures again."""
    for page in map(Path, names):
        page = page.absolute()
        with _scratch() as (folder, patch):
            run_page(page, folder, patch)
            for picture in pictures(page):
                (page.parent / picture).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / picture, page.parent / picture)
            patch.undo()
        print(f"{os.path.relpath(page)}: as it says; {len(pictures(page))} pictures drawn")


if __name__ == "__main__":
    main(sys.argv[1:])
