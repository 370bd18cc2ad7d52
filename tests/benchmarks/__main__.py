"""`make bench`: measure, print beside the committed figures, write bench.json.

Machines are shared and noisy. What is compared runs in turn within one process, so that a ratio holds when the
machine's speed drifts; each figure is the median of its rounds, with the smallest and the largest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from convergence import GradientDescent, MemoryReduced, Oracle, Step, Unrolled, run
from convergence.files import write_atomically
from paper_checks import CLAIMS, Setting
from paper_checks.report import versions
from problems import Problem, ProxLogistic, Quadratic
from tests.benchmarks.few_shot import few_shot
from tests.benchmarks.large import large
from tests.benchmarks.rounds import Figure, figure_of, in_turn, ratios

WRITTEN = Path("bench.json")


class _Operations(TorchDispatchMode):
    """Counts the torch operations that reach a kernel or make a view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class WithoutClosedForms(Problem):
    """The same quadratic, differentiated automatically."""

    broadcasts_replicas = True

    def __init__(self, twin: Quadratic):
        self.data, self.q, self.constants = twin.data, twin.q, twin.constants
        self.phi0, self.embed, self.lower, self.upper = twin.phi0, twin.embed, twin.lower, twin.upper


def main() -> None:
    """Measure everything, print it, write it. One thread, as the battery runs."""
    torch.set_num_threads(1)
    committed = json.loads(WRITTEN.read_text())["figures"] if WRITTEN.exists() else {}
    figures: dict[str, Figure] = {**_upper_iteration(), **_compiled(), **_few_large_steps(), **few_shot(), **large()}
    figures |= _battery()
    table = Table(title=f"{os.cpu_count()} cores, {torch.get_num_threads()} threads", title_justify="left")
    for heading in ("figure", "median", "min", "max", "unit", "last committed", "aim"):
        table.add_column(heading, justify="left" if heading in ("figure", "unit", "aim") else "right", overflow="fold")
    for name, figure in figures.items():
        before = committed.get(name, {}).get("median")
        numbers = [f"{figure[key]:.4g}" for key in ("median", "min", "max")]
        table.add_row(name, *numbers, figure["unit"], "" if before is None else f"{before:.4g}", figure["aim"])
    Console().print(table)
    record = {"versions": versions(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "figures": figures}
    write_atomically(WRITTEN, (json.dumps(record, indent=2) + "\n").encode())


def _upper_iteration() -> dict[str, Figure]:
    """One upper iteration of Quadratic, p 10, q 20, M 32, batch 8, K 5, N 5, float64, probes off."""
    problem = Quadratic.random(tasks=32, p=10, q=20, kappa=10.0, seed=0)
    method = MemoryReduced(lower_steps=5, cg_steps=5, upper_step_size=0.3)
    twin = WithoutClosedForms(problem)

    def seconds(what: Problem, iterations: int, replicas: int | None) -> Callable[[], float]:
        def measure() -> float:
            result = run(what, method, iterations=iterations, batch=8, replicas=replicas, probes=())
            return result.seconds / iterations

        return measure

    one, many, automatic = in_turn(
        seconds(problem, 400, None), seconds(problem, 25, 256), seconds(twin, 100, None), label="upper iteration"
    )
    return {
        "upper iteration, 1 replica": figure_of([1e6 * x for x in one], "us", "694 us in a prototype"),
        "upper iteration, 256 replicas": figure_of([1e6 * x for x in many], "us", "10600 us in a prototype"),
        "256 replicas / 1 replica": figure_of(ratios(many, one), "ratio", "<= 20"),
        "automatic derivatives / closed forms": figure_of(ratios(automatic, one), "ratio", ""),
        "torch operations an upper iteration, 1 replica": figure_of([_operations(problem, method)], "operations", ""),
    }


def _compiled() -> dict[str, Figure]:
    """Upper iterations as compiled programs against the same in Python; what compiling took is not in the ratio."""
    found: dict[str, Figure] = {}
    method = MemoryReduced(lower_steps=5, cg_steps=5, upper_step_size=0.3)
    heads = ProxLogistic.random(tasks=32, q=20, examples=20, seed=0)
    for name, problem, replicas in (
        ("1 replica", Quadratic.random(tasks=32, p=10, q=20, kappa=10.0, seed=0), None),
        ("256 replicas", Quadratic.random(tasks=32, p=10, q=20, kappa=10.0, seed=0), 256),
        ("logistic heads by automatic derivatives, 1 replica", heads, None),
    ):
        compiling: list[float] = []

        def seconds(
            way: bool, problem: Problem = problem, replicas: int | None = replicas, compiling: list[float] = compiling
        ) -> Callable[[], float]:
            iterations = 300 if replicas is None else 15

            def measure() -> float:
                result = run(problem, method, iterations=iterations, batch=8, replicas=replicas, probes=(), compile=way)
                if way:
                    compiling.append(result.compile_seconds)
                return (result.seconds - result.compile_seconds) / iterations

            return measure

        fast, plain = in_turn(seconds(True), seconds(False), label=f"compiled, {name}")
        aim = "<= 0.25" if replicas is None else "<= 1"
        found[f"compiled / eager upper iteration, {name}"] = figure_of(ratios(fast, plain), "ratio", aim)
        found[f"compiled upper iteration, {name}"] = figure_of([1e6 * x for x in fast], "us", "")
        found[f"to compile it, {name}"] = figure_of(compiling, "s", "")
    return found


def _operations(problem: Problem, method: MemoryReduced) -> float:
    """Of the step alone, without sampling."""
    oracle = Oracle(problem)
    phi = problem.phi0(torch.Generator().manual_seed(0))
    state = method.start(oracle, phi)
    tasks = problem.select(torch.arange(8))
    with _Operations() as operations:
        method.step(oracle, phi, tasks, state)
    return float(operations.count)


def _few_large_steps() -> dict[str, Figure]:
    """A step of the method against one through the graph of the lower steps, K = 20, logistic heads."""
    problem = ProxLogistic.random(tasks=16, q=200, examples=100, seed=0)
    oracle = Oracle(problem)
    phi = problem.phi0(torch.Generator().manual_seed(0))
    method = MemoryReduced(lower_steps=20, cg_steps=5, upper_step_size=0.1, warm_start=False)
    state = method.start(oracle, phi)
    lower = GradientDescent(20, problem.constants.lower_step_size)

    def implicit_step() -> Step:
        return method.step(oracle, phi, oracle.pool, state)

    def unrolled_step() -> object:
        z = oracle.embed(phi, oracle.pool, keep_graph=True)
        return Unrolled().estimate(oracle, z, oracle.theta0(phi, oracle.pool), oracle.pool, lower=lower)

    implicit, reverse = in_turn(_timed(implicit_step, 10), _timed(unrolled_step, 10), label="logistic heads")
    return {"memory-reduced / unrolled step, K 20": figure_of(ratios(implicit, reverse), "ratio", "")}


def _battery() -> dict[str, Figure]:
    """The claims at smoke scale with their controls; figures and report not included."""
    seconds = [claim.verdict(Setting())[0].seconds for claim in track(CLAIMS.values(), "the battery at smoke scale")]
    return {"the battery at smoke scale": figure_of([sum(seconds)], "s", "< 180 s")}


def _timed(step: Callable[[], object], times: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        for _ in range(times):
            step()
        return (time.perf_counter() - began) / times

    return measure


if __name__ == "__main__":
    main()
