"""DIR/progress.json: how far a run of the battery is, for those who look on.

    pid       of the process that writes it
    state     "running", "finished" (every claim is judged), "interrupted" (by a signal), "failed" (by an error)
    message   why it ended, in a sentence; "" while it runs
    started   when this process began, updated: when this was written, in UTC, as 2026-01-31T23:59:59+00:00
    claims    in the order of the report, by name: state ("waiting", "running", "finished"), measuring (what is being
              measured, "" where nobody said), outcome and seconds (null until it is finished)

A process that was killed leaves "running" behind: `files.at_work` tells whether it still is. What other processes
measure (--jobs, torchrun) is read from DIR/progress/NAME/measuring, so that a claim is "running" once it has said so.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from convergence.files import write_atomically
from paper_checks.cells import Cells
from paper_checks.claim import Verdict

PROGRESS = "progress.json"
State = Literal["running", "finished", "interrupted", "failed"]
_EVERY = 0.5  # seconds between two writes, where nothing but a message has changed


class Progress:
    """What is written to progress.json: after every claim, and while they are measured twice a second at most.

    Nothing depends on the file: a disk that has no room for it fails no run.
    """

    def __init__(self, folder: Path, claims: Sequence[str]):
        self.cells = Cells(folder / "progress")
        self._path = folder / PROGRESS
        self._started, self._written = _now(), 0.0
        self._claims = tuple(claims)
        self._verdicts: dict[str, Verdict] = {}

    def judged(self, verdict: Verdict) -> None:
        """A claim is finished and its evidence is written: what was kept within it is no longer needed."""
        self._verdicts[verdict.claim] = verdict
        self.cells.within(verdict.claim).remove()
        self.write()

    def look(self) -> None:
        """Write anew what is being measured, if the last time is long enough ago."""
        if time.monotonic() - self._written >= _EVERY:
            self.write()

    def finish(self) -> None:
        """Every claim is finished."""
        self.cells.remove()
        self.write("finished")

    def write(self, state: State = "running", message: str = "") -> None:
        """Write the file."""
        self._written = time.monotonic()
        content = {
            "pid": os.getpid(),
            "state": state,
            "message": message,
            "started": self._started,
            "updated": _now(),
            "claims": {name: self._claim(name) for name in self._claims},
        }
        with suppress(OSError):
            write_atomically(self._path, (json.dumps(content, indent=2) + "\n").encode())

    def _claim(self, name: str) -> dict[str, object]:
        verdict = self._verdicts.get(name)
        if verdict is not None:
            return {
                "state": "finished",
                "measuring": "",
                "outcome": verdict.outcome.value,
                "seconds": round(verdict.seconds, 3),
            }
        noted = self.cells.within(name).noted()
        state = "waiting" if noted is None else "running"
        return {"state": state, "measuring": noted or "", "outcome": None, "seconds": None}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
