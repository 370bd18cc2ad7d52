"""How a call on malformed input may end: in one clear sentence of ours, or in a result that an independent path finds.

`ends_well(call)` raises `BadEnding` on anything else: an exception from inside a library, a bare KeyError, a warning, a
hang, a result that is not right. tests/fuzz/test_ends.py shows that it sees each of them.
"""

from __future__ import annotations

import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from convergence import ReferenceFailed, RunFailed
from convergence.training import TrainingFailed

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / folder) for folder in ("problems", "convergence", "paper_checks", "figures"))
SECONDS = 30.0  # of one call; each takes a few milliseconds on an idle machine
ROOM = 2**31  # bytes that one call may take beside what the process has
SENTENCES = (ValueError, TypeError, OSError, NotImplementedError, AttributeError, RunFailed, ReferenceFailed)
SENTENCES += (TrainingFailed, ModuleNotFoundError)


class Case(NamedTuple):
    """A malformed input: what it is called, the call with it, and whether a result of that call is right.

    `right` is None where there is no right result, so that the call must be refused.
    """

    name: str
    call: Callable[[], Any]
    right: Callable[[Any], bool] | None = None


class BadEnding(AssertionError):
    """What must not happen on malformed input."""


class Hang(BaseException):
    """No `except Exception` on the way catches it."""


class Own(Exception):
    """What a problem, a probe or a method of a test raises itself: it is passed on as it is."""


def ends_well(case: Case) -> None:
    """Raise BadEnding unless the call is refused in one sentence, or its result is right."""
    try:
        with _limits(), warnings.catch_warnings():
            warnings.simplefilter("error")
            found = case.call()
    except (Exception, Hang, SystemExit) as error:
        _require_sentence(case, error)
        return
    if case.right is None:
        raise BadEnding(f"{case.name}: expected to be refused, was accepted, and gave {str(found)[:300]}")
    try:
        right = case.right(found)
    except Exception as error:
        raise BadEnding(f"{case.name}: no result that can be used: {type(error).__name__}: {error}") from error
    if not right:
        raise BadEnding(f"{case.name}: a wrong result without a word: {str(found)[:300]}")


def _require_sentence(case: Case, error: BaseException) -> None:
    if isinstance(error, Own):
        return
    said = f"{type(error).__name__}: {error}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    if not isinstance(error, SENTENCES):
        raise BadEnding(f"{case.name}: {said[:300]} ({where.filename}:{where.lineno})") from error
    if not where.filename.startswith(OURS):
        raise BadEnding(f"{case.name}: not our sentence: {said[:300]} ({where.filename}:{where.lineno})") from error
    if not is_sentence(str(error), failed=isinstance(error, (RunFailed, TrainingFailed))):
        raise BadEnding(f"{case.name}: no clear sentence: {said[:300]}") from error


def is_sentence(said: str, *, failed: bool = False) -> bool:
    """One line, not endless, that says what was expected (or, of a run that failed, how it ended).

    A list may follow it, on indented lines.
    """
    return ("\n" not in said.strip() or "\n  " in said) and 10 < len(said) < 1500 and (failed or "expected" in said)


@contextmanager
def _limits() -> Iterator[None]:
    """No more than so much time and memory; beyond them Hang and MemoryError are raised."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {SECONDS:g} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    handler = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)
