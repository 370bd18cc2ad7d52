"""The pages that come from the code are what the code says."""

import re

import pytest
import typer
from typer.testing import CliRunner

from docs.generate import command_lines
from docs.generate.__main__ import written
from docs.generate.claims import FOLDER, items, linked
from docs.generate.command_lines import APPS, commands

PAGES = written()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_what_the_code_says(path):
    assert path.read_text(encoding="utf-8") == PAGES[path], "run: make pages"


def test_no_page_is_left_of_a_claim_that_is_no_more():
    assert set(FOLDER.rglob("*.md")) == {path for path in PAGES if path.is_relative_to(FOLDER)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("docs/theory.md S3a", "[S3a](../theory.md#s3-cold-start-floors)"),
        (
            "S1 and S3b",
            "[S1](../theory.md#s1-the-error-of-a-hypergradient) and [S3b](../theory.md#s3-cold-start-floors)",
        ),
        ("as in docs/methods.md", "as in [methods](../methods.md)"),
        ("see cg_rate, less memory", "see [cg_rate](cg_rate.md), less memory"),
        ("the claim `memory`", "the claim [memory](memory.md)"),
    ],
)
def test_what_a_docstring_names_is_linked(text, shown):
    assert linked(text, typeset=str) == shown


@pytest.mark.parametrize("text", ["one (a) two", "sizes (1, 2) and (3)", "E. (1)st", "nothing"])
def test_text_without_numbered_sentences_is_no_list(text):
    assert items(text) == text


def options(command: command_lines.Command) -> set[str]:
    return {
        flag for parameter in command.parameters for flag in re.findall(r"--[a-z-]+", parameter.spelled.split(" ")[0])
    }


@pytest.mark.parametrize(
    ("app", "command"), [(app, command) for prog, app in APPS.items() for command in commands(prog, app)]
)
def test_the_guide_knows_the_options_that_the_command_takes(app: typer.Typer, command):
    name = [] if command.spelled in APPS else [command.spelled.split(" ")[-1]]
    helped = CliRunner().invoke(
        app, [*name, "--help"], env={"COLUMNS": "300", "NO_COLOR": "1", "TERMINAL_WIDTH": "300"}
    )
    assert helped.exit_code == 0
    taken = set(re.findall(r"^\W*(--[a-z-]+)", helped.output, flags=re.MULTILINE)) - {"--help"}
    assert options(command) >= taken
    assert all(flag in helped.output for flag in options(command))


@pytest.mark.parametrize("command", [command for prog, app in APPS.items() for command in commands(prog, app)])
def test_every_command_says_what_it_does_and_every_option_what_it_is(command):
    assert command.text
    assert command.text[0].endswith(".")
    assert not [parameter.spelled for parameter in command.parameters if not parameter.help]
    assert command.examples or not command.parameters
    assert not command.parameters or "Exit status: 0" in command.epilog
