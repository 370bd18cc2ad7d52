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
    The lower level starts at theta_0 + normal noise of the size of theta*.
    K, N the least with varrho^K <= 1/2 and sqrt(kappa) chi_N <= 1/2, at most 50 and 20. alpha and beta by a search with
    the paper's algorithm, whatever method is judged. At phi_0 alpha = 1 / (L + mu), and beta = 1 / L_Phi, L_Phi by
    power iteration on differences of grad Phi, halved until a step along -grad Phi lowers Phi by a quarter of beta
    |grad Phi|^2. Then, as L and L_Phi change on the way: beta halved until 40 iterations lower Phi or |grad Phi|, both
    halved where these or a run over the horizon fail; twelve times at most.
Refuted by.
    A method at rest above that level: |d|^2 <= 1e-4 |grad Phi|^2, and |grad Phi|^2 within a thousandth of itself over
    the last quarter of the horizon, which holds kappa lower steps. Where the paper's algorithm needs an eighth of the
    horizon, also one above the level whose least |grad Phi|^2 of the last quarter is no less than that of the quarter
    before. One that fails with the steps found. One that is still moving is INCONCLUSIVE: --scale paper gives ten times
    the iterations. So is a problem on which no steps are found, phi_0 is stationary, or a cold start has no error where
    the run ends.
Source.
    docs/theory.md S2, Theorem 2, and S3. Claim C3 is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convergence import MemoryReduced, Oracle, ReferenceFailed, Result, RunFailed, reference
from convergence import run as solve
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Outcome, Setting, at_most, missing
from paper_checks.own_problem.cost import affordable, seconds
from paper_checks.own_problem.hypergradient_error import size
from paper_checks.own_problem.lower_level import Solved, solved
from paper_checks.own_problem.needs import EXACT, F_SEES_THETA, IMPLICIT, SMALL_THETA, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, judged, like, points
from paper_checks.planted import ColdStart
from problems import Parameters, Problem

PLANTED = "theta and v started cold in every iteration of a method that is said to be warm"
TASKS, PROBED, TRIAL, HALVINGS, LINE_SEARCH = 5, 40, 40, 12, 60
AT_REST, STILL = 1e-4, 1e-3


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    needs = (EXACT, SMALL_THETA, TWICE_DIFFERENTIABLE, F_SEES_THETA, IMPLICIT)
    return lacking("deterministic_exact", problem, *needs)


def run(setting: Setting) -> Evidence:
    """|grad Phi|^2 and |d|^2 along the run, and the level of rounding; that level alone where no steps are found."""
    problem = judged(setting, TASKS)
    (phi,) = points(problem, setting.seed, 1)
    problem = problem.started(_away(problem, phi, setting.seed))
    exact = solved(problem, phi)
    single = SingleTasks(problem, problem.sample(None, torch.Generator()), phi)
    level = ((1e-10 + 1e-14 * exact.L / exact.mu) * size(single, exact)) ** 2
    squares = float(exact.gradient.square().sum())
    if not squares > level:
        return {"level": np.array(level), "grad_norm_sq": np.array([squares])}
    run_of = partial(solve, problem, seed=setting.seed, device=setting.device)
    found = _search(setting, run_of, _step_size_at_start(problem, single, exact), exact, level)
    if found is None:
        return {"level": np.array(level)}
    steps, every, result = found
    needed = (
        result.iterations if float(result.trace["grad_norm_sq"].nan_to_num(nan=math.inf).min()) <= level else math.inf
    )
    if setting.method is not MemoryReduced:
        result = _horizon(run_of, setting.method, steps, every, level)
    return _evidence(result, level) | {
        "beta": np.array(steps["upper_step_size"]),
        "K": np.array(steps["lower_steps"]),
        "kappa": np.array(exact.L / exact.mu),
        "needed": np.array(float(needed)),
        "cold_norm_sq": np.array(_cold_norm_sq(problem, steps, result)),
    }


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=ColdStart))


def judge(evidence: Evidence) -> list[Comparison]:
    """At the level of rounding, at rest above it, or still moving."""
    e, quantity = evidence, "final |grad Phi|^2"
    level = float(e["level"])
    if "grad_norm_sq" not in e:
        reason = (
            f"no step sizes were found with which the paper's algorithm runs over the horizon ({HALVINGS} halvings): "
            "is Phi bounded from below, and the lower level strongly convex along the way?"
        )
        return [missing(quantity, level, reason)]
    first, last = float(e["grad_norm_sq"][0]), float(e["grad_norm_sq"][-1])
    if not first > level:
        return [
            missing(quantity, level, "grad Phi is zero at phi_0, so that nothing is to converge: give another start")
        ]
    if last <= level and not e["cold_norm_sq"] > level:
        reason = "where the run ends a cold start has no error either, so that being warm or cold makes no difference"
        return [missing(quantity, level, reason)]
    if not last > level or _at_rest(e) or _stuck(e):
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


