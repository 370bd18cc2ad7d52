"""What the files of a run say of it: how far it is, what was measured, who is at work, how it ended."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from convergence.files import at_work
from convergence.progress import END, Row
from convergence.training import seeds as over_seeds
from convergence.watch.series import Series
from convergence.watch.tail import Tail

State = Literal["running", "finished", "interrupted", "failed", "killed"]
_ENDED: dict[Any, State] = {"finished": "finished", "stopped": "interrupted", "failed": "failed"}
_RECENT = 256  # rows of which the rate is
_MESSAGES = 5
_KEPT = "kept, from here it can go on"
_SILENT = 30.0  # seconds in which a process of another machine has written nothing: it may be at work no longer
_NEXT_SEED = 20.0
_LARGEST = 1e300  # of a number that is shown: sums and differences of as many as are held are finite
_LONGEST = 400  # characters of a name or a message


class Quantity(NamedTuple):
    """What a field of a row is called; `root`: shown is the square root; `share`: shown in per cent."""

    label: str
    root: bool = False
    share: bool = False


QUANTITIES = {
    "loss": Quantity("loss"),
    "value": Quantity("Phi"),
    "gap": Quantity("Phi - Phi*"),
    "grad_norm_sq": Quantity("|grad Phi|", root=True),
    "direction_norm": Quantity("|d|"),
    "direction_norm_sq": Quantity("|d|", root=True),
    "certified_direction_error": Quantity("certified |d - grad Phi|"),
    "direction_error_sq": Quantity("|d - grad Phi|", root=True),
    "distance_sq": Quantity("|phi - phi*|", root=True),
    "learning_rate": Quantity("learning rate"),
    "validation_accuracy": Quantity("validation", share=True),
    "validation_gradient_ratio": Quantity("|grad g| / its start"),
}


@dataclass(frozen=True)
class Ended:
    """How a run stands: its state, and why in a sentence."""

    state: State
    why: str


class Watched(ABC):
    """A folder that is looked at again and again."""

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def look(self, *, within: float = math.inf) -> None:
        """Read what has come since the last look, for about so many seconds. Raises OSError."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether anybody is at work."""

    @property
    def behind(self) -> int:
        """Bytes that are there and not read yet."""
        return 0

    @property
    def patience(self) -> float:
        """Seconds after which something may still come though nobody is at work."""
        return 0.0


