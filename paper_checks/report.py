"""What a run of the battery leaves behind: evidence, figures, verdicts.json, one self-contained page."""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from convergence.files import write_atomically
from figures import FIGURES
from figures.style import save
from paper_checks.claim import Claim, Evidence, Outcome, Setting, Verdict


class Output:
    """A folder that is filled claim by claim; every file appears whole or not at all.

    Raises ValueError where the folder cannot be made or written, before anything is run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            (folder / "evidence").mkdir(parents=True, exist_ok=True)
            probe = folder / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"expected an output folder that can be written, got {folder}: {error.strerror}"
            ) from error
        self._entries: list[dict[str, Any]] = []

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
            _, figure = save(FIGURES[claim.name](evidence), self.folder, claim.name)
        self._entries.append({"claim": claim, "verdict": verdict, "record": record, "figure": figure})

    def finish(self, setting: Setting) -> None:
        """Write verdicts.json and report.html."""
        write_atomically(self.folder / "verdicts.json", _json([entry["record"] for entry in self._entries]))
        write_atomically(self.folder / "report.html", page(self._entries, setting).encode())


def page(entries: list[dict[str, Any]], setting: Setting) -> str:
    """The report as one HTML page that needs no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "image": _data_uri}
    outcomes = [entry["verdict"].outcome for entry in entries]
    return environment.get_template("report.html.j2").render(
        entries=entries,
        setting=setting,
        versions=versions(),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        tally={outcome: outcomes.count(outcome) for outcome in Outcome},
        seconds=sum(entry["verdict"].seconds for entry in entries),
    )


def versions() -> dict[str, str]:
    """Of this package, Python and what computes."""
    found = {"Python": platform.python_version()}
    for name in ("memory-reduced-meta-learning", "torch", "numpy", "scipy", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from the checkout"
    return found


def number(value: float) -> str:
    """A number as people read it: 5 significant digits, integers whole.

    >>> number(-0.99999999), number(1e-31), number(18684.0), number(float("nan"))
    ('-1', '1e-31', '18684', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.5g}"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
