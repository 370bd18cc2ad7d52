"""How many tasks at a time are fastest: by a short measurement, here and now."""

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
    what is free. d depends on it by rounding alone. Takes a few seconds on a CPU: four rounds of 1 + 2 + 4 + ...
    tasks.

    Raises what the first iteration of a run raises.
    """
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

    def seconds(count: int) -> float:
        began = time.perf_counter()
        iteration(count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / count

    iteration(1)  # libraries choose their kernels, and compiling is no part of it
    fitting = _free_bytes(device) // (2 * max(1, peak_bytes(lambda: iteration(1), device=device)))
    return fastest(seconds, min(plan.batch, fitting if device.type == "cuda" else min(fitting, AT_MOST)))


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
