"""Tasks worked on a second against the number of replicas, at once and in the chunks that `run` takes by default.

`python -m tests.benchmarks.throughput` measures, writes docs/throughput.npz, prints the table and draws
docs/throughput.png and .svg from it; with `--draw` it draws what is stored. CPU seconds on one thread, all sizes of a
problem in turn, so that they share the machine's hours.
"""

from __future__ import annotations

import io
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from convergence import Chunks, MemoryReduced, run
from convergence.budget import CACHE
from convergence.files import write_atomically
from convergence.memory import peak_bytes
from figures.__main__ import read
from figures.style import Evidence, save
from figures.throughput import draw as draw_throughput
from figures.throughput import fit
from problems import Problem, ProxSoftmax, Quadratic
from tests.benchmarks.rounds import Figure, figure_of, in_turn, ratios

STORED = Path("docs/throughput.npz")
ROUNDS = 3
REPLICAS = tuple(4**k for k in range(7))  # 1, ..., 4096
BLOCK = 64  # iterations whose batches are drawn together: fewer would be charged for all of them
LEAST = 0.05  # seconds that a measurement takes


class Case(NamedTuple):
    """A problem, the tasks of an iteration, and the largest number of replicas."""

    problem: Problem
    batch: int | None
    most: int = REPLICAS[-1]

    @property
    def tasks(self) -> int:
        return self.batch or self.problem.tasks or 1


CASES = {
    "small": Case(Quadratic.random(tasks=5, p=3, q=2, kappa=10.0, seed=0), 2),
    "quadratic": Case(Quadratic.random(tasks=32, p=10, q=20, kappa=10.0, seed=0), 8),
    "wide": Case(Quadratic.random(tasks=16, p=20, q=100, kappa=10.0, seed=0), 4, most=64),
    "heads": Case(ProxSoftmax.random(tasks=8, classes=3, features=4, examples=15, seed=0), None, most=256),
}
METHOD = MemoryReduced(lower_steps=5, cg_steps=5, upper_step_size=0.1)


def throughput(rounds: int = ROUNDS) -> Evidence:
    """The arrays of `figures.throughput.draw`."""
    found: dict[str, np.ndarray] = {"cache": np.array(CACHE)}
    for name, case in CASES.items():
        sizes = [R for R in REPLICAS if case.most >= R]
        times = {R: _iterations(case, R) for R in sizes}
        chosen = {R: _chosen(case, R) for R in sizes}
        chunks = {R: math.ceil(R / (chosen[R].replicas or R)) for R in sizes}
        seconds = np.empty((2, len(sizes), rounds))
        for k in track(range(rounds), name):
            for row, R in enumerate(sizes):
                seconds[0, row, k] = _seconds(case, R, times[R], chosen[R])
                cut = chunks[R] > 1
                seconds[1, row, k] = _seconds(case, R, times[R], Chunks()) if cut else seconds[0, row, k]
        found |= {
            f"{name}_replicas": np.array(sizes),
            f"{name}_batch": np.array(case.tasks),
            f"{name}_chunks": np.array([chunks[R] for R in sizes]),
            f"{name}_bytes": np.array([_bytes(case) * R for R in sizes]),
            f"{name}_seconds": seconds[0],
            f"{name}_seconds_at_once": seconds[1],
        }
    return found


def in_chunks() -> dict[str, Figure]:
    """For `make bench`: what the chunks of replicas that `run` takes by default gain where they matter most."""
    case, replicas = CASES["wide"], 64
    chosen = _chosen(case, 256)
    measures = [partial(_seconds, case, replicas, BLOCK, chunks) for chunks in (Chunks(), chosen)]
    at_once, cut = in_turn(*measures, label="chunks of replicas", rounds=5)
    return {"64 replicas at once / in chunks, p 20, q 100": figure_of(ratios(at_once, cut), "ratio", ">= 1")}


def figures(evidence: Evidence) -> dict[str, Figure]:
    """Overhead, knee, throughput on the flat part, and what chunks gain."""
    found: dict[str, Figure] = {}
    for name in CASES:
        replicas, chunks, seconds = (evidence[f"{name}_{key}"] for key in ("replicas", "chunks", "seconds"))
        law = fit(replicas, chunks, seconds)
        rate = float(evidence[f"{name}_batch"]) * replicas[-1] / seconds[-1]
        ratio = evidence[f"{name}_seconds_at_once"][-1] / seconds[-1]
        label = f"{name}, {replicas[-1]} replicas"
        found[f"throughput, {label}"] = figure_of(rate.tolist(), "task-iterations / s", "")
        found[f"overhead of an upper iteration, {name}"] = figure_of([1e6 * law.overhead], "us", "")
        found[f"knee of the throughput, {name}"] = figure_of([law.knee], "replicas", "")
        found[f"at once / in chunks, {label}"] = figure_of(ratio.tolist(), "ratio", ">= 1")
    return found


def _run(case: Case, replicas: int, iterations: int, chunks: Chunks) -> None:
    run(case.problem, METHOD, iterations=iterations, batch=case.batch, replicas=replicas, probes=(), chunks=chunks)


def _seconds(case: Case, replicas: int, iterations: int, chunks: Chunks) -> float:
    """CPU seconds an upper iteration."""
    began = time.process_time()
    _run(case, replicas, iterations, chunks)
    return (time.process_time() - began) / iterations


def _iterations(case: Case, replicas: int) -> int:
    """Blocks of iterations that take a while."""
    block = 8 if case.batch is None else BLOCK
    return block * math.ceil(LEAST / (block * _seconds(case, replicas, block, Chunks())))


def _chosen(case: Case, replicas: int) -> Chunks:
    """What `run` takes for a run long enough to look for the caches; that of a few replicas would take minutes."""
    if replicas < BLOCK:
        return Chunks(replicas, case.tasks)
    long = run(case.problem, METHOD, iterations=2**14 // replicas + 1, batch=case.batch, replicas=replicas, probes=())
    return long.chunks


def _bytes(case: Case) -> float:
    """What a step touches of one replica, without its share of the tasks that are drawn."""
    of = [peak_bytes(lambda R=R: _run(case, R, 1, Chunks())) for R in (16, 48)]
    return (of[1] - of[0]) / 32


def main() -> None:
    """Measure (or read), print, draw."""
    torch.set_num_threads(1)
    if sys.argv[1:] not in ([], ["--draw"]):
        raise SystemExit(f"expected nothing or --draw, got {' '.join(sys.argv[1:])}")
    if not sys.argv[1:]:
        file = io.BytesIO()
        np.savez_compressed(file, **throughput())
        write_atomically(STORED, file.getvalue())
    evidence = read(STORED)
    table = Table("figure", "median", "min", "max", "unit")
    for name, row in figures(evidence).items():
        table.add_row(name, *(f"{row[key]:.4g}" for key in ("median", "min", "max")), row["unit"])
    Console().print(table)
    for written in save(draw_throughput(evidence), STORED.parent, STORED.stem):
        print(written)


if __name__ == "__main__":
    main()
