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

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from convergence import GradientDescent, MemoryReduced, Oracle, Step, Unrolled
from convergence.files import write_atomically
from paper_checks import CLAIMS, Setting
from paper_checks.versions import versions
from problems import ProxLogistic
from tests.benchmarks.few_shot import few_shot
from tests.benchmarks.large import large
from tests.benchmarks.rounds import Figure, figure_of, in_turn, ratios
from tests.benchmarks.small import small
from tests.benchmarks.throughput import in_chunks

WRITTEN = Path("bench.json")


def main() -> None:
    """Measure everything, print it, write it. One thread, as the battery runs."""
    torch.set_num_threads(1)
    committed = json.loads(WRITTEN.read_text())["figures"] if WRITTEN.exists() else {}
    figures: dict[str, Figure] = {**small(), **in_chunks(), **_few_large_steps(), **few_shot(), **large()}
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
