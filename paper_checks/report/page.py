"""The report of a run: one HTML page that needs no network."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from paper_checks.bounds import BOUNDS, worst_file
from paper_checks.claim import Claim, Outcome, Setting, Verdict
from paper_checks.falsify import Worst, load
from paper_checks.report.mathematics import mathematics, number
from paper_checks.versions import versions


class Entry(NamedTuple):
    """What the page shows of one claim; `figure` is a file to embed, where there is one."""

    claim: Claim
    verdict: Verdict
    figure: Path | None


def page(entries: Sequence[Entry], setting: Setting) -> str:
    """The report as one HTML page that needs no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "mathematics": mathematics, "image": _data_uri}
    outcomes = [entry.verdict.outcome for entry in entries]
    return environment.get_template("report.html.j2").render(
        entries=[entry._asdict() | {"searched": searched(entry.claim.name)} for entry in entries],
        setting=setting,
        versions=versions(),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        tally={outcome: outcomes.count(outcome) for outcome in Outcome},
        seconds=sum(entry.verdict.seconds for entry in entries),
    )


def searched(claim: str) -> list[Worst]:
    """The worst instances that the search has found for the bounds of this claim; none where it states no bound."""
    return load(worst_file(claim)) if claim in BOUNDS and worst_file(claim).exists() else []


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
