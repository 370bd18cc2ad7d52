"""What is seen of a run: a line a validation anywhere, a bar on a terminal as well."""

from convergence.training.live import ending, live
from tests.convergence.training.small import tiny

ROWS = (
    {"iteration": 1, "loss": 1.5, "seconds": 0.5, "peak_bytes": 3 * 2**20},
    {"iteration": 2, "loss": None, "seconds": 1.0, "validation_accuracy": 0.5, "validation_ci95": 0.02},
    {"iteration": 3, "loss": 0.25, "seconds": 1.5, "validation_accuracy": 0.625, "validation_ci95": None},
)


def shown(capsys, rows):
    with live("protonet on glyphs", 3) as watch:
        for row in rows:
            watch(row)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_validation_is_a_line(capsys):
    assert shown(capsys, ROWS).splitlines() == [
        "iteration 2: loss -, validation 50.0 ± 2.0 %, peak 3.0 MiB, 1.0 s",
        "iteration 3: loss 0.250, validation 62.5 %, peak 3.0 MiB, 1.5 s",
    ]
    assert shown(capsys, ROWS[:1]) == ""


def test_a_terminal_sees_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    text = shown(capsys, ROWS)
    assert "protonet on glyphs" in text
    assert "3/3" in text


def test_a_run_that_loses_patience_says_so():
    trained = tiny(30, patience=1, validate_every=1, learning_rate=1e-9)
    assert trained.end == "patience"
    assert ending(trained).startswith(
        f"ended after {trained.iteration} iterations (1 validations without a better one):"
    )
