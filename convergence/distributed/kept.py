"""A run of `solve` in a folder: phi and traces in one file, the rows of tasks in one of each rank, for any number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convergence import checkpoints
from convergence.described import require_same
from convergence.distributed.ranks import Ranks
from convergence.trees import tensors_of

_ROWS = "rows-*.pt"


class Kept:
    """The folder of a run on some ranks, which share it where another number of them is to go on.

    `run.pt` names the files that hold the rows, and appears when all of those are there: whenever a run is lost, what
    `run.pt` names is whole. Rank 0 alone writes it, and removes rows that it no longer names.
    """

    def __init__(self, folder: Path, ranks: Ranks, config: Mapping[str, Any]):
        self.folder, self._ranks = folder, ranks
        self._config: dict[str, Any] = json.loads(json.dumps(config))

    @property
    def file(self) -> Path:
        """phi, traces, counts, and the names of the files with rows."""
        return self.folder / "run.pt"

    def found(self, *, resume: bool) -> dict[str, Any] | None:
        """What was kept, on every rank; None where nothing is gone on from.

        Raises ValueError on every rank where there is nothing to resume, the run was another one, or there is one that
        would be lost.
        """

        def read() -> dict[str, Any] | None:
            for left in self.folder.glob(".*.partial"):  # by a process that was killed: this one holds the folder
                left.unlink(missing_ok=True)
            if not resume:
                if self.file.exists():
                    raise ValueError(f"expected a folder without a run, or resume, got {self.folder} with run.pt")
                return None
            held, state = checkpoints.read(self.file)
            require_same(self._config, held, self.file, free=frozenset())
            if "iteration" not in state:
                raise ValueError(f"expected a run in {self.file}, got rows of one")
            return state

        return self._ranks.from_first(read)

    def rows(self, state: Mapping[str, Any], own: slice) -> list[Tensor]:
        """The rows of the tasks own.start .. own.stop - 1, of every tensor that the method keeps.

        Raises ValueError where a file that holds some of them is not there, not whole, or of another run.
        """
        found: list[list[Tensor]] = []
        for name, first, last in state["rows"]:
            here = slice(max(first, own.start) - first, min(last, own.stop) - first)
            if here.start < here.stop:
                held, kept = checkpoints.read(self.folder / name)
                require_same(self._config, held, self.folder / name, free=frozenset())
                found.append([tensor[here] for tensor in kept["rows"]])
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def write(self, state: Mapping[str, Any], rows: Any, own: slice) -> None:
        """Keep the state, which all ranks share, and the rows of this one's tasks.

        Raises OSError, what was kept before intact, where that fails; ValueError where the method keeps anything but a
        row for each task; RankLost.
        """
        held = tensors_of(rows)
        if wrong := [tuple(x.shape) for x in held if x.shape[:1] != (own.stop - own.start,)]:
            raise ValueError(
                f"expected a row for each of {own.stop - own.start} tasks, got a state of shape {wrong[0]}"
            )
        name = f"rows-{state['iteration']}-{self._ranks.rank}-of-{self._ranks.size}.pt"
        if held:
            checkpoints.write(self.folder / name, self._config, {"rows": [x.cpu() for x in held]})
        parts = self._ranks.gather((name, own.start, own.stop) if held else None)  # after this all of them are there
        written = [part for part in parts if part is not None]
        self._ranks.from_first(lambda: self._commit(state, written))

    def _commit(self, state: Mapping[str, Any], parts: Sequence[tuple[str, int, int]]) -> None:
        checkpoints.write(self.file, self._config, {**state, "rows": [list(part) for part in parts]})
        named = {name for name, _, _ in parts}
        for path in self.folder.glob(_ROWS):
            if path.name not in named:
                path.unlink(missing_ok=True)
