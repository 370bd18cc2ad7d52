"""With all tasks and warm theta and v, the algorithm converges exactly, at the rate 1/T and faster.

Statement.
    V_t = Phi(phi_t) - Phi* + beta (P a_t + Q b_t) satisfies V_{t+1} <= V_t - beta/2 |grad Phi(phi_t)|^2, hence
    1/T sum_{t<T} |grad Phi(phi_t)|^2 <= 2 V_0 / (beta T); a_t is the mean squared error of theta_i, b_t of v_i in
    the energy norm. On a strongly convex Phi the limit is exact: no error floor, for any K, N >= 1.
Hypotheses.
    Quadratic levels, or for the exact limit logistic heads, whose lower level is curved in theta; all tasks in every
    iteration; theta and v warm; 0 < alpha < 2 / L; K, N >= 1; and beta <= min(1 / (2 L_Phi), 1 / (2 sqrt(W))), where W
    carries the coupling of the levels: beta <= c / L_Phi is not enough.
Predicted.
    With beta at its largest allowed value and (K, N) = (1, 1), (2, 2), (5, 2), kappa = 2 and 10: the inequality of V
    holds to rounding (1e-12 V_t); sum_{t<T} |grad Phi|^2 beta / (2 V_0) <= 1; |grad Phi|^2 falls below 1e-20. With v
    started cold in every iteration it stops instead at the floor of S3c: exactness needs v warm. On logistic heads,
    (K, N) = (1, 1) and (3, 2) with N < q, |grad Phi|^2 falls below 1e-20 as well.
Measured.
    Phi, theta*, v* and grad Phi from closed forms, V_t at every iteration while V_t >= 1e-18; on logistic heads
    grad Phi by damped Newton.
Refuted by.
    A growth of V beyond the inequality and rounding, a ratio above 1, a final |grad Phi|^2 above 1e-20, or a cold-v
    floor off its closed form by 1e-8.
Source.
    docs/theory.md S2, Theorem 2, and S3c; V on logistic heads: lyapunov_decrease. The rate of claim C3 is the paper's,
    the constants are derived here.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from convergence import run as solve
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most, equal
from paper_checks.lyapunov import Array, Lyapunov, potential
from paper_checks.planted import ColdDirection
from paper_checks.quadratic_theory import cold_cg_problem
from problems import ProxLogistic, Quadratic

PLANTED = "v started cold in every iteration of a method that is said to be warm"
STEPS = ((1, 1), (2, 2), (5, 2))  # (K, N)
CURVED_STEPS = ((1, 1), (3, 2))


def run(setting: Setting) -> Evidence:
    """The warm runs on quadratics and on heads, and the floor of the warm theta with cold v."""
    return {**_warm(setting, kappas=(2.0, 10.0)), **_curved(setting), **_cold_v(setting)}


def control(setting: Setting) -> Evidence:
    """The warm runs with the planted error, at the smaller kappa; the floor of the right method."""
    planted = replace(setting, method=ColdDirection)
    return {**_warm(planted, kappas=(2.0,)), **_curved(planted), **_cold_v(setting)}


def judge(evidence: Evidence) -> list[Comparison]:
    """Exact limit, Lyapunov decrease, bound on the sum; the cold-v floor attained."""
    e = evidence
    cells = [f"kappa {kappa:g}, K {K:.0f}, N {N:.0f}" for kappa, K, N in e["cells"]]
    runs = [(e[f"V_{k}"], e[f"grad_norm_sq_{k}"], beta) for k, beta in enumerate(e["beta"])]
    heads = [f"K {K:.0f}, N {N:.0f}" for K, N in e["curved_cells"]]
    curved = [e[f"curved_grad_norm_sq_{k}"][-1] for k in range(len(heads))]
    floors = [f"kappa {kappa:g}, N {N:.0f}" for kappa, N in zip(e["floor_kappa"], e["floor_N"], strict=True)]
    growth = [_largest_growth(*each) for each in runs]
    ratio = [squares.sum() * beta / (2 * V[0]) for V, squares, beta in runs]
    return [
        at_most("final |grad Phi|^2", [squares[-1] for _, squares, _ in runs], 1e-20, cells=cells),
        at_most("final |grad Phi|^2, logistic heads", curved, 1e-20, cells=heads),
        at_most("largest (V_{t+1} - V_t + beta/2 |grad Phi_t|^2) / V_t", growth, 1e-12, cells=cells),
        at_most("sum |grad Phi|^2 beta / (2 V_0)", ratio, 1.0, cells=cells),
        equal("floor of |grad Phi|^2 with cold v", e["floor"], e["floor_law"], relative=1e-8, cells=floors),
        at_least("that floor, so that it shows", e["floor"], 1e-12, cells=floors),
    ]


def _largest_growth(V: Array, squares: Array, beta: float) -> float:
    """Of V beyond the theorem's decrease, while V is above rounding."""
    last = int(np.argmax(V < 1e-18)) or len(V)
    return float(np.max((np.diff(V) + beta / 2 * squares[:-1])[: last - 1] / V[: last - 1]))


