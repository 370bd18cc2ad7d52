"""On this problem, with all tasks and warm theta and v, the algorithm converges exactly: no error floor.

Statement.
    |grad Phi(phi_t)|^2 -> 0 for any K, N >= 1 and a small enough beta, theta and v warm, all tasks in every iteration;
    a cold start comes to rest elsewhere, where d = 0 and grad Phi is not.
Hypotheses.
    The hypotheses of Theorem 2 near the way of phi, where Phi is curved enough to be minimised within the horizon;
    q <= 512; phi reaches the lower level.
Predicted.
    |grad Phi|^2 falls to rounding: below (1e-10 + 1e-14 kappa)^2 of (|grad_phi f| + |(d2g/dphi dtheta) v*|)^2 at phi_0.
Measured.
    A run on at most five tasks, stopped where it gets there; grad Phi by damped Newton at 40 iterations of it.
    The lower level starts at theta_0 + standard normal noise.
    alpha = 1 / (L + mu); K, N the least with varrho^K <= 1/2 and sqrt(kappa) chi_N <= 1/2, at most 50 and 20. beta by
    search, with the algorithm itself: 1 / L_Phi, L_Phi by power iteration on differences of grad Phi at phi_0, halved
    until 40 iterations lower |grad Phi|.
Refuted by.
    A method at rest above that level: |d|^2 <= 1e-4 |grad Phi|^2, and |grad Phi|^2 within a thousandth of itself over
    the last quarter of the horizon, which holds kappa lower steps. One that is still moving is INCONCLUSIVE: --scale
    paper gives ten times the iterations.
Source.
    docs/theory.md S2, Theorem 2, and S3. Claim C3 is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from convergence import MemoryReduced, ReferenceFailed, Result, RunFailed, reference
from convergence import run as solve
from paper_checks.claim import Comparison, Evidence, Outcome, Setting, at_most
from paper_checks.own_problem.cost import affordable, seconds
from paper_checks.own_problem.hypergradient_error import size
from paper_checks.own_problem.lower_level import Solved, solved
from paper_checks.own_problem.needs import EXACT, F_SEES_THETA, IMPLICIT, SMALL_THETA, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, judged, like, points
from paper_checks.planted import ColdStart
from problems import Problem

PLANTED = "theta and v started cold in every iteration of a method that is said to be warm"
TASKS, PROBED, TRIAL, HALVINGS = 5, 40, 40, 12
AT_REST, STILL = 1e-4, 1e-3


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    needs = (EXACT, SMALL_THETA, TWICE_DIFFERENTIABLE, F_SEES_THETA, IMPLICIT)
    return lacking("deterministic_exact", problem, *needs)


def run(setting: Setting) -> Evidence:
    """|grad Phi|^2 and |d|^2 along the run, and the level of rounding."""
    problem = judged(setting, TASKS)
    (phi,) = points(problem, setting.seed, 1)
    start = problem.theta0(phi, problem.sample(None, torch.Generator())).detach()
    # Where theta_0 happens to be theta* of the optimum a cold start would be exact as well
    problem = problem.started(start + like(start, torch.Generator().manual_seed(setting.seed)))
    exact = solved(problem, phi)
    single = SingleTasks(problem, problem.sample(None, torch.Generator()), phi)
    level = ((1e-10 + 1e-14 * exact.L / exact.mu) * size(single, exact)) ** 2
    steps = _steps(exact)
    run_of = partial(solve, problem, seed=setting.seed, device=setting.device)
    right = partial(MemoryReduced, **steps)
    beta = _upper_step_size(partial(run_of, probes=("grad_norm_sq",)), right, _smoothness(problem, single, exact))
    each = seconds(lambda: run_of(right(upper_step_size=beta), iterations=2, probes=())) / 2
    every = affordable(PROBED * each, setting.pick(4.0, 40.0), least=2, most=setting.pick(250, 2500))
    result = run_of(
        setting.method(**steps, upper_step_size=beta, warm_start=True),
        iterations=PROBED * every + 1,
        probe_every=every,
        probes=("grad_norm_sq", "direction_norm_sq"),
        stop_at={"grad_norm_sq": level},
    )
    return _evidence(result, level) | {
        "beta": np.array(beta),
        "K": np.array(steps["lower_steps"]),
        "kappa": np.array(exact.L / exact.mu),
    }


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=ColdStart))


def judge(evidence: Evidence) -> list[Comparison]:
    """At the level of rounding, at rest above it, or still moving."""
    e = evidence
    last, level, first = float(e["grad_norm_sq"][-1]), float(e["level"]), float(e["grad_norm_sq"][0])
    quantity = "final |grad Phi|^2"
    if not last > level or _at_rest(e) or not math.isfinite(last):
        return [at_most(quantity, last, level)]
    reason = (
        f"fell from {first:.1e} to {last:.1e} in {e['t'][-1]:.0f} iterations of beta = {e['beta']:.1e} and is still "
        "moving: take --scale paper, or a problem whose Phi is better conditioned"
    )
    return [Comparison(quantity, last, "<=", level, Outcome.INCONCLUSIVE, reason)]


def _at_rest(e: Evidence) -> bool:
    """Whether the last quarter of the run, long enough for the lower level, says that nothing moves any more."""
    squares, moved = (e[name][-PROBED // 4 :] for name in ("grad_norm_sq", "direction_norm_sq"))
    long_enough = len(e["t"]) > PROBED and e["K"] * e["t"][-1] / 4 >= e["kappa"]
    return bool(long_enough and moved[-1] <= AT_REST * squares[-1] and np.ptp(squares) <= STILL * squares.max())


def _evidence(result: Result, level: float) -> Evidence:
    """The traces up to where the run stopped."""
    squares, moved = (result.trace[name].numpy() for name in ("grad_norm_sq", "direction_norm_sq"))
    there = np.flatnonzero(np.isfinite(squares))
    squares = squares[there]
    # Where it stopped it took no step any more
    return {
        "t": result.probed_at.numpy()[there],
        "grad_norm_sq": squares,
        "direction_norm_sq": np.where(np.isfinite(moved[there]), moved[there], squares),
        "level": np.array(level),
    }


def _steps(exact: Solved) -> dict[str, float]:
    """K, alpha and N, so that warm levels keep up and cold ones do not get there."""
    kappa = exact.L / exact.mu
    varrho = 1 - exact.mu * exact.step_size
    root = math.sqrt(kappa)
    rate = math.log((root + 1) / (root - 1)) if root > 1 + 1e-9 else math.inf
    return {
        "lower_steps": min(50, math.ceil(math.log(2) / -math.log(varrho))),
        "lower_step_size": exact.step_size,
        "cg_steps": max(1, min(20, math.ceil(math.log(4 * root) / rate))),
    }


def _smoothness(problem: SomeTasks, single: SingleTasks, exact: Solved) -> float:
    """|d2 Phi| at phi_0: eight power iterations on differences of grad Phi."""
    pool = problem.sample(None, torch.Generator())
    u, found = like(exact.x, torch.Generator().manual_seed(0)), 0.0
    h = 1e-4 * max(1.0, float(exact.x.norm()))
    for _ in range(8):
        u = u / u.norm()
        there = reference(problem, single.named(exact.x + h * u), pool, start=exact.theta)
        u = (vector(there.hypergradient) - exact.gradient) / h
        found = float(u.norm())
        if not found > 0:
            break
    return found


def _upper_step_size(run_of: Callable[..., Result], method: Callable[..., MemoryReduced], smoothness: float) -> float:
    """1 / smoothness, halved until the algorithm lowers |grad Phi|. Raises ReferenceFailed where it never does."""
    beta = 1 / smoothness if smoothness > 0 else 1.0
    for _ in range(HALVINGS):
        try:
            squares = run_of(method(upper_step_size=beta), iterations=TRIAL + 1, probe_every=TRIAL).trace[
                "grad_norm_sq"
            ]
        except (RunFailed, ReferenceFailed):
            squares = None
        if squares is not None and float(squares[-1]) < float(squares[0]):
            return beta
        beta /= 2
    raise ReferenceFailed(
        f"expected an upper step size from {2**HALVINGS * beta:.1e} down to {2 * beta:.1e} that lowers |grad Phi| "
        f"within {TRIAL} iterations, got none"
    )
