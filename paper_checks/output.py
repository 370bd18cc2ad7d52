"""What a run of the battery leaves behind: evidence, figures, verdicts.json, report.html."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convergence.files import write_atomically
from figures import FIGURES
from figures.style import save
from paper_checks.claim import Claim, Evidence, Setting, Verdict
from paper_checks.report.page import Entry, page
from paper_checks.versions import versions


class Output:
    """A folder that is filled claim by claim; every file appears whole or not at all.

    order   the names of the claims to come, as they are to stand in the report

    Raises ValueError where the folder cannot be made or written, before anything is run.
    """

    def __init__(self, folder: Path, order: Sequence[str]):
        self.folder = folder
        self._order = tuple(order)
        require_writable(folder / "evidence", named=folder)
        self._entries: list[Entry] = []

    def add(self, claim: Claim, verdict: Verdict, evidence: Evidence) -> None:
        """Write the evidence and the figure of one claim."""
        record = verdict.record()
        arrays = io.BytesIO()
        np.savez_compressed(arrays, **evidence)
        write_atomically(self.folder / "evidence" / f"{claim.name}.npz", arrays.getvalue())
        described = {
            "verdict": record,
            "versions": versions(),
            "arrays": {k: list(v.shape) for k, v in evidence.items()},
        }
        write_atomically(self.folder / "evidence" / f"{claim.name}.json", _json(described))
        figure = None
        if evidence:
            _, figure, _ = save(FIGURES[claim.name](evidence), self.folder, claim.name)
        self._entries.append(Entry(claim, verdict, figure))

    def write(self, setting: Setting) -> None:
        """Write verdicts.json and report.html of the claims added so far, in the order asked for."""
        self._entries.sort(key=lambda entry: self._order.index(entry.claim.name))
        write_atomically(self.folder / "verdicts.json", _json([entry.verdict.record() for entry in self._entries]))
        write_atomically(self.folder / "report.html", page(self._entries, setting).encode())


def require_writable(folder: Path, *, named: Path | None = None) -> None:
    """Make the folder where it is missing. Raises ValueError, about `named`, where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        shown = folder if named is None else named
        raise ValueError(f"expected an output folder that can be written, got {shown}: {error.strerror}") from error


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
