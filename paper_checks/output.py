"""What a run of the battery leaves behind: evidence, figures, verdicts.json, report.html; and how it goes on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from convergence.described import require_same
from convergence.files import write_atomically
from figures import FIGURES
from figures.style import save
from paper_checks import evidence as stored
from paper_checks.cells import Cells
from paper_checks.claim import Claim, Evidence, Setting, Verdict
from paper_checks.progress import PROGRESS, Progress
from paper_checks.report.page import Entry, page
from paper_checks.versions import versions

_FIGURES = ("svg", "png", "pdf")
_REPLACED = ("verdicts.json", "report.html", PROGRESS)  # by every run, as run.json
_PARTIAL = re.compile(r"\..+\.\d+\.partial")  # what write_atomically leaves when it is killed


class Output:
    """A folder that is filled claim by claim; every file appears whole or not at all, evidence/NAME.json last.

    claims      to be judged, as they are to stand in the report
    names       those of them that were asked for by name; none: all that apply
    threads     which decide about the last digits, as the setting does about the others
    resume      keep what the folder holds of them, where it is of the same settings and versions
    overwrite   lose evidence at paper scale, which is hours of work; that at smoke scale is lost without asking
    skipped     why other claims do not apply, by name: said in the report

    The caller holds the folder (`files.locked`). Raises ValueError, before anything is run, where the folder cannot be
    written, there is nothing to resume, the run there is another one, a file of it was changed, or it would be lost, or
    files of others would.
    """

    def __init__(
        self,
        folder: Path,
        claims: Sequence[Claim],
        setting: Setting,
        *,
        names: Sequence[str] = (),
        threads: int = 1,
        resume: bool = False,
        overwrite: bool = False,
        skipped: Mapping[str, str] | None = None,
    ):
        self.folder, self._setting, self._skipped = folder, setting, skipped
        self._asked = stored.asked_for(setting) | {"threads": threads}
        self._order = [claim.name for claim in claims]
        self._entries: dict[str, Entry] = {}
        before = () if resume else _of_run_before(folder, self._order)
        require_writable(folder / "evidence", named=folder)
        if resume:
            self._go_on(claims)
        elif before is not None:
            _clear(folder, before, overwrite=overwrite)
        for left in (*folder.glob(".*.partial"), *(folder / "evidence").glob(".*.partial")):
            if _PARTIAL.fullmatch(left.name):
                left.unlink(missing_ok=True)
        stored.begin(folder, self._order, self._asked, names)
        self.progress = Progress(folder, self._order)
        for entry in self._entries.values():
            self.progress.judged(entry.verdict)
        self.progress.write()

    @property
    def left(self) -> list[str]:
        """The claims that are not judged yet."""
        return [name for name in self._order if name not in self._entries]

    @property
    def kept(self) -> str:
        """How much is, in words."""
        return f"{len(self._entries)} of {len(self._order)} claims are judged and kept in {self.folder}"

    @property
    def verdicts(self) -> list[Verdict]:
        """What is judged so far, in the order of the report."""
        return [self._entries[name].verdict for name in self._order if name in self._entries]

    def add(self, claim: Claim, verdict: Verdict, evidence: Evidence) -> None:
        """Write the evidence and the figure of one claim."""
        stored.write_arrays(self.folder, claim.name, evidence)
        figure = None
        if evidence and claim.name in FIGURES and self._setting.problem is None:
            save(FIGURES[claim.name](evidence), self.folder, claim.name)
            figure = _figure(self.folder, claim.name)
        stored.write_json(self.folder, verdict, evidence, asked=self._asked)
        self._entries[claim.name] = Entry(claim, verdict, figure)
        self.progress.judged(verdict)

    def write(self) -> None:
        """Write verdicts.json and report.html of the claims added so far, in the order asked for."""
        entries = [self._entries[name] for name in self._order if name in self._entries]
        write_atomically(self.folder / "verdicts.json", _json([entry.verdict.record() for entry in entries]))
        write_atomically(self.folder / "report.html", page(entries, self._setting, self._skipped).encode())

    def _go_on(self, claims: Sequence[Claim]) -> None:
        header = stored.read_header(self.folder)
        where = self.folder / stored.RUN
        require_same(self._asked, header["setting"], where, free=frozenset())
        require_same(versions(), header["versions"], where, free=frozenset())
        for claim in claims:
            if stored.json_file(self.folder, claim.name).exists():
                found = stored.read(self.folder, claim.name, run=header, setting=self._setting)
                self._entries[claim.name] = Entry(claim, found.verdict, _figure(self.folder, claim.name))


def _figure(folder: Path, name: str) -> Path | None:
    path = folder / f"{name}.svg"
    return path if path.exists() else None


def _of_run_before(folder: Path, claims: Sequence[str]) -> Sequence[str] | None:
    """The claims of the run that paper_checks has left in the folder; None where there is none, and nothing in the way.

    Raises ValueError where files of others would be lost.
    """
    with suppress(ValueError):
        return list(stored.read_header(folder)["claims"])
    evidence = [file(folder, name) for name in claims for file in (stored.arrays_file, stored.json_file)]
    known = [folder / name for name in (stored.RUN, *_REPLACED, "progress")]
    found = [path for path in (*known, *evidence) if os.path.lexists(path)]
    if found and (folder / stored.RUN) not in found and (records := _records(folder / "verdicts.json")):
        return list(records)  # by a release that wrote no run.json
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise ValueError(
            f"expected an empty folder, a new one, or one that paper_checks wrote, got {folder} with {names} in it, "
            "which it did not write or which was changed since: another --out, or remove what nobody needs"
        )
    return None


def _records(path: Path) -> dict[str, dict[str, Any]]:
    """What verdicts.json says of each claim; nothing where it is no such file."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if path.is_file():
            return {name: rec for rec in json.loads(path.read_bytes()) if (name := rec["claim"]).isidentifier()}
    return {}


def _clear(folder: Path, claims: Sequence[str], *, overwrite: bool) -> None:
    """Remove what a run before has left, of these claims: run.json comes last, when it is written over.

    Raises ValueError where that was hours of work, unless it is overwritten.
    """
    judged = _records(folder / "verdicts.json")
    for path in sorted((folder / "evidence").glob("*.json")):
        told = _told(path)
        if told.get("claim") == path.stem and isinstance(told.get("verdict"), dict):
            judged[path.stem] = told["verdict"]
    costly = [name for name, verdict in judged.items() if verdict.get("scale") == "paper"]
    setting = _told(folder / stored.RUN).get("setting", {})
    begun = setting.get("scale") == "paper" and (folder / "progress").exists()
    if (costly or begun) and not overwrite:
        raise ValueError(
            f"expected --resume, to go on with the run at paper scale in {folder} ({len(costly)} claims judged), "
            "--overwrite, to lose it, or another --out, got none of them"
        )
    for name in _REPLACED:
        (folder / name).unlink(missing_ok=True)
    for name in {*claims, *judged}:
        stored.json_file(folder, name).unlink(missing_ok=True)
        stored.arrays_file(folder, name).unlink(missing_ok=True)
        for suffix in _FIGURES:
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    Cells(folder / "progress").remove()


def _told(path: Path) -> dict[str, Any]:
    """What a file of JSON says, nothing where it cannot be read: it is about to be written over."""
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and isinstance(content := json.loads(path.read_bytes()), dict):
            return content
    return {}


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