def _warm(setting: Setting, *, kappas: tuple[float, ...]) -> Evidence:
    cells = [(kappa, K, N) for kappa in kappas for K, N in STEPS]
    evidence: Evidence = {"cells": np.array(cells)}
    betas = []
    for k, (kappa, K, N) in enumerate(setting.track(cells, "warm runs")):
        problem = Quadratic.random(tasks=5, p=3, q=4, kappa=kappa, seed=setting.seed + 1)
        constants = problem.constants
        alpha = constants.lower_step_size
        lyapunov = Lyapunov.of(constants, lower_steps=K, cg_steps=N, lower_step_size=alpha, theta_alone=True)
        beta = lyapunov.largest_step
        betas.append(beta)
        method = setting.method(lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=beta, warm_start=True)
        # From the start to 1e-24 at the linear rate 1 - beta lambda_min(H_Phi) of the slowest mode
        iterations = math.ceil(math.log(1e13) / (beta * problem.upper_spectrum[0]))
        result = solve(
            problem,
            method,
            iterations=iterations * setting.pick(1, 2),
            seed=setting.seed,
            probes=("grad_norm_sq", potential(problem.to(setting.device), beta, lyapunov)),
            device=setting.device,
        )
        evidence[f"grad_norm_sq_{k}"] = result.trace["grad_norm_sq"].numpy()
        evidence[f"V_{k}"] = result.trace["V"].numpy()
    return evidence | {"beta": np.array(betas)}


def _curved(setting: Setting) -> Evidence:
    """|grad Phi|^2 at a few iterations: its reference costs as much as twenty steps."""
    evidence: Evidence = {"curved_cells": np.array(CURVED_STEPS)}
    problem = ProxLogistic.random(tasks=3, q=3, examples=8, prox=1.5, regulariser=1.0, seed=setting.seed + 1)
    alpha = problem.constants.lower_step_size
    for k, (K, N) in enumerate(setting.track(CURVED_STEPS, "logistic heads")):
        beta = Lyapunov.of(problem.constants, lower_steps=K, cg_steps=N, lower_step_size=alpha).largest_step
        method = setting.method(lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=beta, warm_start=True)
        # The regulariser is most of the curvature of Phi: from the start to 1e-24 at the rate 1 - beta regulariser
        every = setting.pick(1, 2) * math.ceil(math.log(1e12) / (10 * beta * problem.regulariser))
        result = solve(
            problem,
            method,
            iterations=10 * every + 1,
            probe_every=every,
            seed=setting.seed,
            device=setting.device,
        )
        evidence[f"curved_grad_norm_sq_{k}"] = result.trace["grad_norm_sq"].numpy()
        evidence[f"curved_t_{k}"] = result.probed_at.numpy()
    return evidence


def _cold_v(setting: Setting) -> Evidence:
    rows = []
    for kappa, N in ((10.0, 1), (10.0, 2), (10.0, 4), (100.0, 2), (100.0, 4)):
        problem, law = cold_cg_problem(N, kappa, R=0.7, w=1.5, u0=-0.4)
        method = setting.starting("theta")(
            lower_steps=20, cg_steps=N, upper_step_size=0.5 / problem.constants.L_Phi, warm_start="theta"
        )
        trace = solve(problem, method, iterations=600, seed=setting.seed, device=setting.device).trace
        rows.append((kappa, N, float(trace["grad_norm_sq"][-1]), law))
    kappa, N, floor, law = (np.array(column) for column in zip(*rows, strict=True))
    return {"floor_kappa": kappa, "floor_N": N, "floor": floor, "floor_law": law}
