"""The report of a run: one HTML page that needs no network."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from convergence import MemoryReduced
from paper_checks.bounds import BOUNDS, worst_file
from paper_checks.claim import Claim, Outcome, Setting, Verdict
from paper_checks.falsify import Worst, load
from paper_checks.report import gauges, theory
from paper_checks.report.mathematics import mathematics, number
from paper_checks.report.pictures import data_uri, uri
from paper_checks.versions import versions

_HERE = Path(__file__).parent
SYMBOLS = {"HOLDS": "✓", "VIOLATED": "✗", "INCONCLUSIVE": "?", "SAME": "=", "CHANGED": "≠"}


class Entry(NamedTuple):
    """What the page shows of one claim; `figure` is a file to embed, where there is one."""

    claim: Claim
    verdict: Verdict
    figure: Path | None


def page(entries: Sequence[Entry], setting: Setting, skipped: Mapping[str, str] | None = None) -> str:
    """The report as one HTML page that needs no network, and says the same without its script.

    skipped   name of a claim that does not apply -> the sentence that says why
    """
    outcomes = [entry.verdict.outcome for entry in entries]
    own = judged(setting)
    sections = theory.cited(entry.claim.sections.get("Source", "") for entry in entries)
    return rendered(
        "report.html.j2",
        links={entry.claim.name: f"#{entry.claim.name}" for entry in entries},
        # The search was for counterexamples to the paper's algorithm on the claims' own problems
        entries=[e._asdict() | {"searched": [] if own else searched(e.claim.name)} for e in entries],
        judged=own,
        command=lambda name: command(name, setting),
        skipped=skipped or {},
        theory=sections,
        cited=lambda html: theory.linked(html, sections),
        setting=setting,
        tally={outcome: outcomes.count(outcome) for outcome in Outcome},
        seconds=sum(entry.verdict.seconds for entry in entries),
        machine=machine(),
    )


def rendered(template: str, **values: Any) -> str:
    """A page of this folder, with the style, the script and the font that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": number,
        "number": lambda value: mathematics(number(value), stacked=False),
        "mathematics": mathematics,
        "short": lambda text: mathematics(text, stacked=False),
        "image": data_uri,
        "gauge": gauges.gauge,
        "share": gauges.share,
    }
    return environment.get_template(template).render(
        style=Markup((_HERE / "style.css").read_text()),
        script=Markup((_HERE / "behaviour.js").read_text()),
        font=uri("font/woff2", (_HERE / "mathematics.woff2").read_bytes()),
        symbols=SYMBOLS,
        pair=gauges.pair,
        versions=versions(),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **values,
    )


def searched(claim: str) -> list[Worst]:
    """The worst instances that the search has found for the bounds of this claim; none where it states no bound."""
    return load(worst_file(claim)) if claim in BOUNDS and worst_file(claim).exists() else []


def judged(setting: Setting) -> dict[str, str]:
    """What is judged in place of the paper's algorithm and the claims' own problems: kind -> name, as module:name."""
    found = {}
    if setting.method is not MemoryReduced:
        found["method"] = _spec(setting.method)
    if setting.problem is not None:
        found["problem"] = _spec(setting.problem)
    return found


def command(claim: str, setting: Setting) -> str:
    """The command that judges this claim again, with every option that decides about the numbers."""
    options = {"scale": setting.scale, "seed": setting.seed, "device": setting.device, "memory": setting.memory}
    given = options | judged(setting)
    said = " ".join(f"--{name} {value}" for name, value in given.items() if value is not None)
    return f"python -m paper_checks {claim} {said}"


def machine() -> str:
    """The kind of machine, without anything that tells whose."""
    return re.sub(r"\s+", " ", f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors")


def _spec(make: Callable[..., Any]) -> str:
    return str(getattr(make, "spec", "")) or f"{make.__module__}:{getattr(make, '__qualname__', type(make).__name__)}"
