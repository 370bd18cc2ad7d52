"""N conjugate-gradient steps on the Hessians of this problem do what N steps can do, and contract by chi_N.

Statement.
    v_N minimises |v - v*|_H over v_0 + span(r_0, H r_0, ..., H^(N-1) r_0), hence |v_N - v*|_H <= chi_N |v_0 - v*|_H,
    chi_N = 2 r^N / (1 + r^2N), r = (sqrt(kappa) - 1) / (sqrt(kappa) + 1), from a cold start and from a warm one.
Hypotheses.
    H = d2g_i/dtheta2 at theta_i positive definite, q <= 512, f depends on theta. The minimum is judged where
    rounding does not count: where scipy's CG on the same system finds it to 1e-7.
Predicted.
    The ratio equals the minimum over the Krylov space, found from an orthonormal basis of it (a projection, no
    recurrence); it is at most chi_N with kappa of that H.
Measured.
    theta_i, v_i of steps of the method on at most four tasks, theta_0 + noise at first: a cold step at phi_0, then a
    warm one at a phi nearby. H and grad_theta f there by torch.func, v* by a direct solve.
Refuted by.
    A ratio off the minimum by 1e-6 of the start, or above chi_N by more than that.
Source.
    docs/theory.md S1 (Greenbaum 1979).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.sparse.linalg import cg
from torch import Tensor

from convergence import ConjugateGradient, Implicit, MemoryReduced, Oracle, Step
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_most, equal
from paper_checks.own_problem.algorithm_replay import lower_step_size
from paper_checks.own_problem.lower_level import krylov
from paper_checks.own_problem.needs import EXACT, F_SEES_THETA, SMALL_THETA, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, judged, like, points
from paper_checks.planted import OldResidualDirection
from paper_checks.quadratic_theory import Array
from problems import Constants, Parameters, Problem

PLANTED = (
    "CG with the old residual in its search direction (the error of a published package); one CG step fewer where "
    "every Hessian has one eigenvalue and any direction ends at once"
)
TASKS, STEPS = 4, (1, 2, 3, 4, 6, 8, 12)


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    return lacking("cg_rate", problem, EXACT, SMALL_THETA, TWICE_DIFFERENTIABLE, F_SEES_THETA)


def run(setting: Setting) -> Evidence:
    """Ratios, minima and bounds of every task, N and start."""
    problem = judged(setting, TASKS)
    at = points(problem, setting.seed, 2)
    single = SingleTasks(problem, problem.sample(None, torch.Generator()), at[0])
    start = single.theta0(vector(at[0]))
    problem = problem.started(start + like(start, generator(setting.seed, "noise")))
    alpha = lower_step_size(setting, problem)
    rows = []
    for N in setting.track(STEPS, "CG steps"):
        cold, warm = _two_steps(setting, problem, at, alpha, N)
        for number, (phi, step, starts) in enumerate(((at[0], cold, torch.zeros_like(cold.v)), (at[1], warm, cold.v))):
            for i in range(len(single)):
                found = _ratios(single, i, vector(phi), step.theta[i], step.v[i], starts[i], N)
                rows.append((i, N, number, *found))
    names = ("task", "N", "warm", "ratio", "minimum", "scipy", "chi")
    return {name: np.array(column, float) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    evidence = run(replace(setting, method=OldResidualDirection))
    if (evidence["chi"] <= 1e-6).all():
        return run(replace(setting, method=_OneStepFewer))
    return evidence


def judge(evidence: Evidence) -> list[Comparison]:
    """The minimum attained, the bound kept."""
    e = evidence
    cells = [
        f"task {task:.0f}, N {N:.0f}, {'warm' if warm else 'cold'}"
        for task, N, warm in zip(e["task"], e["N"], e["warm"], strict=True)
    ]
    own = ~(np.abs(e["scipy"] - e["minimum"]) > 1e-7)
    attained = [cell for cell, each in zip(cells, own, strict=True) if each]
    return [
        equal("|v_N - v*|_H / |v_0 - v*|_H", e["ratio"][own], e["minimum"][own], absolute=1e-6, cells=attained),
        at_most("|v_N - v*|_H / |v_0 - v*|_H - chi_N", e["ratio"] - e["chi"], 1e-6, cells=cells),
    ]


class _OneStepFewer(MemoryReduced):
    """N - 1 CG steps instead of N."""

    @property
    def implicit(self) -> Implicit:
        """The hypergradient by CG that stops early."""
        return Implicit(ConjugateGradient(self.cg_steps - 1))


def _two_steps(setting: Setting, problem: SomeTasks, at: list[Parameters], alpha: float, N: int) -> tuple[Step, Step]:
    """A step of the method at the first phi, where v starts at 0, and one at the second, where it starts at that v."""
    oracle = Oracle(problem)
    method = setting.method(lower_steps=1, lower_step_size=alpha, cg_steps=N, upper_step_size=1.0, warm_start=True)
    cold = method.step(oracle, at[0], oracle.pool, method.start(oracle, at[0]))
    return cold, method.step(oracle, at[1], oracle.pool, cold.state)


def _ratios(
    single: SingleTasks, i: int, x: Tensor, theta: Tensor, v: Tensor, start: Tensor, N: int
) -> tuple[float, float, float, float]:
    """|v_N - v*|_H / |v_0 - v*|_H, its minimum over v_0 + the Krylov space, that of scipy's CG, and chi_N of this H."""
    H = single.hessian(i, x, theta).cpu().numpy()
    b = single.slope("upper", i, x, theta).cpu().numpy()
    v, start = v.cpu().numpy(), start.cpu().numpy()
    solution = np.linalg.solve(H, b)
    e_0 = solution - start
    # No start is so near that rounding is compared; v* = 0 where grad_theta f = 0, and so is v
    size = max(_energy(H, e_0), 1e-8 * _energy(H, solution)) or 1.0
    basis = krylov(H, b - H @ start, N)
    best = e_0 - basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ (H @ e_0))
    eigenvalues = np.linalg.eigvalsh(H)
    bound = Constants(mu=float(eigenvalues[0]), L=float(eigenvalues[-1])).cg_contraction(N)
    other, _ = cg(H, b, x0=start, rtol=float(np.finfo(float).eps), atol=0.0, maxiter=N)
    found = (_energy(H, error) / size for error in (v - solution, best, other - solution))
    return *found, bound


def _energy(H: Array, x: Array) -> float:
    return float(np.sqrt(max(x @ H @ x, 0.0)))