class RunWatched(Watched):
    """One run: `train` writes metrics.jsonl, `solve --keep` progress.jsonl, both config.json, end.json and the lock.

    iteration, iterations   completed, and asked for (None: unknown)
    series                  field -> what was measured, the fields of `QUANTITIES`
    last                    field -> the last value that was not null of any other field: calls, peak_bytes, ...
    messages                the last of what is worth a line
    """

    def __init__(self, folder: Path, log: str):
        super().__init__(folder)
        self._tail = Tail(folder / log)
        self.config: dict[str, Any] = {}
        self.stands = Ended("interrupted", "")
        self._looks, self._grew, self._seen_here = 0, -math.inf, ""
        self._forget()

    def _forget(self) -> None:
        self.iteration = 0
        self.series = {field: Series() for field in QUANTITIES}
        self.last: dict[str, Any] = {}
        self.messages: deque[str] = deque(maxlen=_MESSAGES)
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    # ---- what it says

    @property
    def running(self) -> bool:
        """Whether a process is at work in the folder."""
        return self.stands.state == "running"

    @property
    def behind(self) -> int:
        """Bytes of the log that are not read yet."""
        return self._tail.behind

    @property
    def patience(self) -> float:
        """A process that is not of this machine shows itself by what it writes."""
        return _SILENT if self.stands.state == "killed" else 0.0

    @property
    def iterations(self) -> int | None:
        """How many were asked for."""
        plan = self.config.get("plan")
        return _count(plan.get("iterations") if isinstance(plan, dict) else self.config.get("iterations"))

    @property
    def title(self) -> str:
        """The method and the problem or the data."""
        labels, config = self.config.get("labels"), self.config
        if isinstance(labels, dict) and {"method", "data"} <= labels.keys():
            return f"{plain(labels['method'])} on {plain(labels['data'])}"
        method = config["recipe"].get("method") if isinstance(config.get("recipe"), dict) else config.get("method")
        names = [thing.get("type") for thing in (method, config.get("problem")) if isinstance(thing, dict)]
        return " on ".join(filter(None, map(plain, names)))

    @property
    def rate(self) -> float | None:
        """Iterations a second, over the last rows."""
        if len(self._recent) < 2:
            return None
        (first, began), (last, ended) = self._recent[0], self._recent[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    @property
    def seconds(self) -> float | None:
        """That it has run, pauses left out."""
        return _number(self.last.get("seconds"))

    @property
    def left(self) -> float | None:
        """Seconds to the end at this rate; None where it does not run."""
        if not self.running or self.iterations is None or self.rate is None:
            return None
        return max(0, self.iterations - self.iteration) / self.rate

    @property
    def silent(self) -> float:
        """Seconds since the last line was written."""
        try:
            return max(0.0, time.time() - self._tail.path.stat().st_mtime)
        except OSError:
            return 0.0

    # ---- reading

    def look(self, *, within: float = math.inf) -> None:
        """Read the lines that have come, and whether anybody is at work."""
        self.config = _read(self.folder / "config.json") or self.config
        anew, rows = self._tail.read(within=within)
        if anew:
            self._forget()
        for row in rows:
            self._take(row)
        if rows and self._looks > 0:
            self._grew = time.monotonic()
        self._looks += 1
        self.stands = self._ended()

    def _take(self, row: Row) -> None:
        self.iteration = max(self.iteration, row["iteration"])
        for field, value in row.items():
            quantity = QUANTITIES.get(field)
            if quantity is None:
                if value is not None:
                    self.last[field] = value
            elif (found := _number(value)) is not None:
                self.series[field].add(math.sqrt(max(0.0, found)) if quantity.root else found)
        if (seconds := _number(row.get("seconds"))) is not None:
            self._recent.append((self.iteration, seconds))
        for message in _worth_a_line(row):
            if self.messages and {self.messages[-1].split(": ")[1], message.split(": ")[1]} == {_KEPT}:
                self.messages.pop()  # one of them says enough
            self.messages.append(message)

    def _ended(self) -> Ended:
        if (process := _at_work(self.folder)) is not None:
            self._seen_here = str(process)
            return Ended("running", f"process {process}")
        noted = _read(self.folder / END) or {}
        if (ended := plain(noted.get("end"))) in _ENDED:
            return Ended(_ENDED[ended], plain(noted.get("message")))
        process_gone = _locked_by(self.folder)
        if process_gone not in ("", self._seen_here) and time.monotonic() - self._grew < _SILENT:
            return Ended("running", f"process {process_gone}, not of this machine")
        if process_gone:
            return Ended("killed", f"process {process_gone} is no longer running")
        if self.iterations is not None and self.iteration >= self.iterations:
            return Ended("finished", "all iterations that were asked for")
        return Ended("interrupted", "it said nothing of its end")


class Seeds(Watched):
    """Several runs that differ in their seed alone, in DIR/seed-0, DIR/seed-1, ...: also those that are to come."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.runs: dict[str, RunWatched] = {}

    def look(self, *, within: float = math.inf) -> None:
        """Look at each of them."""
        for path in over_seeds.folders(self.folder):
            if path.name not in self.runs and (path / "metrics.jsonl").is_file():
                self.runs[path.name] = RunWatched(path, "metrics.jsonl")
        for run in self.runs.values():
            run.look(within=within / len(self.runs))

    @property
    def running(self) -> bool:
        """Whether any of them is."""
        return any(run.running for run in self.runs.values())

    @property
    def patience(self) -> float:
        """From the end of one to the start of the next, which has its own folder."""
        return max([_NEXT_SEED, *(run.patience for run in self.runs.values())])

    @property
    def behind(self) -> int:
        """Of all their logs."""
        return sum(run.behind for run in self.runs.values())


class Judging(NamedTuple):
    """What is said of a claim: its state ("waiting", "running", "finished"), and "" or None where it says no more."""

    state: str
    measuring: str
    outcome: str
    seconds: float | None


class Battery(Watched):
    """A run of `paper_checks`, which writes progress.json.

    claims   by name, as far as each says it
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.claims: dict[str, Judging] = {}
        self.stands = Ended("interrupted", "")
        self._updated, self._grew = "", -math.inf
        self._seen_here: int | None = None

    def look(self, *, within: float = math.inf) -> None:
        """Read the file, which is replaced as a whole."""
        found = _read(self.folder / "progress.json") or {}
        claims, updated, pid = found.get("claims"), plain(found.get("updated")), _count(found.get("pid"))
        self.claims = {
            plain(name): Judging(
                plain(claim.get("state")),
                plain(claim.get("measuring")),
                plain(claim.get("outcome")),
                _number(claim.get("seconds")),
            )
            for name, claim in (claims if isinstance(claims, dict) else {}).items()
            if isinstance(claim, dict)
        }
        if self._updated not in ("", updated):
            self._grew = time.monotonic()
        self._updated = updated
        whose = "its process" if pid is None else f"process {pid}"
        state, process = found.get("state"), _at_work(self.folder)
        if process is not None:
            self._seen_here = process
            self.stands = Ended("running", f"process {process}")
        elif state == "running" and pid != self._seen_here and time.monotonic() - self._grew < _SILENT:
            self.stands = Ended("running", f"{whose}, not of this machine")
        elif state in ("finished", "interrupted", "failed"):
            self.stands = Ended(state, plain(found.get("message")))
        elif state == "running":
            self.stands = Ended("killed", f"{whose} is no longer running")
        else:
            self.stands = Ended("interrupted", "its progress.json says nothing of how it stands")

    @property
    def running(self) -> bool:
        """Whether claims are being judged."""
        return self.stands.state == "running"

    @property
    def patience(self) -> float:
        """A process that is not of this machine shows itself by what it writes."""
        return _SILENT if self.stands.state == "killed" else 0.0


def watched(folder: Path) -> Watched:
    """What is in the folder, not yet looked at. Raises ValueError where there is no run in it."""
    if not folder.is_dir():
        raise ValueError(f"expected the folder of a run, got {folder}, which is none")
    for log in ("metrics.jsonl", "progress.jsonl"):
        if (folder / log).is_file():
            return RunWatched(folder, log)
    if any((path / "metrics.jsonl").is_file() for path in over_seeds.folders(folder)):
        return Seeds(folder)
    if (folder / "progress.json").is_file():
        return Battery(folder)
    raise ValueError(
        "expected a folder that train, solve --keep or paper_checks writes (with metrics.jsonl, progress.jsonl or "
        f"progress.json), got {folder} without"
    )


def _worth_a_line(row: Row) -> Iterator[str]:
    at = row["iteration"]
    if breakdowns := _count(row.get("breakdowns")):
        yield f"iteration {at}: CG broke down in {breakdowns} tasks"
    if (seconds := _number(row.get("compile_seconds"))) is not None:
        yield f"iteration {at}: compiled in {seconds} s"
    if (accuracy := _number(row.get("validation_accuracy"))) is not None:
        half = _number(row.get("validation_ci95"))
        within = "" if half is None else f" +- {100 * half:.1f}"
        yield f"iteration {at}: validation {100 * accuracy:.1f}{within} %"
    if len(row) == 3 and "calls" in row and at > 0:
        yield f"iteration {at}: {_KEPT}"


# ---- of somebody else's files, what has the type that a run writes


def _read(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is none, or not yet, or a folder or a pipe has its name."""
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else None
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _number(value: object) -> float | None:
    """The number; None where it is none, or too large to be drawn."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value if abs(value) <= _LARGEST else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def plain(text: object) -> str:
    """The text on one line, without what steers a terminal or cannot be written; "" where it is none."""
    if not isinstance(text, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST])


def _at_work(folder: Path) -> int | None:
    return at_work(folder) if (folder / ".lock").is_file() else None


def _locked_by(folder: Path) -> str:
    """The id of the process that has left its lock, as text; "" where none has."""
    lock = folder / ".lock"
    try:
        words = lock.read_text().split() if lock.is_file() else []
    except (OSError, ValueError):
        return ""
    return words[0] if words and words[0].isdecimal() else ""
