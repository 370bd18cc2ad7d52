"""Evidence on disk: what a run of the battery found, whole and as it was written, or refused in a sentence.

    DIR/run.json             what was asked for: schema, claims, names, setting, versions, sha256
    DIR/evidence/NAME.npz    the arrays that a claim was judged by
    DIR/evidence/NAME.json   schema, claim, setting, versions, verdict, arrays (shape, dtype, sha256 of each),
                             evidence (sha256 of the arrays, those of seconds aside), npz (sha256 of NAME.npz, byte
                             for byte), sha256 (of all in this file)

NAME.json is written last: where it is, the claim was judged. `verdict` is the entry of verdicts.json with numbers that
are not finite as "nan", "inf", "-inf", and seconds not rounded. Numbers in JSON are exact: Python writes and reads
the shortest decimals that give the same double.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convergence import MemoryReduced
from convergence.files import write_atomically
from convergence.imported import source_digest
from paper_checks.archive import SCHEMA, described, digest, opened, packed, sealed, unpacked
from paper_checks.claim import Comparison, Evidence, Outcome, Setting, Verdict, title_of
from paper_checks.versions import versions

RUN = "run.json"


@dataclass(frozen=True)
class Stored:
    """What was kept of one claim: its verdict, the arrays it was judged by, and the rest of NAME.json."""

    verdict: Verdict
    evidence: Evidence = field(repr=False)
    header: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Run:
    """A folder that `python -m paper_checks` wrote, finished or not.

    entries   what is judged so far, by claim, in the order of the report
    header    of run.json: claims (all that were asked for), setting, versions
    """

    folder: Path
    entries: Mapping[str, Stored]
    header: Mapping[str, Any]

    @property
    def claims(self) -> tuple[str, ...]:
        """All that were asked for, in the order of the report."""
        return tuple(self.header["claims"])

    @property
    def finished(self) -> bool:
        """Whether every claim that was asked for is judged."""
        return set(self.claims) <= set(self.entries)


def load_run(folder: Path) -> Run:
    """Every claim that is judged in the folder. Raises ValueError where there is no run, or a file was changed or is of
    another run."""
    header = read_header(folder)
    stored = {name: read(folder, name, run=header) for name in header["claims"] if json_file(folder, name).exists()}
    return Run(folder, stored, header)


# ---- what was asked for


def begin(folder: Path, claims: Sequence[str], asked: Mapping[str, Any], names: Sequence[str] = ()) -> None:
    """Write run.json: the claims to come, in the order of the report, and what `asked_for` says of their setting.

    names   those that were asked for by name; none: all that apply
    """
    header = {
        "schema": SCHEMA,
        "claims": list(claims),
        "names": list(names),
        "setting": dict(asked),
        "versions": versions(),
    }
    write_atomically(folder / RUN, sealed(header))


def read_header(folder: Path) -> dict[str, Any]:
    """What `begin` wrote. Raises ValueError where there is no such file, or it is not as it was written."""
    header = opened(folder / RUN)
    claims, names = header.get("claims"), header.setdefault("names", [])
    plain = isinstance(claims, list) and isinstance(names, list) and all(map(_is_name, (*claims, *names)))
    if not plain or not isinstance(header.get("setting"), dict) or not isinstance(header.get("versions"), dict):
        raise ValueError(f"expected claims, setting and versions of a run in {folder / RUN}, got others")
    return header


def _is_name(name: object) -> bool:
    """Whether it can be a claim's, and a part of no path."""
    return isinstance(name, str) and name.isidentifier()


def names_to_resume(folder: Path, names: Sequence[str]) -> list[str]:
    """The claims by name of a run that goes on: those of the run and these; none where it is of all that apply.

    Raises ValueError where there is no run in the folder, or its run.json is not as it was written.
    """
    if not (folder / RUN).exists():
        raise ValueError(f"expected a run to resume in {folder}, got none: start without --resume")
    held = read_header(folder)["names"]
    return list(dict.fromkeys([*held, *names])) if held else []


def asked_for(setting: Setting) -> dict[str, Any]:
    """What decides about the numbers of a run, of JSON's types: runs that agree in it have the same evidence."""
    return {
        "scale": setting.scale,
        "seed": setting.seed,
        "device": setting.device,
        "memory": setting.memory,
        "method": _named(setting.method),
        "problem": None if setting.problem is None else _named(setting.problem),
    }


def _named(make: Any) -> str:
    """What makes a method or a problem, with a digest of its source where it is not the paper's algorithm."""
    if make is MemoryReduced:
        return title_of(make)
    digest = make.sha256() if hasattr(make, "sha256") else source_digest(make)
    return f"{title_of(make)}, sha256 {digest}"


# ---- one claim


def arrays_file(folder: Path, name: str) -> Path:
    """Of the arrays of a claim."""
    return folder / "evidence" / f"{name}.npz"


def json_file(folder: Path, name: str) -> Path:
    """Of all else that is kept of a claim."""
    return folder / "evidence" / f"{name}.json"


