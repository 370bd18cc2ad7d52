"""What is seen of a training run while it lasts, on the standard error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from convergence.training.train_evaluate import Trained

MIB = 2**20


class Live:
    """A bar with loss, accuracy, seconds and peak memory on a terminal; a line for each validation elsewhere too."""

    def __init__(self, bar: Progress, label: str, iterations: int):
        self._bar, self._iterations = bar, iterations
        self._task = bar.add_task(label, total=iterations, numbers="")
        self._peak = self._accuracy = ""

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Show what was recorded of an iteration."""
        if "peak_bytes" in row:
            self._peak = f", peak {row['peak_bytes'] / MIB:.1f} MiB"
        if "compile_seconds" in row:
            self._bar.console.print(f"compiled in {row['compile_seconds']:.1f} s", highlight=False)
        if "validation_accuracy" in row:
            self._accuracy = f", validation {_percent(row['validation_accuracy'], row['validation_ci95'])}"
        loss = "-" if row["loss"] is None else f"{row['loss']:.3f}"
        numbers = f"loss {loss}{self._accuracy}{self._peak}"
        self._bar.update(self._task, completed=row["iteration"], numbers=numbers)
        if "validation_accuracy" in row:
            self._bar.console.print(f"iteration {row['iteration']}: {numbers}, {row['seconds']:.1f} s", highlight=False)


@contextmanager
def live(label: str, iterations: int) -> Iterator[Live]:
    """Shown until the end of the block."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        yield Live(bar, label, iterations)


def ending(trained: Trained) -> str:
    """One line on a run that is over: why it ended, and where the phi that is kept is from."""
    best, patience = trained.validated, trained.plan.patience
    why = "all were asked for" if trained.end == "iterations" else f"{patience} validations without a better one"
    kept = "nothing was validated, the last phi is kept"
    if best is not None:
        accuracy = _percent(best["validation_accuracy"], best["validation_ci95"])
        kept = f"best validation {accuracy} after iteration {best['iteration']}, that phi is kept"
    return f"ended after {trained.iteration} iterations ({why}): {kept}"


def _percent(accuracy: float, ci95: float | None) -> str:
    return f"{100 * accuracy:.1f} %" if ci95 is None else f"{100 * accuracy:.1f} ± {100 * ci95:.1f} %"
