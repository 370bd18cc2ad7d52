"""The unrolled method is gradient descent on another objective, and its floor is the one predicted.

Statement.
    Differentiating K lower steps (ITD) is gradient descent on Phi_K(phi) = mean_i f_i(phi, theta_i,K(phi)): with all
    tasks and beta < 2 / lambda_max it converges to the minimiser of Phi_K for every K, and |grad Phi|^2 ends there at a
    floor, in general another than that of implicit differentiation. With J_0 = dtheta_0/dphi,
    |grad Phi_K - grad Phi| <= varrho^K [(ell_1 + tau ell) D_0 + B (tau + |J_0|)] + alpha B (rho_1 + rho_2 tau) D_0 K
    varrho^(K-1).
Hypotheses.
    g mu-strongly convex and L-smooth in theta, 0 < alpha < 2 / L, cold start; for the floors quadratic levels; for
    non-quadratic lower levels Lipschitz second derivatives of g and |grad_theta f| <= B.
Predicted.
    (1) d_i = H_i phi - h_i with H_i = R_i + J_K'Q_i J_K, J_K = (I - E_i) J_i + E_i G_i, E_i = (I - alpha A_i)^K, for
    theta_0 = 0 (G = 0) and theta_0 = phi (G = I, the initialisation of MAML). (2) The limit is H_K^-1 h_K of the means
    (H_K is symmetric, positive semidefinite), the floor |grad Phi|^2 there. (3) On the instance of Proposition 2c,
    where cold implicit differentiation grows for every beta while K <= 21, the unrolled method has a floor for those K.
    (4) measured / bound <= 1 on random quadratics (kappa up to 1000, both starts; B at theta_K) and logistic heads.
Measured.
    One step of the method at random phi for (1) and (4), grad Phi from the closed form or damped Newton; for (2) and
    (3) phi and |grad Phi|^2 after the transient has shrunk below 1e-12 of the floor, by the spectral radius.
Refuted by.
    A direction off by 1e-10, a limit or floor off by 1e-8 (relative), or one instance above its bound by more than
    rounding (1e-12 of |grad Phi|).
Source.
    docs/theory.md S1 and S3b; the method is of Franceschi et al. 2017 and Ji, Yang, Liang 2021 (ITD-BiO).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from convergence import ITDBiO, Oracle, reference
from convergence import run as solve
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most, equal
from paper_checks.planted import LastStepOnly
from paper_checks.quadratic_theory import Array, QuadraticTheory, apply, norm
from problems import Problem, ProxLogistic, Quadratic
from problems.counterexamples import cancelling_modes

ASKS = "ITD-BiO"
PLANTED = "backpropagation through the last lower step alone"
STARTS = ("theta_0 = 0", "theta_0 = phi")


def run(setting: Setting) -> Evidence:
    """Directions and their errors, floors on random instances and on that of Proposition 2c."""
    return _gather(setting, ITDBiO)


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return _gather(setting, LastStepOnly)


def _gather(setting: Setting, method: Callable[..., ITDBiO]) -> Evidence:
    return {**_errors(setting, method), **_floors(setting, method)}


def judge(evidence: Evidence) -> list[Comparison]:
    """Directions, limits and floors attained, every ratio to the bound at most 1."""
    e = evidence
    cells = [
        f"kappa {kappa:g}, {STARTS[int(gain)]}, K {K:.0f}{', Proposition 2c' if instance < 0 else ''}"
        for kappa, gain, K, instance in zip(e["kappa"], e["gain"], e["K"], e["instance"], strict=True)
    ]
    ratio = (e["bound_error"] - 1e-12 * e["bound_gradient"]) / e["bound"]
    return [
        equal("floor of |grad Phi|^2, unrolled", e["floor"], e["law"], relative=1e-8, cells=cells),
        at_most(
            "distance of phi at the end from the minimiser of Phi_K, relative", e["limit_error"], 1e-8, cells=cells
        ),
        equal("d, K unrolled steps", e["direction"], e["direction_law"], relative=1e-10),
        at_most("|d - grad Phi| / bound", ratio, 1.0),
        at_least("random instances", float(e["instances"]), 300.0),
        at_least("floors where cold implicit differentiation has none", np.sum(~np.isfinite(e["implicit_law"])), 6),
    ]


# ---- the error of the direction


class Errors(NamedTuple):
    """|d - grad Phi|, its bound and |grad Phi| of each instance."""

    error: Array
    bound: Array
    gradient: Array


def _errors(setting: Setting, method: Callable[..., ITDBiO]) -> Evidence:
    """Single-task instances, all of one family in one batched step."""
    found: list[Errors] = []
    directions, laws, families = [], [], []
    cells = [
        (kappa, gain, K) for kappa in (2.0, 10.0, 100.0, 1000.0) for gain in (False, True) for K in (0, 1, 3, 10, 30)
    ]
    count = setting.pick(40, 400)
    for kappa, gain, K in setting.track(cells, "steps on quadratics"):
        problem = Quadratic.random(tasks=count, p=6, q=6, kappa=kappa, initialisation=gain, seed=setting.seed + 7)
        d, law, errors = _quadratic(setting, method, problem, K)
        directions.append(d)
        laws.append(law)
        found.append(errors)
        families.append(0)
    for prox in (0.2, 1.0):
        heads = ProxLogistic.random(tasks=setting.pick(15, 150), q=5, examples=15, prox=prox, seed=setting.seed)
        for errors in _logistic(setting, method, heads):
            found.append(errors)
            families.append(1)
    sizes = [len(errors.error) for errors in found]
    return {
        "direction": np.concatenate(directions),
        "direction_law": np.concatenate(laws),
        "bound_error": np.concatenate([errors.error for errors in found]),
        "bound": np.concatenate([errors.bound for errors in found]),
        "bound_gradient": np.concatenate([errors.gradient for errors in found]),
        "bound_logistic": np.repeat(families, sizes),
        "instances": np.array(sum(sizes)),
    }


def _directions(
    setting: Setting, method: Callable[..., ITDBiO], problem: Problem, name: str, phi: Array, K: int, alpha: float
) -> Array:
    """d of each task alone, at a phi of its own: one step of as many replicas as tasks."""
    problem = problem.to(setting.device)
    oracle = Oracle(problem, replicas=len(phi))
    unrolled = method(lower_steps=K, lower_step_size=alpha, upper_step_size=1.0)
    tasks = problem.select(oracle.pool.index.unsqueeze(-1))
    at = {name: torch.as_tensor(phi, device=setting.device)}
    return unrolled.step(oracle, at, tasks, None).direction[name].cpu().numpy()


def _quadratic(
    setting: Setting, method: Callable[..., ITDBiO], problem: Quadratic, K: int
) -> tuple[Array, Array, Errors]:
    """d and its closed form, and the errors with B = |grad_theta f(theta_K)|, rho_1 = rho_2 = ell_1 = 0."""
    theory, alpha = QuadraticTheory.of(problem), problem.constants.lower_step_size
    phi = np.random.default_rng([setting.seed, 2]).standard_normal((len(theory.A), problem.p))
    d = _directions(setting, method, problem, "phi", phi, K, alpha)
    (H_K, h_K), (H, h) = theory.unrolled_form(K, alpha), theory.direction()
    optimum = apply(theory.J, phi) + theory.offset
    off = theory.start + apply(theory.gain, phi) - optimum
    theta_K = optimum + apply(theory.contraction(K, alpha), off)
    first = norm(theory.J) * norm(theory.Q) * np.linalg.norm(off, axis=1)
    B = np.linalg.norm(apply(theory.Q, theta_K - theory.u), axis=1)
    second = B * (norm(theory.J) + norm(theory.gain))
    true = apply(H, phi) - h
    bound = problem.constants.lower_contraction(alpha) ** K * (first + second)
    errors = Errors(np.linalg.norm(d - true, axis=1), bound, np.linalg.norm(true, axis=1))
    return d, apply(H_K, phi) - h_K, errors


def _logistic(setting: Setting, method: Callable[..., ITDBiO], problem: ProxLogistic) -> list[Errors]:
    """The errors at K = 1, 3, 10, 30 with the constants of the data; theta_0 = 0, rho_1 = ell_1 = 0."""
    c = problem.constants
    alpha = c.lower_step_size
    varrho = c.lower_contraction(alpha)
    pool = problem.sample(None, torch.Generator())
    rng = torch.Generator().manual_seed(setting.seed)
    phi = 2 * torch.randn(len(pool), problem.q, generator=rng, dtype=torch.float64)
    exact = [reference(problem, {"centre": at}, task) for at, task in zip(phi, pool, strict=True)]
    true = np.stack([each.hypergradient["centre"].numpy() for each in exact])
    D_0 = np.array([float(each.theta.norm()) for each in exact])
    found = []
    for K in (1, 3, 10, 30):
        d = _directions(setting, method, problem, "centre", phi.numpy(), K, alpha)
        bound = varrho**K * (c.tau * c.ell * D_0 + c.B * c.tau)
        bound += alpha * c.B * c.rho_2 * c.tau * D_0 * K * varrho ** (K - 1)
        found.append(Errors(np.linalg.norm(d - true, axis=1), bound, np.linalg.norm(true, axis=1)))
    return found


# ---- the floors


def _floors(setting: Setting, method: Callable[..., ITDBiO]) -> Evidence:
    """Random instances, each over K from both starts; then, numbered -1, the one of Proposition 2c."""
    cells = [
        (instance, gain, K)
        for instance in range(setting.pick(2, 8))
        for gain in (False, True)
        for K in setting.pick((1, 2, 3, 5, 8, 12), (1, 2, 3, 5, 8, 12, 20))
    ] + [(-1, False, K) for K in (1, 2, 5, 10, 15, 20, 25, 30, 60)]
    rows = []
    for instance, gain, K in setting.track(cells, "floors"):
        kappa = 10.0 if instance < 0 else (5.0, 20.0)[instance % 2]
        if instance < 0:
            problem, alpha = cancelling_modes(kappa=kappa, s=0.9, opposed="fast"), 1 / kappa
        else:
            seed = setting.seed + 11 + instance
            problem = Quadratic.random(tasks=6, p=4, q=4, kappa=kappa, initialisation=gain, seed=seed)
            alpha = problem.constants.lower_step_size
        rows.append((instance, kappa, gain, K, *_floor(setting, method, problem, K, alpha)))
    names = ("instance", "kappa", "gain", "K", "floor", "law", "limit_error", "implicit_law")
    evidence = {name: np.array(column, float) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    # Of Proposition 2c's instance: implicit differentiation sees a negative curvature while (1 - eps)^K > 1 - s
    return evidence | {"implicit_from": np.array(math.log(0.1) / math.log(0.9))}


def _floor(
    setting: Setting, method: Callable[..., ITDBiO], problem: Quadratic, K: int, alpha: float
) -> tuple[float, float, float, float]:
    """The floor measured and predicted, the relative distance from the predicted limit, the floor of the paper's."""
    theory = QuadraticTheory.of(problem)
    H, h = (x.mean(0) for x in theory.unrolled_form(K, alpha))
    limit = np.linalg.solve(H, h)
    law = float(np.square(theory.gradient(limit)).sum())
    ends = np.linalg.eigvalsh(H)[[0, -1]]
    radius = (ends[1] - ends[0]) / (ends[1] + ends[0])  # at beta = 2 / (lambda_min + lambda_max)
    # phi - phi~ must be 1e-12 of the gradient left: the transient enters |grad|^2 to first order
    iterations = 10 + (math.ceil(math.log(1e-13 * math.sqrt(law)) / math.log(radius)) if radius > 0 else 0)
    unrolled = method(lower_steps=K, lower_step_size=alpha, upper_step_size=2 / ends.sum())
    result = solve(
        problem, unrolled, iterations=iterations, seed=setting.seed, probe_every=iterations - 1, device=setting.device
    )
    phi = result.phi["phi"].cpu().numpy()
    rest, H_cold = theory.cold_fixed_point(K, alpha)
    stable = bool((np.linalg.eigvals(H_cold).real > 0).all())  # for some beta
    implicit = float(np.square(theory.gradient(rest)).sum()) if stable else math.nan
    return (
        float(result.trace["grad_norm_sq"][-1]),
        law,
        float(np.linalg.norm(phi - limit) / np.linalg.norm(limit)),
        implicit,
    )
