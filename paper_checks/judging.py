"""Claims judged one after the other, several at a time in processes of their own, or on several ranks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import torch
from threadpoolctl import threadpool_limits

from convergence import memory_limit
from convergence.budget import TooLittleMemory
from convergence.distributed import Ranks
from paper_checks.cells import CellChanged
from paper_checks.claim import Claim, Evidence, Setting, Verdict, silent
from paper_checks.subject import claims_on

Judged = tuple[Claim, Verdict, Evidence]
_START = "spawn"  # a fork would take along torch's threads
_LOOK = 0.5  # seconds between two looks at what other processes measure


def use_threads(count: int) -> None:
    """Of torch, and of numpy's linear algebra: two of its threads on a busy machine wait for each other."""
    torch.set_num_threads(count)
    threadpool_limits(count)


def one_by_one(claims: Sequence[Claim], setting: Setting, say: Callable[[str], None]) -> Iterator[Judged]:
    """Each claim as soon as it is judged; `say` hears what is being measured."""
    for number, claim in enumerate(claims, 1):
        heading = f"{claim.name} ({number} of {len(claims)})"
        say(f"{heading}: {claim.title}")

        def report(what: str, heading: str = heading) -> None:
            say(f"{heading}: {what}")

        yield claim, *_judge(claim.name, replace(setting, report=report))


def side_by_side(
    claims: Sequence[Claim], setting: Setting, say: Callable[[str], None], *, jobs: int, threads: int
) -> Iterator[Judged]:
    """Each claim as soon as it is judged, in the order in which they end, `jobs` at a time.

    The processes end with this generator, and with this process however that ends. Raises ChildProcessError where one
    of them was killed.
    """
    context = multiprocessing.get_context(_START)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        waiting: dict[Future[tuple[Verdict, Evidence]], Claim] = {
            pool.submit(_judge, claim.name, setting): claim for claim in claims
        }
        say(f"{len(claims)} claims, {jobs} at a time")
        try:
            while waiting:
                for done in wait(waiting, timeout=_LOOK, return_when=FIRST_COMPLETED).done:
                    judged = done.result()  # raises before the claim is taken from those that wait
                    yield waiting.pop(done), *judged
                running = ", ".join(each.name for future, each in waiting.items() if future.running())
                say(f"{len(waiting)} of {len(claims)} to go: {running}")
        except BrokenProcessPool as error:
            names = ", ".join(claim.name for claim in waiting.values())
            raise ChildProcessError(f"expected processes that judge {names}, got one that was killed") from error
        except BaseException:  # also GeneratorExit: nobody waits for the minutes that are left of a claim
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(threads: int) -> None:
    """In a process that judges: Ctrl-C is the parent's to hear, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    use_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def on_ranks(claims: Sequence[Claim], setting: Setting, say: Callable[[str], None], ranks: Ranks) -> Iterator[Judged]:
    """Each claim as rank 0 hears of it; whichever rank is free judges the next one. The other ranks hear of none.

    Raises RuntimeError on rank 0 where a claim could not be judged on any.
    """
    waiting = dict(enumerate(claims))
    while (number := ranks.ticket("claim")) < len(claims):
        claim = claims[number]
        say(f"{claim.name} ({number + 1} of {len(claims)}, on rank {ranks.rank}): {claim.title}")
        if ranks.first:
            yield waiting.pop(number), *_judge(claim.name, setting)
            yield from _heard(waiting, ranks)
        else:
            ranks.put(f"judged/{number}", _judged_or_why_not(claim.name, setting))
    while ranks.first and waiting:
        say(f"{len(waiting)} of {len(claims)} to go: {', '.join(claim.name for claim in waiting.values())}")
        time.sleep(0.1)
        yield from _heard(waiting, ranks)


def _judged_or_why_not(name: str, setting: Setting) -> tuple[Verdict, Evidence] | OSError | str:
    try:
        return _judge(name, setting)
    except OSError as error:  # a full disk; raised again by rank 0, as all else
        return error
    except Exception:
        return traceback.format_exc()


def _heard(waiting: dict[int, Claim], ranks: Ranks) -> Iterator[Judged]:
    """What other ranks have judged since, taken from what is waited for."""
    for number in [number for number in waiting if ranks.ready(f"judged/{number}")]:
        claim, outcome = waiting.pop(number), ranks.take(f"judged/{number}")
        if isinstance(outcome, OSError):
            raise outcome
        if isinstance(outcome, str):
            raise RuntimeError(f"{claim.name} could not be judged on another rank:\n{outcome}")
        yield claim, *outcome


def _judge(name: str, setting: Setting) -> tuple[Verdict, Evidence]:
    """Raises ValueError where a run exceeds the memory of the setting, or what was kept within the claim was changed;
    OSError where it cannot be kept; RuntimeError where a claim cannot be judged at all: a defect of the claim, not of
    the options it was given."""
    try:
        with memory_limit(setting.memory):
            verdict, evidence = claims_on(setting)[name].verdict(_noting(name, setting))
    except (TooLittleMemory, CellChanged) as error:
        raise ValueError(f"{name}: {error}") from error
    except ValueError as error:
        raise RuntimeError(f"{name} could not be judged: {error}") from error
    return replace(verdict, setting=replace(setting, report=silent, cells=None)), evidence


def _noting(name: str, setting: Setting) -> Setting:
    """The setting of one claim, which keeps and notes what is measured in a folder of its own."""
    if setting.cells is None:
        return setting
    cells, report = setting.cells.within(name), setting.report
    cells.note("")

    def noted(what: str) -> None:
        cells.note(what)
        report(what)

    return replace(setting, cells=cells, report=noted)
