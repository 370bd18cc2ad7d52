"""What is shown: on narrow and wide terminals, whole lines, all that the issue of it promises."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from convergence.files import locked
from convergence.watch import watched
from convergence.watch.view import view
from paper_checks.progress import Progress
from tests.convergence.training.small import tiny
from tests.convergence.watch.runs import kept


def shown(folder, width=80, **console):
    found, file = watched(folder), io.StringIO()
    found.look()
    Console(width=width, file=file, **console).print(view(found))
    return file.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    kept(folder / "kept")
    tiny(7, out=folder / "trained")
    for seed in (0, 1):
        tiny(3, out=folder / "seeds" / f"seed-{seed}", seed=seed)
    progress = Progress(folder / "verdicts", ["cg_rate", "memory"])
    progress.cells.within("cg_rate").note("instances, 3 of 10 " * 20)
    progress.write("interrupted", "SIGTERM")
    return folder


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", ["kept", "trained", "seeds", "verdicts"])
def test_every_line_is_as_wide_as_the_terminal(runs, name, width):
    lines = shown(runs / name, width).splitlines()
    assert {cell_len(line) for line in lines} == {width}
    assert len(lines) <= 23  # a terminal of 24 lines shows all of it


@pytest.mark.parametrize("width", [80, 200])
def test_a_kept_run_shows_all_that_is_known_of_it(runs, width):
    text = shown(runs / "kept", width)
    for part in ("finished", "8 of 8 iterations", "iterations/s", "so far", "Phi", "|grad Phi|", "|d|"):
        assert part in text
    for part in ("certified |d - grad Phi|", "oracle calls", "lower_gradient", "bytes", "of tensors", "█", "kept"):
        assert part in text
    assert ("least" in text) is (width == 200)


def test_a_training_run_shows_loss_gradient_validation_calls_and_bytes(runs):
    text = shown(runs / "trained")
    for part in ("loss", "|d|", "validation", "%", "oracle calls", "bytes", "iteration 7: validation"):
        assert part in text
    assert "learning rate" not in text  # it never changes


def test_a_schedule_shows_its_learning_rate(tmp_path):
    tiny(4, out=tmp_path, schedule="cosine")
    assert "learning rate" in shown(tmp_path)


def test_seeds_are_a_line_each_and_their_mean(runs):
    text = shown(runs / "seeds")
    assert text.count("3/3") == 2
    assert "best validation, mean of 2: " in text


def test_a_battery_shows_its_counts_and_what_is_measured(runs):
    text = shown(runs / "verdicts")
    for part in ("interrupted: SIGTERM", "0 of 2 claims", "cg_rate", "instances, 3 of 10"):
        assert part in text


def test_a_run_that_has_written_nothing_yet_is_shown(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with locked(tmp_path):
        text = shown(tmp_path)
    assert "running: process" in text
    assert "nothing written yet" in text


def test_a_terminal_without_unicode_gets_ascii(runs):
    class Plain(io.StringIO):
        encoding = "ascii"

    found = watched(runs / "kept")
    found.look()
    file = Plain()
    Console(width=80, file=file).print(view(found))
    assert file.getvalue().isascii()
    assert "#" in file.getvalue()
