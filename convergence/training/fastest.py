"""How many tasks at a time, and how many threads, are fastest: by a short measurement, here and now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from convergence.chunks import direction_in_chunks
from convergence.memory import peak_bytes
from convergence.oracle import Oracle
from convergence.recipes import Recipe
from convergence.streams import generator
from convergence.training.plan import DTYPES, Plan
from problems.few_shot import Embedding, Splits

ROUNDS = 3
AT_MOST = 16  # tasks, on a CPU, which one keeps busy
CLOSE = 0.02  # what counts as equally fast
SLOWER = 0.25  # where no larger number is tried


def fastest_chunk(recipe: Recipe, splits: Splits, embedding: Embedding, plan: Plan) -> int:
    """The number of tasks at a time whose upper iterations are fastest with this plan, of 1, 2, 4, ... up to the batch.

    Of those within 2 % of the best the smallest, which needs the least memory; none that would take more than half of
    what is free. d depends on it by rounding alone. On one thread CPU seconds count, which others on the machine
    disturb less than those of the clock. Takes a few seconds on a CPU: four rounds of 1 + 2 + 4 + ... tasks.

    Raises what the first iteration of a run raises.
    """
    device, iteration = torch.device(plan.device), _iteration(recipe, splits, embedding, plan)
    now = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def seconds(count: int) -> float:
        began = now()
        iteration(count)
        return (now() - began) / count

    iteration(1)  # libraries choose their kernels, and compiling is no part of it
    fitting = _free_bytes(device) // (2 * max(1, peak_bytes(lambda: iteration(1), device=device)))
    return fastest(seconds, min(plan.batch, fitting if device.type == "cuda" else min(fitting, AT_MOST)))


def fastest_threads(recipe: Recipe, splits: Splits, embedding: Embedding, plan: Plan) -> int:
    """1 or as many threads as torch has now, whichever takes fewer seconds by the clock for an upper iteration.

    Where others compute on the same cores, threads that wait for each other in turns are several times slower than one.
    Raises as `fastest_chunk` does.
    """
    iteration, most = _iteration(recipe, splits, embedding, plan), torch.get_num_threads()

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        iteration(1)
        return time.perf_counter() - began

    try:
        rounds = [[seconds(threads) for threads in (1, most)] for _ in range(1 + ROUNDS)][1:]
    finally:
        torch.set_num_threads(most)
    one, all_of_them = (min(column) for column in zip(*rounds, strict=True))
    return 1 if one <= all_of_them else most


def _iteration(recipe: Recipe, splits: Splits, embedding: Embedding, plan: Plan) -> Callable[[int], None]:
    """The first upper iteration of the plan on its first `count` tasks, all at once; returns when it is done."""
    device = torch.device(plan.device)
    problem = plan.problem(recipe, plan.episodes(splits, "train"), embedding)
    oracle = Oracle(problem, seeds=(plan.seed,))
    start = problem.phi0(generator(plan.seed, "start"))
    phi = {name: tensor.to(device, DTYPES[plan.dtype]) for name, tensor in start.items()}
    state = recipe.method.start(oracle, phi)
    tasks = problem.sample(plan.batch, generator(plan.seed, "tasks")).to(device)
    oracle.begin(0)

    def iteration(count: int) -> None:
        direction_in_chunks(recipe.method, oracle, phi, tasks[:count], state, chunk=count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return iteration


def fastest(seconds: Callable[[int], float], most: int) -> int:
    """Of 1, 2, 4, ... up to `most` the smallest whose `seconds`, the least of three rounds, are within 2 % of the best.

    The first round is thrown away; it ends where a number takes a quarter more than the best before it.

    >>> fastest({1: 1.0, 2: 0.8, 4: 0.79, 8: 1.2}.__getitem__, 32)
    2
    """
    tried: dict[int, float] = {}
    count = 1
    while count <= max(1, most):
        tried[count] = seconds(count)
        if tried[count] > (1 + SLOWER) * min(tried.values()):
            break
        count *= 2
    rounds = [{each: seconds(each) for each in tried} for _ in range(ROUNDS)]
    least = {each: min(taken[each] for taken in rounds) for each in tried}
    return next(each for each in tried if least[each] <= (1 + CLOSE) * min(least.values()))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
