"""Claims judged one after the other, or several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace

import torch
from threadpoolctl import threadpool_limits

from paper_checks import CLAIMS
from paper_checks.claim import Claim, Evidence, Setting, Verdict, silent

Judged = tuple[Claim, Verdict, Evidence]


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
    """Each claim as soon as it is judged, in the order in which they end, `jobs` at a time."""
    context = multiprocessing.get_context("spawn")  # a fork would take along torch's threads
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=use_threads, initargs=(threads,)) as pool:
        waiting: dict[Future[tuple[Verdict, Evidence]], Claim] = {
            pool.submit(_judge, claim.name, setting): claim for claim in claims
        }
        say(f"{len(claims)} claims, {jobs} at a time")
        try:
            for done in as_completed(list(waiting)):
                claim = waiting.pop(done)
                yield claim, *done.result()
                running = ", ".join(each.name for future, each in waiting.items() if future.running())
                say(f"{len(waiting)} of {len(claims)} to go: {running}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _judge(name: str, setting: Setting) -> tuple[Verdict, Evidence]:
    """Raises RuntimeError where a claim cannot be judged: a defect of the claim, not of the options it was given."""
    try:
        verdict, evidence = CLAIMS[name].verdict(setting)
    except ValueError as error:
        raise RuntimeError(f"{name} could not be judged: {error}") from error
    return replace(verdict, setting=replace(setting, report=silent)), evidence
