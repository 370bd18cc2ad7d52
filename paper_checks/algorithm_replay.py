"""Every iterate is the one that the lines of the algorithm give, task by task.

Statement.
    phi_{t+1} = phi_t - beta mean_{i in B_t} [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ], at theta_i after K gradient
    steps of size alpha and v_i after N steps of CG on (d2g_i/dtheta2) v = grad_theta f_i. Warm, both start where task i
    was left when it was last drawn; cold, at theta_0 and 0.
Hypotheses.
    None on the problem; float64 and a few iterations, so that rounding stays far below what is allowed.
Predicted.
    phi_0, ..., phi_T on quadratics; on softmax heads, where d2g/dtheta2 depends on theta; on a shared representation,
    where the cross derivative and grad_phi f do; on a quadratic whose phi is a vector and a matrix. K = N = 2 with
    every start (warm, cold, warm in theta alone) on every batch (three tasks of five with and without replacement, all
    five); K = 5, N = 3; nine tasks of twelve and all twelve. Four replicas, each as the run with its own seed, and a
    run without replicas. And phi_0, ..., phi_600 of a run on batches of a quadratic with N = q, for what goes wrong
    late: with N < q two runs that differ by rounding part.
Measured.
    phi_t along runs through the driver. Predicted by closed forms in numpy for warm quadratics, else by dense
    derivatives (torch.func) of g and f alone; v by scipy's CG.
Refuted by.
    One phi_t off by 1e-12 relative.
Source.
    docs/theory.md S9. Algorithm 1 of the paper; differs: v may be warm. Limits and rates see fewer errors than
    iterates: exact convergence survives a forgotten CG step, every quadratic a Hessian at the wrong theta.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convergence import Probe, Snapshot
from convergence import run as solve
from convergence.streams import TaskStream, generator
from paper_checks.claim import Comparison, Evidence, Setting, equal
from paper_checks.planted import LateLastLine
from paper_checks.quadratic_theory import Array, QuadraticTheory
from paper_checks.written_out import flattened, written_out
from problems import Parameters, Problem, ProxSoftmax, Quadratic, Representation, Tasks

PLANTED = "the last line of the algorithm, the backward pass, at theta_{K-1} instead of theta_K"
REPLICAS, BETA = 4, 0.1
STARTS: dict[bool | Literal["theta"], str] = {True: "warm", False: "cold", "theta": "warm theta"}
DRAWS = {True: "i.i.d.", False: "without replacement", None: "all tasks"}


class Cell(NamedTuple):
    """The warm start; with replacement, without, or (None) all tasks in every iteration; K and N; how many tasks."""

    warm: bool | Literal["theta"]
    replacement: bool | None
    K: int = 2
    N: int = 2
    batch: int = 3
    pool: int = 5

    def __str__(self) -> str:
        batch = self.pool if self.replacement is None else self.batch
        return f"{STARTS[self.warm]}, {DRAWS[self.replacement]}, {batch} of {self.pool}, K {self.K}, N {self.N}"


CELLS = (
    *(Cell(*each) for each in product(STARTS, DRAWS)),
    Cell(True, False, 5, 3),
    Cell(True, False, batch=9, pool=12),
    Cell(True, None, pool=12),
)
LONG_RUN = (Cell(True, True, 2, 4),)  # q = 4
FAMILIES = ("quadratic", "heads", "representation", "two_tensors")


def run(setting: Setting) -> Evidence:
    """Measured and predicted iterates of every family, (cells, runs, T + 1, p); the last run is without replicas."""
    evidence: Evidence = {}
    for family in setting.track(FAMILIES, "families"):
        evidence |= replayed(setting, family)
    return evidence | lasting(setting)


def control(setting: Setting) -> Evidence:
    """The same with the planted error on the shared representation, the only family that shows it."""
    return run(setting) | replayed(replace(setting, method=LateLastLine), "representation")


def judge(evidence: Evidence) -> list[Comparison]:
    """Every iterate of every run attained."""
    comparisons = []
    for name in (*FAMILIES, "long_run"):
        measured, law = evidence[f"{name}_phi"], evidence[f"{name}_law"]
        cells = _names(CELLS if name in FAMILIES else LONG_RUN, *measured.shape[1:3])
        found = equal(
            f"phi_t replayed, {name.replace('_', ' ')}", _rows(measured), _rows(law), relative=1e-12, cells=cells
        )
        comparisons.append(found)
    return comparisons


def replayed(setting: Setting, family: str) -> Evidence:
    """Measured and predicted iterates of one family."""
    return _replayed(setting, family, family, CELLS, T=setting.pick(8, 20), replicas=REPLICAS)


def lasting(setting: Setting) -> Evidence:
    """The same of a long run without replicas."""
    return _replayed(setting, "long_run", "quadratic", LONG_RUN, T=setting.pick(600, 5000), replicas=0)


def _rows(iterates: Array) -> Array:
    return iterates.reshape(-1, iterates.shape[-1])


def _names(cells: tuple[Cell, ...], runs: int, times: int) -> list[str]:
    which = [*(f"replica {r}" for r in range(runs - 1)), "without replicas"]
    return [f"{cell}, {one}, t {t}" for cell in cells for one in which for t in range(times)]


class TwoTensors(Problem):
    """A quadratic of p = 5 whose phi is a vector of one and a matrix of four; without closed forms."""

    broadcasts_replicas = True

    def __init__(self, whole: Quadratic):
        self.whole, self.data, self.constants = whole, whole.data, whole.constants

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Standard normal."""
        vector, matrix = self.whole.phi0(rng)["phi"].split((1, 4))
        return {"vector": vector, "matrix": matrix.view(2, 2)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """As the quadratic."""
        return self.whole.theta0(self._joined(phi), tasks)

    def embed(self, phi: Parameters, tasks: Tasks) -> Any:
        """As the quadratic."""
        return self.whole.embed(self._joined(phi), tasks)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """As the quadratic."""
        return self.whole.lower(features, theta, tasks)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """As the quadratic."""
        return self.whole.upper(features, theta, tasks)

    def _joined(self, phi: Parameters) -> Parameters:
        return {"phi": torch.cat((phi["vector"], phi["matrix"].flatten(-2)), -1)}


@cache
def instance(family: str, seed: int, pool: int) -> tuple[Problem, float]:
    """The problem of this family with so many tasks, and its alpha."""
    if family == "heads":
        heads = ProxSoftmax.random(tasks=pool, classes=3, features=2, examples=8, prox=0.5, seed=seed + 5)
        return heads, heads.constants.lower_step_size
    if family == "representation":
        representation = Representation.random(tasks=pool, d=4, rank=3, examples=6, prox=0.5, seed=seed + 5)
        return representation, 1 / representation.lower_smoothness(2.0)
    p = 5 if family == "two_tensors" else 3
    quadratic = Quadratic.random(tasks=pool, p=p, q=4, kappa=10.0, seed=seed + 5)
    return TwoTensors(quadratic) if family == "two_tensors" else quadratic, quadratic.constants.lower_step_size


def _replayed(setting: Setting, name: str, family: str, cells: tuple[Cell, ...], *, T: int, replicas: int) -> Evidence:
    measured = [_measured(setting, family, cell, T, replicas) for cell in cells]
    law = [_law(family, setting.seed, cell, T, replicas) for cell in cells]
    return {f"{name}_phi": np.stack(measured), f"{name}_law": np.stack(law)}


@cache  # of no method: the claim, its control and every planted error have the same
def _law(family: str, seed: int, cell: Cell, T: int, replicas: int) -> Array:
    """phi_t of the replicas and of the run without, which has the seed after theirs, (replicas + 1, T + 1, p)."""
    problem, alpha = instance(family, seed, cell.pool)
    seeds = range(seed, seed + replicas + 1)
    starts = [problem.phi0(generator(each, "start")) for each in seeds]
    batches = np.tile(np.arange(cell.pool), (len(seeds), T, 1))
    if cell.replacement is not None:
        streams = [TaskStream(each, pool=cell.pool, batch=cell.batch, replacement=cell.replacement) for each in seeds]
        batches = np.stack([[stream.index(t).numpy() for t in range(T)] for stream in streams])
    steps = {"K": cell.K, "N": cell.N, "lower_step_size": alpha, "upper_step_size": BETA}
    if isinstance(problem, Quadratic) and cell.warm is True:
        theory = QuadraticTheory.of(problem)
        runs = zip(starts, batches, strict=True)
        return np.stack([theory.replay(start["phi"].numpy(), batch, **steps) for start, batch in runs])
    return written_out(problem, starts, batches, **steps, warm=cell.warm)


def _measured(setting: Setting, family: str, cell: Cell, T: int, replicas: int) -> Array:
    """The same as the driver runs it: the replicas, if any, in one computation, and the run without replicas."""
    problem, alpha = instance(family, setting.seed, cell.pool)
    method = setting.starting(cell.warm)(
        lower_steps=cell.K,
        lower_step_size=None if problem.constants else alpha,  # which is 2 / (L + mu)
        cg_steps=cell.N,
        upper_step_size=BETA,
        warm_start=cell.warm,
    )
    p = sum(tensor.numel() for tensor in problem.phi0(torch.Generator()).values())
    found = []
    for count, seed in ((replicas, setting.seed), (None, setting.seed + replicas))[not replicas :]:
        trace = solve(
            problem,
            method,
            iterations=T + 1,
            batch=None if cell.replacement is None else cell.batch,
            replacement=bool(cell.replacement),
            seed=seed,
            replicas=count,
            probes=[_coordinate(j) for j in range(p)],
            device=setting.device,
        ).trace
        phi = np.stack([trace[f"phi_{j}"].numpy() for j in range(p)], axis=-1)  # (T + 1, p) or (T + 1, replicas, p)
        found.append(phi.reshape(T + 1, -1, p).swapaxes(0, 1))
    return np.concatenate(found)


def _coordinate(j: int) -> Probe:
    """Coordinate j of phi."""

    def measure(snapshot: Snapshot) -> Tensor:
        return flattened(snapshot.phi, lead=0 if snapshot.replicas is None else 1)[..., j]

    return Probe(f"phi_{j}", measure)
