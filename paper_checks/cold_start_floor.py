"""A cold start with fixed K and N stops at a floor, and the floor is the one predicted.

Statement.
    With theta and v started cold in every iteration, the method converges to the point phi~ with
    mean_i d_i(phi~) = 0, not to phi*: |grad Phi|^2 ends at |grad Phi(phi~)|^2 > 0, whatever the number of iterations.
    With exact v, |grad Phi(phi~)| <= mean_i |J_i'Q_i| varrho^K |theta_0 - theta_i*(phi~)|. The bound falls with K; the
    floor itself need not fall at every K.
Hypotheses.
    All tasks in every iteration; quadratic levels; the iteration matrix I - beta H~ has spectral radius < 1 (for few
    lower steps it may not, for any beta: then there is no floor but divergence, Prop. 3d).
Predicted.
    (a) Exact v (N = q): phi~ = H~^-1 h~ with H~ = mean_i [R_i + J_i'Q_i ((I - E_i) J_i + E_i G_i)],
    E_i = (I - alpha A_i)^K, for starts theta_0 = 0 (G = 0) and theta_0 = phi (G = I, the initialisation of MAML).
    (c) Exact theta, N cold CG steps, on the Chebyshev spectrum: floor
    (chi_N^2 gamma R (w - u_0) / (R + (1 - chi_N^2) gamma))^2.
Measured.
    |grad Phi|^2 by the closed form after the transient has shrunk below 1e-12 of the floor, by the spectral radius.
Refuted by.
    A floor off its closed form by more than 1e-8 relative, or above its bound.
Source.
    docs/theory.md S3a, S3c.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from convergence import run as solve
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most, equal
from paper_checks.planted import OneLowerStepFewer
from paper_checks.quadratic_theory import QuadraticTheory, cold_cg_problem
from problems import Quadratic

PLANTED = "one lower gradient step forgotten"


def run(setting: Setting) -> Evidence:
    """Floors over K with exact v, and over N with exact theta."""
    return {**_over_lower_steps(setting), **_over_cg_steps(setting)}


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=OneLowerStepFewer))


def judge(evidence: Evidence) -> list[Comparison]:
    """Every floor attained to 1e-8."""
    e = evidence
    start = ("theta_0 = 0", "theta_0 = phi")
    K_cells = [
        f"{start[int(gain)]}, kappa {kappa:g}, K {K:.0f}"
        for gain, kappa, K in zip(e["K_gain"], e["K_kappa"], e["K"], strict=True)
    ]
    N_cells = [f"kappa {kappa:g}, N {N:.0f}" for kappa, N in zip(e["N_kappa"], e["N"], strict=True)]
    return [
        equal("floor of |grad Phi|^2, K steps, exact v", e["K_floor"], e["K_law"], relative=1e-8, cells=K_cells),
        equal("floor of |grad Phi|^2, N CG steps, exact theta", e["N_floor"], e["N_law"], relative=1e-8, cells=N_cells),
        at_most("|grad Phi| at the floor / its bound", np.sqrt(e["K_floor"]) / e["K_bound"], 1.0, cells=K_cells),
        at_least("floors measured of those there are", len(e["K"]) / (len(e["K"]) + e["K_left_out"]), 0.8),
    ]


def _over_lower_steps(setting: Setting) -> Evidence:
    rows, left_out = [], 0
    for instance in setting.track(range(setting.pick(2, 8)), "instances over K"):
        for gain in (False, True):
            kappa = (5.0, 20.0)[instance % 2]
            problem = Quadratic.random(
                tasks=6, p=4, q=4, kappa=kappa, initialisation=gain, seed=setting.seed + 11 + instance
            )
            theory = QuadraticTheory.of(problem)
            alpha, beta = problem.constants.lower_step_size, 1 / problem.constants.L_Phi
            for K in (1, 2, 3, 5, 8, 12, 20):
                limit, H = theory.cold_fixed_point(K, alpha)
                radius = np.abs(np.linalg.eigvals(np.eye(len(H)) - beta * H)).max()
                if radius >= 0.985:  # too slow to measure, or no floor at all
                    left_out += 1
                    continue
                law = float(np.square(theory.gradient(limit)).sum())
                # phi_t - phi~ must be 1e-12 of the gradient left: the transient enters |grad|^2 to first order
                iterations = math.ceil(math.log(1e-13 * math.sqrt(law)) / math.log(radius)) + 20
                method = setting.method(
                    lower_steps=K, lower_step_size=alpha, cg_steps=4, upper_step_size=beta, warm_start=False
                )
                start = theory.start + theory.gain @ limit - theory.lower_optimum(limit)
                coupling = np.linalg.norm(np.swapaxes(theory.J, 1, 2) @ theory.Q, 2, axis=(1, 2))
                varrho = problem.constants.lower_contraction(alpha)
                bound = float((coupling * np.linalg.norm(start, axis=1)).mean() * varrho**K)
                rows.append((gain, kappa, K, _final(setting, problem, method, iterations), law, bound))
    gain, kappa, K, floor, law, bound = (np.array(column, float) for column in zip(*rows, strict=True))
    return {
        "K_gain": gain,
        "K_kappa": kappa,
        "K": K,
        "K_floor": floor,
        "K_law": law,
        "K_bound": bound,
        "K_left_out": np.array(left_out),
    }


def _over_cg_steps(setting: Setting) -> Evidence:
    rows = []
    for kappa in (10.0, 100.0):
        for N in (1, 2, 4, 8):
            problem, law = cold_cg_problem(N, kappa, R=0.7, w=1.5, u0=-0.4)
            # One lower step from theta_0 = theta*: the lower level is exact
            method = setting.method(
                lower_steps=1, cg_steps=N, upper_step_size=0.5 / problem.constants.L_Phi, warm_start=False
            )
            rows.append((kappa, N, _final(setting, problem, method, 400), law))
    kappa, N, floor, law = (np.array(column, float) for column in zip(*rows, strict=True))
    return {"N_kappa": kappa, "N": N, "N_floor": floor, "N_law": law}


def _final(setting: Setting, problem: Quadratic, method: object, iterations: int) -> float:
    result = solve(
        problem, method, iterations=iterations, seed=setting.seed, probe_every=iterations - 1, device=setting.device
    )
    return float(result.trace["grad_norm_sq"][-1])
