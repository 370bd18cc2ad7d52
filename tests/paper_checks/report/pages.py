"""The pages that a browser opens in these tests: of the run kept in docs/gallery, with figures at the limit of size."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from figures import FIGURES
from figures.style import save
from paper_checks import CLAIMS, Outcome, Setting
from paper_checks.evidence import load_run
from paper_checks.report.page import Entry, page
from tests.figures.evidence import make

GALLERY = Path(__file__).parents[3] / "docs" / "gallery"
FEW = ("certificate", "cg_rate", "batch_size_decay", "memory")


def entries(folder: Path) -> list[Entry]:
    """Every claim as it was judged, but one VIOLATED and one INCONCLUSIVE; figures as large as vectors may be."""
    save(FIGURES["cg_rate"](make("cg_rate", 6)), folder, "cg_rate")
    (folder / "limit.svg").write_text(drawing(9_000))
    (folder / "memory.svg").write_text(drawing(30_000))
    shutil.copy(GALLERY / "deterministic_exact.png", folder / "memory.png")
    stored = load_run(GALLERY).entries
    found = []
    for name, claim in CLAIMS.items():
        verdict = stored[name].verdict
        if name == "memory":
            verdict = replace(verdict, failure="the run ended with NON_FINITE")
        if name == "cg_rate":
            verdict = replace(verdict, control=tuple(replace(c, outcome=Outcome.HOLDS) for c in verdict.control))
        figure = folder / f"{name}.svg"
        found.append(Entry(claim, verdict, figure if figure.exists() else folder / "limit.svg"))
    return found


def drawing(points: int) -> str:
    """A figure with a line of so many points, about 13 bytes each."""
    line = "".join(f"L{k % 700}.25 {(k * k) % 300}.125" for k in range(points))
    head = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 700 300' width='700' height='300'>"
    return f'{head}<path fill="none" stroke="black" d="M0 0{line}"/></svg>'


def write(folder: Path, found: Sequence[Entry]) -> Path:
    """The report as a file."""
    path = folder / "report.html"
    path.write_text(page(found, Setting()))
    return path
