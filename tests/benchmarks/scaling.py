"""The numbers of docs/scaling.md: all-reduce against p, one iteration on 1, 2 and 4 ranks, drawing a batch against M.

    python -m tests.benchmarks.scaling

The work of a rank is measured as the time that its thread spends on a processor outside of the all-reduce, so that it
does not depend on how many processors there are, or on what else runs on them; the all-reduce in elapsed time, smallest
and median, which on fewer processors than ranks is that of the scheduler.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from convergence import MemoryReduced
from convergence.distributed import Ranks, run
from convergence.distributed.average import BESIDE
from convergence.streams import TaskStream
from problems import Quadratic
from tests.convergence.distributed.processes import among, on_ranks

SIZES = (1, 2, 4)
LENGTHS = (10, 10**3, 10**4, 10**5, 10**6)
POOL, BATCHES, ITERATIONS, ROUNDS = 256, (8, 32, 96), 20, 5
METHOD = MemoryReduced(lower_steps=20, cg_steps=20, upper_step_size=0.1)


def all_reduces(group: dist.ProcessGroup, p: int) -> list[float]:
    """Elapsed seconds of each."""
    message, found = torch.zeros(p + BESIDE, dtype=torch.float64), []
    for _ in range(15):
        dist.barrier(group)
        began = time.perf_counter()
        dist.all_reduce(message, group=group)
        found.append(time.perf_counter() - began)
    return found[5:]


def work(ranks: Ranks, problem: Quadratic, batch: int) -> list[float]:
    """Seconds of this thread in each iteration, from one all-reduce to the next; alone, from one step to the next."""
    marks: list[tuple[float, float]] = []

    def timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        began = time.thread_time()
        result = function(*arguments, **options)
        marks.append((began, time.thread_time()))
        return result

    step, all_reduce = MemoryReduced.step, dist.all_reduce
    if ranks.size == 1:
        MemoryReduced.step = lambda *arguments: timed(step, *arguments)  # type: ignore[method-assign]
    else:
        dist.all_reduce = partial(timed, all_reduce)
    run(problem, METHOD, ranks=ranks, iterations=ITERATIONS, batch=batch, probes=())
    MemoryReduced.step, dist.all_reduce = step, all_reduce  # type: ignore[method-assign]
    if ranks.size == 1:
        return [then[0] - now[0] for now, then in pairwise(marks)]
    return [then[0] - now[1] for now, then in pairwise(marks)]


def measure(ranks: Ranks) -> dict[str, Any]:
    """On this rank, among 1, 2 and 4."""
    problem = Quadratic.random(tasks=POOL, p=100, q=100, kappa=10.0, seed=0)
    found: dict[str, Any] = {}
    sizes = among(ranks, SIZES)
    for size, some in sizes.items():
        if size > 1:
            for p in LENGTHS:
                found[f"all-reduce {size} {p}"] = all_reduces(some.group, p)
    for _, (size, some), batch in product(range(ROUNDS), sizes.items(), BATCHES):  # in turn
        found.setdefault(f"work {size} {batch}", []).append(work(some, problem, batch))
    return found


def slowest(outcomes: list[dict[str, Any]], size: int, batch: int) -> float:
    """Seconds of the slowest rank: the median over iterations, of the round that was disturbed least."""
    own = np.array([outcomes[rank][f"work {size} {batch}"] for rank in range(size)])  # (ranks, rounds, iterations)
    return float(np.median(own.max(0), axis=-1).min())


def largest_share(pool: int, batch: int, size: int, *, draws: int = 2000) -> float:
    """E max_r n_r of a batch without replacement, by as many draws."""
    parts = [Ranks(rank, size).part(pool) for rank in range(size)]
    counts = [part.stop - part.start for part in parts]
    return float(np.random.default_rng(0).multivariate_hypergeometric(counts, batch, size=draws).max(1).mean())


def imbalance(size: int, each: int, *, draws: int = 400) -> float:
    """E max_r n_r / (|B| / W) of a batch of each * W tasks out of a pool so large that they are drawn independently."""
    counts = np.random.default_rng(0).multinomial(each * size, np.full(size, 1 / size), size=draws)
    return float(counts.max(1).mean()) / each


def efficiency(
    size: int, each: int, *, task: float, fixed: float, p: int, owned: bool, latency: float, rate: float
) -> float:
    """T_1 / (W T_W) of a batch of each * W tasks: T_1 = fixed + task |B|, T_W = fixed + task max_r n_r + T_sum.

    `owned` tasks are worked on by the rank that holds their rows; others are shared out evenly.

    T_sum = 2 log2(W) latency + 2 (W - 1) / W * 8 p / rate: halving and doubling, seconds and bytes a second.
    """
    message = 2 * math.log2(size) * latency + 2 * (size - 1) / size * 8 * (p + BESIDE) / rate
    whole = fixed + task * each * size
    uneven = imbalance(size, each) if owned else 1.0
    return whole / (size * (fixed + task * each * uneven + message))


def predictions(task: float, fixed: float) -> dict[str, Any]:
    """The tables of docs/scaling.md: on links of 20 us and 10 GB/s, which nobody here has measured."""
    link = {"latency": 20e-6, "rate": 1e10}
    kinds = {
        "quadratic": {"task": task, "fixed": fixed, "p": 100, "owned": True},
        "network": {"task": 0.05, "fixed": 0.01, "p": 10**6, "owned": False},
    }
    sizes, shares = (4, 16, 64, 256, 1000), (1, 4, 16, 64, 256)
    return {
        "imbalance": {size: {each: imbalance(size, each) for each in shares} for size in sizes},
        **{
            kind: {size: {each: efficiency(size, each, **numbers, **link) for each in shares} for size in sizes}
            for kind, numbers in kinds.items()
        },
    }


def main() -> None:
    """Measure, predict and print one JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = on_ranks(4, measure, Path(folder), timeout=300)
    found: dict[str, Any] = {}
    for name, times in outcomes[0].items():
        if name.startswith("all-reduce"):
            found[name] = {"median": statistics.median(times), "least": min(times)}
    alone = [slowest(outcomes, 1, batch) for batch in BATCHES]
    each, fixed = np.polyfit(BATCHES, alone, 1)
    found["fit"] = {"seconds a task": each, "seconds an iteration": fixed}
    for size in SIZES:
        for batch in BATCHES:
            largest = largest_share(POOL, batch, size)
            found[f"work {size} {batch}"] = {
                "measured": slowest(outcomes, size, batch),
                "predicted": fixed + each * largest,
                "largest share": largest,
            }
    found["predictions"] = predictions(each, fixed)
    for pool in (10**4, 10**5, 10**6, 10**7):
        for replacement in (False, True):
            stream, began = TaskStream(0, pool=pool, batch=1000, replacement=replacement), time.thread_time()
            stream.index(0)
            found[f"indices {pool} {'with' if replacement else 'without'}"] = time.thread_time() - began
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