def write_arrays(folder: Path, name: str, evidence: Evidence) -> None:
    """Write NAME.npz; what NAME.json said of other arrays is removed first. Raises OSError."""
    json_file(folder, name).unlink(missing_ok=True)
    write_atomically(arrays_file(folder, name), packed(evidence))


def write_json(folder: Path, verdict: Verdict, evidence: Evidence, *, asked: Mapping[str, Any]) -> None:
    """Write NAME.json, after all else of the claim: from now on it counts as judged. Raises OSError."""
    header = {
        "schema": SCHEMA,
        "claim": verdict.claim,
        "setting": dict(asked),
        "versions": versions(),
        "verdict": _told(verdict),
        "arrays": {name: described(array) for name, array in evidence.items()},
        "evidence": digest(evidence),
        "npz": _sha256(arrays_file(folder, verdict.claim)),
    }
    write_atomically(json_file(folder, verdict.claim), sealed(header))


def read(folder: Path, name: str, *, run: Mapping[str, Any] | None = None, setting: Setting | None = None) -> Stored:
    """What is kept of a claim.

    run       what run.json says, read where it is not given: the evidence must be of its setting and versions
    setting   of the verdict; by default made from the file, with the paper's own method

    Raises ValueError where a file is missing, truncated, changed, of another claim or run, or of a newer schema.
    """
    path = json_file(folder, name)
    header = opened(path)
    if header.get("claim") != name:
        raise ValueError(f"expected the evidence of {name} in {path}, got that of {header.get('claim')!r}")
    _require_of(read_header(folder) if run is None else run, header, path)
    evidence = read_arrays(folder, name, header)
    try:
        asked = header["setting"]
        if setting is None:
            setting = Setting(asked["scale"], asked["seed"], asked["device"], memory=asked["memory"])
        return Stored(_verdict(header["verdict"], setting), evidence, header)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a verdict in {path}, got one without {error}") from error


def _require_of(run: Mapping[str, Any], header: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError naming the first of setting and versions in which the evidence is not of the run."""
    for part in ("setting", "versions"):
        asked, found = run[part], header.get(part)
        if not isinstance(found, dict):
            raise ValueError(f"expected {part} in {path}, got none")
        for name in {**asked, **found}:
            if asked.get(name) != found.get(name):
                raise ValueError(
                    f"expected evidence of this run, {name} = {asked.get(name)!r}, in {path}, got {found.get(name)!r}"
                )


def read_arrays(folder: Path, name: str, header: Mapping[str, Any] | None = None) -> Evidence:
    """The arrays of NAME.npz, held against NAME.json. Raises ValueError where they are not those that it names."""
    path = arrays_file(folder, name)
    if header is None:
        header = opened(json_file(folder, name))
    evidence = unpacked(path)
    found = {key: described(array) for key, array in evidence.items()}
    if header.get("claim") != name or found != header.get("arrays"):
        raise ValueError(f"expected the arrays that {json_file(folder, name)} names in {path}, got others")
    if header["schema"] > 1 and header.get("npz") != _sha256(path):  # also what stands beside the arrays
        raise ValueError(f"expected {path} as paper_checks wrote it, got one that was changed since")
    return evidence


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- verdicts as JSON and back


def _told(verdict: Verdict) -> dict[str, Any]:
    return verdict.record() | {
        "seconds": verdict.seconds,
        "failure": verdict.failure,
        "comparisons": [_exact(each) for each in verdict.comparisons],
        "control_comparisons": [_exact(each) for each in verdict.control],
    }


def _verdict(told: Mapping[str, Any], setting: Setting) -> Verdict:
    """The verdict that `_told` wrote down."""
    comparisons, control = (tuple(map(_comparison, told[name])) for name in ("comparisons", "control_comparisons"))
    return Verdict(told["claim"], comparisons, control, float(told["seconds"]), setting, told["failure"])


def _exact(comparison: Comparison) -> dict[str, Any]:
    interval = comparison.interval
    return {
        "quantity": comparison.quantity,
        "measured": _number(comparison.measured),
        "relation": comparison.relation,
        "predicted": _number(comparison.predicted),
        "interval": None if interval is None else [_number(end) for end in interval],
        "outcome": comparison.outcome.value,
        "reason": comparison.reason,
        "cell": comparison.cell,
    }


def _comparison(told: Mapping[str, Any]) -> Comparison:
    low_and_high = told["interval"]
    interval = None if low_and_high is None else (float(low_and_high[0]), float(low_and_high[1]))
    return Comparison(
        told["quantity"],
        float(told["measured"]),
        told["relation"],
        float(told["predicted"]),
        Outcome(told["outcome"]),
        told["reason"],
        interval,
        told["cell"],
    )


def _number(value: float) -> float | str:
    """The number, or its name where JSON has none for it."""
    value = float(value)
    return value if math.isfinite(value) else str(value)
