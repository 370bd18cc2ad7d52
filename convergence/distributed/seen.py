"""What is seen of a kept run while it lasts: config.json, progress.jsonl and end.json, which rank 0 writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from convergence import progress
from convergence.distributed.ranks import Ranks
from convergence.files import write_atomically
from convergence.result import Result
from convergence.status import Status


class Seen:
    """The files of a kept run for those who look on; nothing goes on from them (that is `Kept`).

    progress.jsonl holds, in this order, a line for each iteration t that was measured: {"iteration": t, probe: value,
    ..., "seconds"}, None where a value is not finite; and a line each time the run is kept, after n iterations:
    {"iteration": n, "calls": {...}, "seconds"}. The first line of all is {"iteration": 0, "peak_bytes"}. A run that
    goes on removes what was written after it had been kept, so that the lines, but for their seconds, are those of a
    run that was never interrupted.
    """

    def __init__(self, folder: Path, ranks: Ranks, config: Mapping[str, Any]):
        self.folder, self._ranks, self._config = folder, ranks, dict(config)
        self._began, self._before, self._reached = time.perf_counter(), 0.0, 0

    @property
    def path(self) -> Path:
        """A line of JSON for each iteration that is measured or kept."""
        return self.folder / "progress.jsonl"

    def begin(self, state: Mapping[str, Any] | None, *, peak_bytes: int | None) -> None:
        """Write config.json, and progress.jsonl up to what was kept (None: nothing)."""
        self._ranks.from_first(lambda: self._begin(state, peak_bytes))

    def _begin(self, state: Mapping[str, Any] | None, peak_bytes: int | None) -> None:
        progress.forget_end(self.folder)
        write_atomically(self.folder / "config.json", (json.dumps(self._config, indent=2) + "\n").encode())
        lines = [] if state is None else _until(self.path, state["iteration"])
        if state is not None:
            self._before, self._reached = state["seconds"], state["iteration"]
        elif peak_bytes is not None:
            lines = [progress.line({"iteration": 0, "peak_bytes": peak_bytes})]
        write_atomically(self.path, b"".join(lines))
        self._began = time.perf_counter()

    def measured(self, iteration: int, values: Mapping[str, Tensor]) -> None:
        """What the probes found at this iteration."""
        self._reached = iteration
        if self._ranks.first:
            found = {name: _number(value.item()) for name, value in values.items()}
            progress.append(self.path, {"iteration": iteration, **found, "seconds": self._seconds})

    def kept(self, state: Mapping[str, Any]) -> None:
        """Note that this state is about to be kept: before it is, so that no kept run lacks its lines."""
        if self._ranks.first:
            row = {"iteration": state["iteration"], "calls": state["calls"], "seconds": self._seconds}
            progress.append(self.path, row, durable=True)

    @contextmanager
    def until_the_end(self) -> Iterator[Callable[[Result], Result]]:
        """Note in end.json the result that the block hands over, or the error that it ends with."""
        reached: list[Result] = []

        def ended(result: Result) -> Result:
            reached.append(result)
            return result

        try:
            yield ended
        except Exception as error:
            self._note("failed", str(error), self._reached)
            raise
        if reached:
            self._note(*_end(reached[0], self._config["iterations"]), reached[0].iterations)

    def _note(self, end: progress.End, message: str, iteration: int) -> None:
        if self._ranks.first:
            progress.note_end(self.folder, end, iteration=iteration, message=message)

    @property
    def _seconds(self) -> float:
        return round(self._before + time.perf_counter() - self._began, 3)


def _end(result: Result, iterations: int) -> tuple[progress.End, str]:
    if result.status.failed:
        return "failed", f"{result.status.name}: {result.status.advice}"
    if result.status is Status.CONVERGED or result.iterations == iterations:
        return "finished", f"{result.status.name}: {result.status.advice}"
    return "stopped", "asked to end by a signal: --resume goes on from what is kept"


def _until(path: Path, iteration: int) -> list[bytes]:
    """The lines of what is kept after this many iterations: earlier ones, and that of the keeping itself."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        rows = [(line, row) for line in file if (row := progress.row_of(line)) is not None]
    return [line for line, row in rows if row["iteration"] < iteration + ("calls" in row)]


def _number(value: float) -> float | None:
    """The value, or None where it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None
