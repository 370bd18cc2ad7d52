"""Every iterate on this problem is the one that the lines of the algorithm give, task by task.

Statement.
    phi_{t+1} = phi_t - beta mean_{i in B_t} [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ], at theta_i after K gradient
    steps of size alpha and v_i after N steps of CG on (d2g_i/dtheta2) v = grad_theta f_i. Warm, both start where task i
    was left when it was last drawn; cold, at theta_0 and 0.
Hypotheses.
    None on the problem but q <= 512; float64 and a few iterations, so that rounding stays below what is allowed.
Predicted.
    phi_0, ..., phi_T with every start (warm, cold, warm in theta alone) on every batch (with and without replacement,
    all tasks), K = N = 2; K = 5, N = 3; nine tasks of twelve where there are so many. Four replicas, each as the run
    with its own seed, and a run without replicas.
Measured.
    phi_t along runs through the driver on the first tasks of the pool, seen along at most 16 directions. Predicted by
    derivatives by torch.func of g and f alone, and v by scipy's CG. alpha = 2 / (L + mu) of the problem's constants,
    which the method is left to take; without constants 1 / (2 L), L measured at the start, halved until ten steps from
    theta_0 lower g. beta so that phi moves by a hundredth of its length or of one at first.
Refuted by.
    One phi_t off by 1e-10 of the largest |phi_t| of its run, or by 1000 eps kappa where that is more: two right codes
    of CG differ by a multiple of eps kappa, kappa that of the lower Hessians at the start.
Source.
    docs/theory.md S9. Algorithm 1 of the paper; differs: v may be warm.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from convergence import MemoryReduced, Oracle, Probe, Snapshot
from convergence import run as solve
from convergence.streams import TaskStream
from paper_checks.algorithm_replay import DRAWS, STARTS, Cell
from paper_checks.claim import Comparison, Evidence, Setting, at_most, missing
from paper_checks.own_problem.cost import affordable, seconds
from paper_checks.own_problem.lower_level import extremes, largest
from paper_checks.own_problem.needs import EXACT, SMALL_THETA, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, judged, points
from paper_checks.planted import HiddenDecay
from paper_checks.quadratic_theory import Array
from paper_checks.written_out import flattened, written_out
from problems import Parameters, Problem

PLANTED = "an upper step size that decays in secret"
REPLICAS, POOL, MANY, DIRECTIONS = 4, 5, 12, 16
HALVINGS, DESCENT = 60, 10


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    return lacking("algorithm_replay", problem, EXACT, SMALL_THETA, TWICE_DIFFERENTIABLE)


def run(setting: Setting) -> Evidence:
    """Measured and predicted iterates of every cell, (cells, runs, T + 1, r); the last run is without replicas."""
    some = judged(setting, MANY)
    few, alpha = SomeTasks.of(some, POOL), lower_step_size(setting, some)
    beta, each = upper_step_size(setting, few, alpha)
    T = affordable(30 * each, setting.pick(0.3, 3.0), least=3, most=setting.pick(12, 20))
    (start,) = points(some, setting.seed, 1)
    single, x = SingleTasks(some, some.sample(None, torch.Generator()), start), vector(start)
    low, high = extremes(single, x, single.theta0(x))
    kappa = high / low if low > 0 else 1.0
    evidence: Evidence = {"allowed": np.array(max(1e-10, 1000 * np.finfo(float).eps * kappa))}
    for name, problem, cells in (("few", few, _cells(few.tasks)), ("many", some, _many(some.tasks))):
        if cells:
            sizes = (T, alpha, beta)
            found = [measured(setting, problem, cell, *sizes) for cell in setting.track(cells, "runs")]
            right = [law(setting.seed, problem, cell, *sizes) for cell in setting.track(cells, "predictions")]
            evidence |= {f"{name}_cells": np.array([str(cell) for cell in cells])}
            evidence |= {f"{name}_phi": np.stack(found), f"{name}_law": np.stack(right)}
    return evidence


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=HiddenDecay))


def judge(evidence: Evidence) -> list[Comparison]:
    """Every iterate of every run attained."""
    e, comparisons = evidence, []
    for name in ("few", "many"):
        if f"{name}_cells" in e:
            found, right = e[f"{name}_phi"], e[f"{name}_law"]
            runs = [*(f"replica {r}" for r in range(REPLICAS)), "without replicas"]
            cells = [
                f"{cell}, {one}, t {t}" for cell in e[f"{name}_cells"] for one in runs for t in range(right.shape[2])
            ]
            # Not relative to phi_t alone, which may pass through zero: the largest on its way
            size = np.linalg.norm(right, axis=-1).max(-1, keepdims=True)
            gap = np.linalg.norm(found - right, axis=-1) / np.where(size > 0, size, 1.0)
            if np.linalg.norm(right - right[:, :, :1], axis=-1).max() <= 1e-10 * size.max():
                reason = "phi does not move, so that no step is seen: is Phi constant around phi_0?"
                comparisons.append(missing(f"phi_t - phi_0, {name} tasks", 0.0, reason))
            comparisons.append(at_most(f"|phi_t - replay| / max |phi_t|, {name} tasks", gap, e["allowed"], cells=cells))
    return comparisons


def _cells(pool: int) -> tuple[Cell, ...]:
    """Every start on every batch of at most three tasks, and more steps."""
    b = min(3, pool)
    return (
        *(Cell(*each, batch=b, pool=pool) for each in product(STARTS, DRAWS)),
        Cell(True, False, 5, 3, batch=b, pool=pool),
    )


def _many(pool: int) -> tuple[Cell, ...]:
    """Batches of more than eight tasks, where there are so many."""
    if pool <= 8:
        return ()
    return Cell(True, False, batch=9, pool=pool), Cell(True, None, pool=pool)


def lower_step_size(setting: Setting, problem: SomeTasks) -> float:
    """What a method that is given none takes, or 1 / (2 L) with L measured at the start: Hessians change with phi.

    Where they change with theta too, halved until a few lower steps lower g of every task at the start of every seed.
    """
    if problem.constants is not None:
        return problem.constants.lower_step_size
    starts = [points(problem, setting.seed + k, 1)[0] for k in range(REPLICAS + 1)]
    single, x = SingleTasks(problem, problem.sample(None, torch.Generator()), starts[0]), vector(starts[0])
    alpha = 1 / (2 * largest(single, x, single.theta0(x)))
    for _ in range(HALVINGS):
        if all(_descends(problem, phi, alpha) for phi in starts):
            break
        alpha /= 2
    return alpha


def _descends(problem: SomeTasks, phi: Parameters, alpha: float) -> bool:
    """Whether lower steps of this size from theta_0 lower g of every task, but for rounding."""
    pool = problem.sample(None, torch.Generator())
    z, theta = problem.embed(phi, pool), problem.theta0(phi, pool).detach()
    slope = grad(lambda theta: problem.lower(z, theta, pool).sum())
    value = problem.lower(z, theta, pool)
    for _ in range(DESCENT):
        theta = theta - alpha * slope(theta)
        before, value = value, problem.lower(z, theta, pool)
        if not bool((value <= before + 1e-10 * (1 + before.abs())).all()):
            return False
    return True


def upper_step_size(setting: Setting, problem: SomeTasks, alpha: float) -> tuple[float, float]:
    """beta, by which phi moves a hundredth of its length or of one in the first step; about the seconds of a step.

    Less where the parts of d cancel to below a thousandth, so that their rounding is not blown up.
    """
    method = MemoryReduced(lower_steps=2, lower_step_size=alpha, cg_steps=2, upper_step_size=1.0)
    (phi,), oracle = points(problem, setting.seed, 1), Oracle(problem)
    state, steps = method.start(oracle, phi), []
    each = seconds(lambda: steps.append(method.step(oracle, phi, oracle.pool, state)))
    single, x = SingleTasks(problem, oracle.pool, phi), vector(phi)
    cross = sum(float(single.cross(i, x, steps[0].theta[i], steps[0].v[i]).norm()) for i in range(len(single)))
    size = max(float(vector(steps[0].direction).norm()), 1e-3 * cross / len(single))
    return 0.01 * max(float(vector(phi).norm()), 1.0) / size if size > 0 else 1.0, each


def measured(setting: Setting, problem: SomeTasks, cell: Cell, T: int, alpha: float, beta: float) -> Array:
    """phi_t of the replicas and of the run without, (replicas + 1, T + 1, r), as the driver runs them."""
    seen = _directions(vector(points(problem, setting.seed, 1)[0]))
    method = setting.method(
        lower_steps=cell.K,
        lower_step_size=None if problem.constants else alpha,
        cg_steps=cell.N,
        upper_step_size=beta,
        warm_start=cell.warm,
    )
    found = []
    for count, seed in ((REPLICAS, setting.seed), (None, setting.seed + REPLICAS)):
        trace = solve(
            problem,
            method,
            iterations=T + 1,
            batch=None if cell.replacement is None else cell.batch,
            replacement=bool(cell.replacement),
            seed=seed,
            replicas=count,
            probes=[_coordinate(j, row) for j, row in enumerate(seen)],
            device=setting.device,
        ).trace
        phi = np.stack([trace[f"phi_{j}"].numpy() for j in range(len(seen))], axis=-1)
        found.append(phi.reshape(T + 1, -1, len(seen)).swapaxes(0, 1))
    return np.concatenate(found)


def law(seed: int, problem: SomeTasks, cell: Cell, T: int, alpha: float, beta: float) -> Array:
    """The same by the lines of the algorithm."""
    problem = problem.to("cpu")
    seeds = range(seed, seed + REPLICAS + 1)
    starts = [points(problem, each, 1)[0] for each in seeds]
    batches = np.tile(np.arange(cell.pool), (len(seeds), T, 1))
    if cell.replacement is not None:
        streams = [TaskStream(each, pool=cell.pool, batch=cell.batch, replacement=cell.replacement) for each in seeds]
        batches = np.stack([[stream.index(t).numpy() for t in range(T)] for stream in streams])
    steps = {"K": cell.K, "N": cell.N, "lower_step_size": alpha, "upper_step_size": beta}
    phi = written_out(problem, starts, batches, **steps, warm=cell.warm)
    return np.asarray(phi @ _directions(vector(starts[0])).numpy().T)


def _directions(x: Tensor) -> Tensor:
    """Rows along which phi is seen, (r, p): its coordinates, or 16 random directions where it has more."""
    if len(x) <= DIRECTIONS:
        return torch.eye(len(x), dtype=x.dtype, device=x.device)
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(DIRECTIONS, len(x), generator=rng, dtype=x.dtype).to(x.device)
    return rows / rows.norm(dim=-1, keepdim=True)


def _coordinate(j: int, row: Tensor) -> Probe:
    """phi along that row."""

    def measure(snapshot: Snapshot) -> Tensor:
        return flattened(snapshot.phi, lead=0 if snapshot.replicas is None else 1) @ row

    return Probe(f"phi_{j}", measure)
