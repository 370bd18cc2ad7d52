"""What all command lines end with: one line of error, a list that keeps its lines, a word on an interruption."""

import sys

import pytest
import typer

from convergence.command_line import main, named


@pytest.fixture
def ended(monkeypatch, capsys):
    def called(error):
        """Exit status and standard error of a command that raises."""
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

        @app.command()
        def fail():
            raise error

        monkeypatch.setattr(sys, "argv", ["fail"])
        with pytest.raises(SystemExit) as end:
            main(app)
        captured = capsys.readouterr()
        assert captured.out == ""
        return end.value.code, captured.err

    return called


def test_a_message_is_one_line(ended):
    assert ended(ValueError("expected a,\ngot  b")) == (2, "error: expected a, got b\n")
    assert ended(OSError("expected room")) == (2, "error: expected room\n")


def test_a_list_keeps_its_lines(ended):
    listed = "expected one of these:\n  first: a.npz\n  second: b.npz\nNothing else."
    assert ended(FileNotFoundError(listed)) == (2, f"error: {listed}\n")


def test_an_interruption_is_said(ended):
    assert ended(KeyboardInterrupt()) == (130, "interrupted\n")
    assert ended(typer.Abort()) == (130, "interrupted\n")


def test_a_defect_is_a_traceback(ended):
    code, shown = ended(ZeroDivisionError("defect"))
    assert code == 70
    assert shown.startswith("Traceback")


def test_an_extra_that_is_not_installed_is_said_and_another_missing_module_is_a_defect(ended):
    sentence = "the data set digits needs scikit-learn: install the extra data"
    assert ended(ModuleNotFoundError(sentence)) == (2, f"error: {sentence}\n")
    code, shown = ended(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert code == 70
    assert shown.startswith("Traceback")


@pytest.mark.parametrize(("kind", "said"), [("method", "a method"), ("embedding", "an embedding")])
def test_unknown_names(kind, said):
    with pytest.raises(ValueError, match=f"^expected {said} out of one; got 'onne': did you mean 'one'"):
        named({"one": 1}, "onne", kind)
