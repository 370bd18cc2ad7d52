"""What a run of the battery leaves behind: evidence, figures, verdicts.json, one self-contained page."""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from convergence.files import write_atomically
from figures import FIGURES
from figures.style import save
from paper_checks.bounds import BOUNDS, worst_file
from paper_checks.claim import Claim, Evidence, Outcome, Setting, Verdict
from paper_checks.falsify import Worst, load


class Output:
    """A folder that is filled claim by claim; every file appears whole or not at all.

    order   the names of the claims to come, as they are to stand in the report

    Raises ValueError where the folder cannot be made or written, before anything is run.
    """

    def __init__(self, folder: Path, order: Sequence[str]):
        self.folder = folder
        self._order = tuple(order)
        require_writable(folder / "evidence", named=folder)
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

    def write(self, setting: Setting) -> None:
        """Write verdicts.json and report.html of the claims added so far, in the order asked for."""
        self._entries.sort(key=lambda entry: self._order.index(entry["claim"].name))
        write_atomically(self.folder / "verdicts.json", _json([entry["record"] for entry in self._entries]))
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


def page(entries: list[dict[str, Any]], setting: Setting) -> str:
    """The report as one HTML page that needs no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "mathematics": mathematics, "image": _data_uri}
    outcomes = [entry["verdict"].outcome for entry in entries]
    return environment.get_template("report.html.j2").render(
        entries=[entry | {"searched": searched(entry["claim"].name)} for entry in entries],
        setting=setting,
        versions=versions(),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        tally={outcome: outcomes.count(outcome) for outcome in Outcome},
        seconds=sum(entry["verdict"].seconds for entry in entries),
    )


def searched(claim: str) -> list[Worst]:
    """The worst instances that the search has found for the bounds of this claim; none where it states no bound."""
    return load(worst_file(claim)) if claim in BOUNDS and worst_file(claim).exists() else []


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


# Plain text of docstrings -> symbols; whole words only, in this order.
SYMBOLS = {
    "chi_hat": "χ̂",
    "grad": "∇", "sqrt": "√", "sum": "∑", "alpha": "α", "beta": "β", "gamma": "γ", "Delta": "Δ", "eps": "ε",
    "zeta": "ζ", "theta": "θ", "kappa": "κ", "Lambda": "Λ", "mu": "μ", "sigma": "σ", "tau": "τ", "phi": "φ",
    "Phi": "Φ", "varrho": "ϱ", "chi": "χ", "rho": "ρ", "nu": "ν", "ell": "ℓ", "omega": "ω", "xi": "ξ", "delta": "δ",
    "epsilon": "ε",
}  # fmt: skip


def mathematics(text: str) -> Markup:
    """Text with its formulas in symbols, subscripts and superscripts, as HTML.

    >>> str(mathematics("|grad Phi(phi_t)|^2 <= 2 V_0 / (beta T)"))
    '|∇Φ(φ<sub>t</sub>)|<sup>2</sup> ≤ 2 V<sub>0</sub> / (β T)'
    """
    for word, symbol in SYMBOLS.items():
        text = re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", symbol, text)
    text = text.replace("∇ ", "∇").replace("√ ", "√").replace("<=", "≤").replace(">=", "≥").replace("+-", "±")
    index = r"(?:\{([^}]*)\}|(\w+))"
    html = re.sub(rf"(?<![A-Za-z])([^\W\d_]|[∇∑|]|min|max|mean)_{index}", _lowered, str(escape(text)))
    return Markup(re.sub(rf"\^{index}", lambda found: f"<sup>{found[1] or found[2]}</sup>", html))


def _lowered(found: re.Match[str]) -> str:
    return f"{found[1]}<sub>{found[2] or found[3]}</sub>"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
