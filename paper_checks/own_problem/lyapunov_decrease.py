"""On this problem the Lyapunov function of the warm algorithm decreases in every step, with the constants it gives.

Statement.
    With all tasks, theta and v warm, K, N >= 1: V_t = Phi(phi_t) - Phi* + beta (P a_t + Q b_t) satisfies
    V_{t+1} <= V_t - beta/2 |grad Phi(phi_t)|^2, hence R_T = sum_{t<T} |grad Phi(phi_t)|^2 beta / (2 V_0) <= 1: a
    running average of |grad Phi|^2 that falls like 1/T, with that constant.
Hypotheses.
    The constants mu, L, L_c, Lambda, tau, nu, L_Phi, rho_2 of the problem are true (contract); alpha = 2 / (L + mu);
    beta <= min(1 / (2 L_Phi), 1 / (2 sqrt(W))); where rho_2 > 0 the drift stays below s_bar (docs/theory.md S2).
Predicted.
    At the largest allowed beta, (K, N) = (1, 1), (3, 2), (5, 3): no step grows beyond the inequality by more than
    rounding, R_T <= 1, drift / s_bar <= 1.
Measured.
    All tasks of the pool, at most 64; theta starts at theta*(phi_0), v at 0. theta*, Phi and grad Phi by damped Newton,
    v* and the energy norm from dense Hessians, Phi* by the problem's closed optimum or BFGS on the reference.
Refuted by.
    A growth above 1e-12 (1 + |Phi*|) + 1e-12 V_t, or R_T > 1. A drift above s_bar puts the run outside of the theorem:
    INCONCLUSIVE.
Source.
    docs/theory.md S2, Theorem 2. The function and its constants are derived here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import minimize

from convergence import ReferenceFailed, reference
from convergence import run as solve
from convergence.needs import Need
from paper_checks.claim import Comparison, Evidence, Outcome, Setting, at_most, missing
from paper_checks.lyapunov import Lyapunov, drift_probe, reference_potential
from paper_checks.own_problem.cost import affordable, seconds
from paper_checks.own_problem.needs import EXACT, SMALL_THETA, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, judged, points
from paper_checks.planted import LongerStep
from paper_checks.quadratic_theory import Array
from problems import Problem

PLANTED = "the step on phi taken uphill"
STEPS = ((1, 1), (3, 2), (5, 3))  # (K, N)
ASKED = ("L_c", "Lambda", "tau", "nu", "L_Phi", "rho_2")
MOST, LARGEST = 64, 200  # tasks, and p for BFGS

CONSTANTS = Need(
    f"constants mu, L, {', '.join(ASKED)}",
    lambda problem: problem.constants is not None and None not in [getattr(problem.constants, k) for k in ASKED],
    "which does not give them all",
    "constants",
)
FEW_TASKS = Need(
    f"a pool of at most {MOST} tasks, of whose mean L_Phi is a constant",
    lambda problem: problem.tasks is not None and problem.tasks <= MOST,
    "which has more or none",
    "few tasks",
)
SMALL_PHI = Need(
    f"upper_solution, or p <= {LARGEST} to find the optimum by BFGS",
    lambda problem: problem.has("upper_solution") or _size(problem) <= LARGEST,
    "whose phi is larger",
    "Phi*",
)


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    needs = (EXACT, CONSTANTS, FEW_TASKS, SMALL_THETA, SMALL_PHI, TWICE_DIFFERENTIABLE)
    return lacking("lyapunov_decrease", problem, *needs)


def run(setting: Setting) -> Evidence:
    """V, |grad Phi|^2 and the drift along a run of every (K, N)."""
    whole = judged(setting, MOST)
    (phi,) = points(whole, setting.seed, 1)
    pool = whole.sample(None, torch.Generator())
    problem = whole.started(reference(whole, phi, pool).theta)  # so that V is Phi - Phi*, not the start of theta
    minimum = _minimum(problem, phi)
    each = 20 * seconds(lambda: reference(problem, phi, pool))
    T = affordable(each, setting.pick(3.0, 60.0), least=10, most=setting.pick(60, 1000))
    evidence: Evidence = {"steps": np.array(STEPS), "minimum": np.array(minimum)}
    found = []
    for k, (K, N) in enumerate(setting.track(STEPS, "warm runs")):
        alpha = problem.constants.lower_step_size
        lyapunov = Lyapunov.of(problem.constants, lower_steps=K, cg_steps=N, lower_step_size=alpha)
        beta = lyapunov.largest_step
        trace = solve(
            problem,
            setting.method(lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=beta, warm_start=True),
            iterations=T,
            seed=setting.seed,
            probes=("grad_norm_sq", reference_potential(problem, minimum, beta, lyapunov), drift_probe()),
            device=setting.device,
        ).trace
        evidence |= {f"{name}_{k}": trace[name].numpy() for name in ("V", "grad_norm_sq")}
        found.append((beta, float(trace["drift"].max()), lyapunov.drift))
    beta, drift, allowed = (np.array(column) for column in zip(*found, strict=True))
    return evidence | {"beta": beta, "drift": drift, "allowed_drift": allowed}


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=_Uphill))


def judge(evidence: Evidence) -> list[Comparison]:
    """No growth beyond the inequality, the sum, the drift."""
    e = evidence
    cells = [f"K {K:.0f}, N {N:.0f}" for K, N in e["steps"]]
    value = 1 + abs(float(e["minimum"]))
    runs = [(e[f"V_{k}"], e[f"grad_norm_sq_{k}"], beta) for k, beta in enumerate(e["beta"])]
    if not min(V[0] for V, _, _ in runs) > 1e-12 * value:
        return [
            missing(
                "V_0", 0.0, "phi_0 is the optimum of Phi to rounding, so that nothing decreases: give another start"
            )
        ]
    growth = [_growth(*each, value) for each in runs]
    # The least V met stands in for an optimum that BFGS has missed: what is summed up is at most V_0 - V_T
    sums = [float(squares.sum() * beta / (2 * (V[0] - min(V.min(), 0.0)))) for V, squares, beta in runs]
    drift = np.where(np.isinf(e["allowed_drift"]), 0.0, e["drift"] / e["allowed_drift"])
    kept = at_most("drift / s_bar, so that the theorem applies", drift, 1.0, cells=cells)
    if kept.outcome is Outcome.VIOLATED:
        reason = f"{kept.reason}: outside of the theorem's hypotheses, which says nothing of the algorithm"
        return [replace(kept, outcome=Outcome.INCONCLUSIVE, reason=reason)]
    return [
        at_most("growth of V beyond V - beta/2 |grad Phi|^2, over rounding", growth, 1.0, cells=cells),
        at_most("R_T = sum |grad Phi|^2 beta / (2 V_0)", sums, 1.0, cells=cells),
        kept,
    ]


class _Uphill(LongerStep):
    """phi + beta d."""

    share = -1.0


def _growth(V: Array, squares: Array, beta: float, value: float) -> float:
    """The largest, over what rounding of V may make of it."""
    return float(np.max((np.diff(V) + beta / 2 * squares[:-1]) / (1e-12 * value + 1e-12 * np.abs(V[:-1]))))


def _minimum(problem: SomeTasks, phi: dict[str, torch.Tensor]) -> float:
    """Phi*, by the closed optimum or by BFGS from phi: then exact to |grad Phi|^2 over the curvature."""
    pool = problem.sample(None, torch.Generator())
    if problem.problem.has("upper_solution"):
        there = reference(problem, problem.problem.upper_solution(), pool)
        left, size = (float(vector(each.hypergradient).norm()) for each in (there, reference(problem, phi, pool)))
        if not left <= 1e-6 * max(size, 1.0):
            raise ValueError(
                f"expected upper_solution to be a zero of grad Phi, got |grad Phi| = {left:.1e} there and "
                f"{size:.1e} at the start"
            )
        return float(there.value)
    single, near = SingleTasks(problem, pool, phi), None

    def objective(x: Array) -> tuple[float, Array]:
        nonlocal near  # theta* of the point before: where Newton starts
        exact = reference(problem, single.named(torch.as_tensor(x, device=vector(phi).device)), pool, start=near)
        near = exact.theta
        return float(exact.value), vector(exact.hypergradient).cpu().numpy()

    try:
        found = minimize(objective, vector(phi).cpu().numpy(), jac=True, method="BFGS", options={"gtol": 1e-9})
    except ReferenceFailed as error:  # farther out than the algorithm goes
        raise ValueError(f"expected theta* wherever BFGS looks for the minimum of Phi, got: {error}") from error
    if not np.linalg.norm(found.jac) <= 1e-6 * (1 + abs(found.fun)):
        raise ValueError(
            f"expected BFGS to find the minimum of Phi, got |grad Phi| = {np.linalg.norm(found.jac):.1e} after "
            f"{found.nit} iterations: is Phi bounded from below?"
        )
    return float(found.fun)


def _size(problem: Problem) -> int:
    return sum(tensor.numel() for tensor in problem.phi0(torch.Generator()).values())
