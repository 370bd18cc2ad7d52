"""Upper iterations at p = 1e6, q = 1e5, M = 1e4 on structured Hessians: peaks and times against their laws.

`python -m tests.benchmarks.large [cpu | cuda]` measures this alone and writes nothing. What an iteration must move is
counted line by line of the pseudo-code (docs/large.md): each line reads its operands once and writes its result once.
The time of that is what `Tensor.copy_` of vectors of the same sizes takes in the same process for a number read or
written; as many in turn as an iteration goes through, so that they lie where its own do (of q numbers: in the outer
cache of a CPU, not the inner one). Large copies, of p numbers, are what a machine is usually measured by: the second
figure. Times are CPU seconds on one thread, on CUDA seconds by the clock, in rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from convergence import MemoryReduced, Oracle, peak_bytes, resolve_device, run
from convergence.chunks import direction_in_chunks
from convergence.result import Chunks
from paper_checks.network_costs import cpu_seconds
from problems import Circulant, DiagonalPlusLowRank, Sparse, Structured
from tests.benchmarks.rounds import Figure, figure_of, in_turn, ratios

P, Q, M = 10**6, 10**5, 10**4
KAPPA = 4.0
ROUNDS = 9
STRUCTURES: tuple[Literal["low-rank", "circulant", "sparse"], ...] = ("low-rank", "circulant", "sparse")


def large(device: str = "cpu") -> dict[str, Figure]:
    """Peaks over the law, times over those of their bytes, what is left of |grad Phi|^2."""
    found: dict[str, Figure] = {}
    for structure in STRUCTURES:
        made = Structured.random(structure, tasks=M, p=P, q=Q, kappa=KAPPA, realisable=True)
        assert made.constants  # computed once, kept in copies
        name, problem = f"large, {structure}", made.to(device)
        found |= {**_peaks(name, problem, device), **_times(name, problem, device)}
        found |= _convergence(name, problem, device)
    return found


class Iteration:
    """d of one upper iteration from a cold start, one task at a time."""

    def __init__(self, problem: Structured, K: int, N: int, tasks: int):
        index = torch.arange(tasks, device=problem.weights.device)
        self.oracle, self.tasks = Oracle(problem), problem.select(index)
        self.method = MemoryReduced(lower_steps=K, cg_steps=N, warm_start=False)
        self.phi = problem.phi0(torch.Generator().manual_seed(0))

    def __call__(self) -> Tensor:
        state = self.method.start(self.oracle, self.phi)
        return direction_in_chunks(self.method, self.oracle, self.phi, self.tasks, state, chunk=1).direction["phi"]


# ---- memory


def _law(tasks: int) -> int:
    return 2 * P + 4 * Q * tasks + max(P, Q)


def _peaks(name: str, problem: Structured, device: str) -> dict[str, Figure]:
    """The smallest and the largest are equal where K, N and the batch do not count."""

    def iteration(K: int, N: int, tasks: int) -> float:
        def from_the_start() -> None:
            move = Iteration(problem, K, N, tasks)
            move.phi["phi"].sub_(move(), alpha=0.1)

        return peak_bytes(from_the_start, device=device) / 8 / _law(1)

    def whole_run(chunk: int | None) -> float:
        method = MemoryReduced(lower_steps=5, cg_steps=5, upper_step_size=0.1, warm_start=False)
        moves = partial(run, problem, method, iterations=2, batch=10, probes=(), device=device)
        return peak_bytes(lambda: moves(chunks=Chunks(tasks=chunk)), device=device) / 8 / _law(10)

    cells = [iteration(*cell) for cell in ((1, 1, 2), (20, 5, 2), (5, 20, 2), (5, 5, 10))]
    return {
        f"{name}: peak of an iteration, one task at a time / law of one": figure_of(cells, "ratio", "<= 1.1"),
        f"{name}: peak of a run, 10 tasks one at a time / law of 10": figure_of([whole_run(1)], "ratio", "<= 1.1"),
        f"{name}: peak of a run, 10 tasks together / law of 10": figure_of([whole_run(None)], "ratio", "<= 1.1"),
    }


# ---- time


class Moved(NamedTuple):
    """Numbers read and written for one task, in vectors of q and of p, each line of the pseudo-code once."""

    lower_step: float
    cg_step: float
    rest_q: float
    rest_p: float
    held: int  # vectors of q numbers that a CG step goes through

    @classmethod
    def by(cls, problem: Structured) -> Moved:
        """Of this problem."""
        operator = problem.operator
        if isinstance(operator, DiagonalPlusLowRank):  # x and F for F x; F, D and x again; A x
            product, held = 2.0 * len(operator.factor) + 4, len(operator.factor) + 1
        elif isinstance(operator, Sparse):  # the diagonals, x; A x
            product, held = 1.0 + len(operator.values) + 2, 1 + len(operator.values)
        else:  # transform: x, F x; filter: it, half a vector of eigenvalues, the result; back: that, A x
            assert isinstance(operator, Circulant)
            product, held = 2 + 2.5 + 2, 2
        of_b, of_u, of_w = (len(basis) for basis in (problem.b_basis, problem.u_basis, problem.w_basis))
        return cls(
            lower_step=product + 1 + 3,  # the gradient: also C phi + b; theta: itself, the gradient, theta
            cg_step=product + 2 + 3 + 3 + 1 + 3,  # A s; <s, A s>; x; r; <r, r>; s
            # C phi + b; theta_0; grad_theta f; x, r, s and two norms at the start; x in the last line
            rest_q=(1 + of_b) + 1 + (2 + of_u) + (1 + 2 + 2 + 2) + 1,
            # C phi: C, phi; the last line: phi, mean w, C, d; the sum over the tasks: d, itself, itself
            rest_p=2 + (3 + of_w) + 3,
            held=held + 4,  # x, r, s, A s
        )


def _times(name: str, problem: Structured, device: str) -> dict[str, Figure]:
    tasks, K, N = 2, 30, 30
    cells = [Iteration(problem, *steps, tasks) for steps in ((2, 2), (2 + K, 2), (2, 2 + N), (K, N))]
    steps = (partial(cpu_seconds, cell, device) for cell in cells)
    moved = Moved.by(problem)
    vectors = (_copies(Q, moved.held, device), _copies(P, 4, device), _transforms(problem, device))
    of_q, of_p, transforms, base, lower, cg, whole = in_turn(*vectors, *steps, label=f"{name}: time", rounds=ROUNDS)

    def bound(q: float, p: float = 0.0, times: int = 0) -> list[float]:
        rounds = zip(of_q, of_p, transforms, strict=True)
        return [tasks * (q * each_q + p * each_p + times * each) for each_q, each_p, each in rounds]

    def beyond_base(more: list[float]) -> list[float]:
        return [long - short for long, short in zip(more, base, strict=True)]

    all_of_q, upper = K * moved.lower_step + N * moved.cg_step + moved.rest_q, f"upper iteration, K = N = {K}"
    found = {
        "lower step / its bytes": ratios(beyond_base(lower), bound(K * moved.lower_step)),
        "CG step / its bytes": ratios(beyond_base(cg), bound(N * moved.cg_step)),
        f"{upper} / its bytes": ratios(whole, bound(all_of_q, moved.rest_p)),
        f"{upper} / its bytes in large copies": ratios(whole, bound(0.0, moved.rest_p + all_of_q * Q / P)),
    }
    if isinstance(problem.operator, Circulant):  # the transforms as long as they take alone
        rest = bound(all_of_q - 4 * (K + N), moved.rest_p, K + N)
        found[f"{upper} / its transforms and the bytes of the rest"] = ratios(whole, rest)
    ms = figure_of([1e3 * x / tasks for x in whole], "ms", "")
    return {f"{name}: {what}": figure_of(values, "ratio", "<= 1.5") for what, values in found.items()} | {
        f"{name}: {upper}, a task": ms
    }


def _copies(size: int, held: int, device: str) -> Callable[[], float]:
    """Seconds that a vector of this size takes to be read, or to be written, where so many are gone through in turn.

    Measured for about as long as an iteration takes, so that other processes disturb both alike.
    """
    ends = [torch.randn(2, size, dtype=torch.float64, device=device).unbind() for _ in range(held // 2)]
    times = max(1, 10**8 // (size * len(ends)))

    def copy() -> None:
        for _ in range(times):
            for source, target in ends:
                target.copy_(source)

    return lambda: cpu_seconds(copy, device) / (2 * times * len(ends))


def _transforms(problem: Structured, device: str) -> Callable[[], float]:
    """Seconds of a transform there and back, zero where a product takes none."""
    operator, times = problem.operator, 40
    if not isinstance(operator, Circulant):
        return lambda: 0.0
    x = torch.randn(operator.grid, dtype=torch.float64, device=device)

    def there_and_back() -> None:
        for _ in range(times):
            torch.fft.irfftn(torch.fft.rfftn(x), s=operator.grid)

    return lambda: cpu_seconds(there_and_back, device) / times


# ---- convergence


def _convergence(name: str, problem: Structured, device: str) -> dict[str, Figure]:
    """Batches of 4, K and N as many as take a cold start to rounding: 0.6^60 and 2 / 3^30 at a kappa of 4."""
    assert problem.constants.L_Phi is not None
    step = 2 / (problem.rho + problem.constants.L_Phi)
    method = MemoryReduced(lower_steps=60, cg_steps=30, upper_step_size=step, warm_start=False)
    result = run(problem, method, iterations=20, batch=4, probe_every=19, chunks=Chunks(tasks=1), device=device)
    first, last = result.trace["grad_norm_sq"].tolist()
    move = Iteration(problem, 60, 30, tasks=3)
    exact = problem.only(move.tasks.index).hypergradient(move.phi)["phi"]
    error = float(torch.linalg.vector_norm(move() - exact) / torch.linalg.vector_norm(exact))
    left = f"{name}: |grad Phi|^2 after 19 iterations on 4 of {M} tasks / at the start"
    return {
        left: figure_of([last / first], "ratio", "<= 1e-20"),
        f"{name}: |d - grad Phi_B| / |grad Phi_B|, three tasks": figure_of([error], "ratio", "<= 1e-12"),
    }


def _print(figures: dict[str, Figure]) -> None:
    table = Table("figure", "median", "min", "max", "unit", "aim")
    for name, figure in figures.items():
        table.add_row(name, *(f"{figure[key]:.4g}" for key in ("median", "min", "max")), figure["unit"], figure["aim"])
    Console(width=150).print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    resolve_device(chosen)
    _print(large(chosen))