def _stuck(e: Evidence) -> bool:
    """Whether it falls no more in eight times the iterations in which the paper's algorithm got to the level."""
    quarter, squares = PROBED // 4, e["grad_norm_sq"]
    whole = len(squares) > PROBED and 8 * e["needed"] <= e["t"][-1]
    return bool(whole and squares[-quarter:].min() >= squares[-2 * quarter : -quarter].min())


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


class _Found(NamedTuple):
    """Hyperparameters with which the paper's algorithm runs through, the iterations between two probes, its run."""

    steps: dict[str, Any]
    every: int
    result: Result


def _search(setting: Setting, run_of: Callable[..., Result], beta: float, exact: Solved, level: float) -> _Found | None:
    """With alpha and beta as large as the search of this claim finds them; None where it does not."""
    alpha = exact.step_size
    for _ in range(HALVINGS):
        steps = _counts(exact, alpha) | {"lower_step_size": alpha, "upper_step_size": beta, "warm_start": True}
        try:
            if _lowers(run_of, MemoryReduced(**steps)):
                each = seconds(lambda steps=steps: run_of(MemoryReduced(**steps), iterations=2, probes=())) / 2
                most = setting.pick(250, 2500)
                every = affordable(PROBED * each, setting.pick(4.0, 40.0), least=2, most=most)
                return _Found(steps, every, _horizon(run_of, MemoryReduced, steps, every, level))
        except (RunFailed, ReferenceFailed):
            alpha /= 2
        beta /= 2
    return None


def _lowers(run_of: Callable[..., Result], method: MemoryReduced) -> bool:
    """Whether a few iterations lower Phi or |grad Phi|: either may rise on the way to where both are least."""
    trace = run_of(method, iterations=TRIAL + 1, probe_every=TRIAL, probes=("grad_norm_sq", "value")).trace
    return any(float(values[-1]) < float(values[0]) for values in trace.values())


def _horizon(
    run_of: Callable[..., Result], make: Callable[..., Any], steps: dict[str, Any], every: int, level: float
) -> Result:
    """The run that is judged, of the method that `make` makes."""
    return run_of(
        make(**steps),
        iterations=PROBED * every + 1,
        probe_every=every,
        probes=("grad_norm_sq", "direction_norm_sq"),
        stop_at={"grad_norm_sq": level},
    )


def _away(problem: SomeTasks, phi: Parameters, seed: int) -> Tensor:
    """theta_0 + noise: where theta_0 happens to be theta* of the optimum a cold start would be exact as well."""
    pool = problem.sample(None, torch.Generator())
    start, optimum = problem.theta0(phi, pool).detach(), reference(problem, phi, pool).theta
    scale = max(float(x.square().mean().sqrt()) for x in (optimum, optimum - start)) or 1.0
    return start + scale * like(start, generator(seed, "noise"))


def _cold_norm_sq(problem: SomeTasks, steps: dict[str, Any], result: Result) -> float:
    """|d|^2 of a cold step from where the run ended."""
    method, oracle = MemoryReduced(**steps | {"warm_start": False}), Oracle(problem)
    step = method.step(oracle, result.phi, oracle.pool, method.start(oracle, result.phi))
    return float(vector(step.direction).square().sum())


def _counts(exact: Solved, alpha: float) -> dict[str, Any]:
    """K and N, so that warm levels keep up and cold ones do not get there."""
    root = math.sqrt(exact.L / exact.mu)
    rate = math.log((root + 1) / (root - 1)) if root > 1 + 1e-9 else math.inf
    return {
        "lower_steps": min(50, math.ceil(math.log(2) / -math.log(1 - exact.mu * alpha))),
        "cg_steps": max(1, min(20, math.ceil(math.log(4 * root) / rate))),
    }


def _smoothness(problem: SomeTasks, single: SingleTasks, exact: Solved) -> float:
    """|d2 Phi| at phi_0: eight power iterations on differences of grad Phi."""
    pool = problem.sample(None, torch.Generator())
    u, found = like(exact.x, generator(0, "noise")), 0.0
    h = 1e-4 * max(1.0, float(exact.x.norm()))
    for _ in range(8):
        u = u / u.norm()
        there = reference(problem, single.named(exact.x + h * u), pool, start=exact.theta)
        u = (vector(there.hypergradient) - exact.gradient) / h
        found = float(u.norm())
        if not found > 0:
            break
    return found


def _step_size_at_start(problem: SomeTasks, single: SingleTasks, exact: Solved) -> float:
    """1 / |d2 Phi|, halved until a step of that size along -grad Phi lowers Phi by a quarter of what it is long."""
    smoothness, pool = _smoothness(problem, single, exact), problem.sample(None, torch.Generator())
    beta, squares = 1 / smoothness if smoothness > 0 else 1.0, float(exact.gradient.square().sum())
    for _ in range(LINE_SEARCH):
        try:
            there = single.named(exact.x - beta * exact.gradient)
            if float(reference(problem, there, pool, start=exact.theta).value) <= exact.value - beta * squares / 4:
                break
        except ReferenceFailed:
            pass
        beta /= 2
    return beta
