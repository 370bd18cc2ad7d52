"""What a run of the battery leaves behind: evidence, figures, verdicts.json, report.html; and how it goes on."""

from __future__ import annotations

import json
import os
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


class Output:
    """A folder that is filled claim by claim; every file appears whole or not at all, evidence/NAME.json last.

    claims      to be judged, as they are to stand in the report
    names       those of them that were asked for by name; none: all that apply
    threads     which decide about the last digits, as the setting does about the others
    resume      keep what the folder holds of them, where it is of the same settings and versions
    overwrite   lose evidence at paper scale, which is hours of work; that at smoke scale is lost without asking
    skipped     why other claims do not apply, by name: said in the report

    The caller holds the folder (`files.locked`). Raises ValueError, before anything is run, where the folder cannot be
    written, there is nothing to resume, the run there is another one, a file of it was changed, or it would be lost.
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
        require_writable(folder / "evidence", named=folder)
        if resume:
            self._go_on(claims)
        else:
            _clear(folder, overwrite=overwrite)
        for left in (*folder.glob(".*.partial"), *(folder / "evidence").glob(".*.partial")):
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
            if (path := stored.json_file(self.folder, claim.name)).exists():
                found = stored.read(self.folder, claim.name, setting=self._setting)
                require_same(self._asked, found.header["setting"], path, free=frozenset())
                self._entries[claim.name] = Entry(claim, found.verdict, _figure(self.folder, claim.name))


def _figure(folder: Path, name: str) -> Path | None:
    path = folder / f"{name}.svg"
    return path if path.exists() else None


def _clear(folder: Path, *, overwrite: bool) -> None:
    """Remove what a run before has left. Raises ValueError where that was hours of work, unless it is overwritten."""
    before = _told(folder / stored.RUN)
    setting, claims = before.get("setting"), before.get("claims")
    found = {path.stem: _told(path) for path in sorted((folder / "evidence").glob("*.json"))}
    judged = {name: told["verdict"] for name, told in found.items() if isinstance(told.get("verdict"), dict)}
    costly = [name for name, verdict in judged.items() if verdict.get("scale") == "paper"]
    begun = isinstance(setting, dict) and setting.get("scale") == "paper" and (folder / "progress").exists()
    if (costly or begun) and not overwrite:
        raise ValueError(
            f"expected --resume, to go on with the run at paper scale in {folder} ({len(costly)} claims judged), "
            "--overwrite, to lose it, or another --out, got none of them"
        )
    for name in ("verdicts.json", "report.html", stored.RUN, PROGRESS):
        (folder / name).unlink(missing_ok=True)
    named = {name for name in claims if str(name).isidentifier()} if isinstance(claims, list) else set()
    for name in named | judged.keys():
        stored.json_file(folder, name).unlink(missing_ok=True)
        stored.arrays_file(folder, name).unlink(missing_ok=True)
        for suffix in _FIGURES:
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    Cells(folder / "progress").remove()


def _told(path: Path) -> dict[str, Any]:
    """What a file of JSON says, nothing where it cannot be read: it is about to be written over."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
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
