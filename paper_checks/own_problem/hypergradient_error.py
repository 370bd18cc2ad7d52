"""On this problem the error of the hypergradient is that of theta_K and v_N, and decays geometrically in K and N.

Statement.
    d = D(phi, theta_K, v_N), hence |d - grad Phi| <= Lambda |theta_0 - theta*| varrho^K + (L_c |grad_theta f| / mu)
    2 sqrt(kappa) r^N from a cold start, r = (sqrt(kappa) - 1) / (sqrt(kappa) + 1), and d -> grad Phi as K, N grow.
Hypotheses.
    g strongly convex and twice differentiable, q <= 512, phi reaches the lower level, alpha = 1 / (L + mu). For the
    bound constants Lambda, L_c, mu, L.
Predicted.
    (1) grad Phi = the derivative of phi -> Phi(phi), theta* found anew at each phi. (2) d = D(phi, theta_K, v_N) at
    (K, N) = (0, 1) to (30, 8). (3) From theta* + e with e small, the error of d as K grows is that of
    D(phi, theta* + sum_j (1 - alpha lambda_j)^K <u_j, e> u_j, v*(phi, .)), lambda_j, u_j the eigenpairs of
    d2g_i/dtheta2 at theta*. (4) d = grad Phi from theta*, N so large that sqrt(kappa) chi_N <= 1e-12. (5) Where the
    constants are given, measured / bound <= 1.
Measured.
    Cold steps of the method on at most four tasks. theta*, v*, Phi by damped Newton; theta_K by torch.func, v_N by
    scipy's CG; eigenpairs from dense Hessians.
Refuted by.
    grad Phi off its differences by 1e-5 relative, (2) off by 1e-8 of |grad_phi f| + |(d2g/dphi dtheta) v|, (3) off by
    1 %, (4) off by 1e-8, or a bound exceeded. (2) is judged where rounding does not count: where scipy's CG and the
    projection on the Krylov space agree to 1e-9. An implicit part of zero at phi_0 is INCONCLUSIVE.
Source.
    docs/theory.md S1, Lemma 1 and Theorem 1.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse.linalg import cg
from torch import Tensor

from convergence import Oracle, Step, reference
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_most, equal, missing
from paper_checks.own_problem.lower_level import Solved, krylov, solved
from paper_checks.own_problem.needs import EXACT, F_SEES_THETA, IMPLICIT, SMALL_THETA, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, judged, like, points
from paper_checks.planted import FirstOrder
from problems import Problem

PLANTED = "the cross term of the hypergradient dropped (first-order method)"
TASKS, DIRECTIONS = 4, 3
STEPS = ((0, 1), (1, 1), (3, 2), (10, 4), (30, 8))  # (K, N)
LADDER, AWAY = (0, 1, 2, 4, 8, 16, 32), 1e-5
MOST = 20000  # CG steps: enough for kappa = 1e6


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    needs = (EXACT, SMALL_THETA, TWICE_DIFFERENTIABLE, F_SEES_THETA, IMPLICIT)
    return lacking("hypergradient_error", problem, *needs)


def run(setting: Setting) -> Evidence:
    """grad Phi, the identity, the rates, the limit, the bound."""
    problem = judged(setting, TASKS)
    (phi,) = points(problem, setting.seed, 1)
    exact = solved(problem, phi)
    single = SingleTasks(problem, problem.sample(None, torch.Generator()), phi)
    evidence: Evidence = {}
    parts = (_differences, _identity, _ladder, _limit)
    for part in setting.track(parts, "parts"):
        evidence |= part(setting, problem, single, exact)
    return evidence


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=FirstOrder))


def judge(evidence: Evidence) -> list[Comparison]:
    """Differences, identity, law of K, limit; the bound where there is one."""
    e = evidence
    cells = [f"K {K:.0f}, N {N:.0f}" for K, N in e["steps"]]
    own = ~(e["identity_rounding"] > 1e-9)
    told = [cell for cell, each in zip(cells, own, strict=True) if each]
    found = [
        at_most("grad Phi against differences of Phi", e["difference_gap"], 1e-5),
        at_most("|d - D(phi, theta_K, v_N)|", e["identity_gap"][own], 1e-8, cells=told),
        equal(
            "|d - grad Phi| near theta*, by the spectrum",
            e["ladder"],
            e["ladder_law"],
            relative=0.01,
            absolute=float(e["ladder_rounding"]),
            cells=[f"K {K}" for K in e["ladder_K"]],
        ),
        at_most(f"|d - grad Phi| from theta*, N = {e['limit_N']:.0f}", float(e["limit_gap"]), 1e-8),
    ]
    if not e["implicit"] > 1e-12:
        reason = "it is zero at phi_0, so that a method without it would have the right limit: give another start"
        found.append(missing("|implicit part of grad Phi|, so that it counts", 0.0, reason))
    if "bound" in e:
        found.append(at_most("|d - grad Phi| / bound", e["error"] / e["bound"], 1.0, cells=cells))
    return found


def _differences(setting: Setting, problem: SomeTasks, single: SingleTasks, exact: Solved) -> Evidence:
    """<grad Phi, u> along random unit u, against the nearest of central differences of steps 1e-1 to 1e-5."""
    pool, rng, gaps = problem.sample(None, torch.Generator()), generator(setting.seed, "noise"), []
    whole = float(exact.gradient.norm())
    for _ in range(DIRECTIONS):
        u = like(exact.x, rng)
        u = u / u.norm()
        found = []
        for h in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
            high, low = (reference(problem, single.named(exact.x + t * u), pool, start=exact.theta) for t in (h, -h))
            found.append((float(high.value) - float(low.value)) / (2 * h))
        near = np.abs(np.array(found) - float(exact.gradient @ u)).min()
        gaps.append(near / max(whole, np.abs(found).min(), 1e-6 * (1 + abs(exact.value))))
    parts = [single.cross(i, exact.x, exact.theta[i], exact.v[i]) for i in range(len(single))]
    implicit = float(torch.stack(parts).mean(0).norm()) / size(single, exact)
    return {"difference_gap": np.array(gaps), "implicit": np.array(implicit)}


def _identity(setting: Setting, problem: SomeTasks, single: SingleTasks, exact: Solved) -> Evidence:
    """d of cold steps, D(phi, theta_K, v_N) by other code; the error, and its bound where the constants are given."""
    gaps, roundings, errors, bounds = [], [], [], []
    k = problem.constants
    alpha = exact.step_size if k is None else k.lower_step_size
    start = single.theta0(exact.x)
    for K, N in STEPS:
        d = vector(_cold(setting, problem, single.named(exact.x), K, N, alpha).direction)
        theta = _lower_steps(single, exact.x, start, K, alpha)
        slopes = torch.stack([single.slope("upper", i, exact.x, theta[i]) for i in range(len(single))])
        v, projected = _cg_steps(single, exact.x, theta, slopes, N)
        direct = torch.stack([single.phi_slope("upper", i, exact.x, theta[i]) for i in range(len(single))]).mean(0)
        cross = torch.stack([single.cross(i, exact.x, theta[i], v[i]) for i in range(len(single))]).mean(0)
        off = torch.stack([single.cross(i, exact.x, theta[i], v[i] - projected[i]) for i in range(len(single))]).mean(0)
        parts = (direct.norm() + cross.norm()) or 1.0
        gaps.append(float((d - (direct - cross)).norm() / parts))
        roundings.append(float(off.norm() / parts))
        errors.append(float((d - exact.gradient).norm()))
        if k is not None and k.Lambda is not None and k.L_c is not None:
            away = (start - exact.theta).norm(dim=-1)
            of_theta = k.Lambda * away * k.lower_contraction(alpha) ** K
            of_v = k.L_c * slopes.norm(dim=-1) / k.mu * _cg_factor(k.kappa, N)
            bounds.append(float((of_theta + of_v).mean()) + 1e-12 * float(exact.gradient.norm()))
    return {
        "steps": np.array(STEPS),
        "identity_gap": np.array(gaps),
        "identity_rounding": np.array(roundings),
        "error": np.array(errors),
        **({"bound": np.array(bounds)} if bounds else {}),
    }


def _ladder(setting: Setting, problem: SomeTasks, single: SingleTasks, exact: Solved) -> Evidence:
    """|d - grad Phi| after K lower steps from near theta*, v to rounding, and what the eigenpairs there say of it."""
    alpha, N, x = exact.step_size, enough(exact), exact.x
    away = like(exact.theta, generator(setting.seed, "noise", 1))
    away *= AWAY * max(1.0, float(exact.theta.norm(dim=-1).max())) / away.norm(dim=-1, keepdim=True)
    near = problem.started(exact.theta + away)
    eigenvalues, vectors = torch.linalg.eigh(
        torch.stack([single.hessian(i, x, exact.theta[i]) for i in range(len(single))])
    )
    shares = (vectors.mT @ away.unsqueeze(-1)).squeeze(-1)
    measured, law = [], []
    for K in LADDER:
        d = vector(_cold(setting, near, single.named(x), K, N, alpha).direction)
        left = (vectors @ ((1 - alpha * eigenvalues) ** K * shares).unsqueeze(-1)).squeeze(-1)
        theta = exact.theta + left
        v = torch.stack([_direct(single, i, x, theta[i]) for i in range(len(single))])
        measured.append(float((d - exact.gradient).norm()))
        law.append(float((single.mean_direction(x, theta, v) - exact.gradient).norm()))
    # Both are differences of d and grad Phi, whose rounding is that of solves with matrices of this kappa
    rounding = 1e-14 * exact.L / exact.mu * size(single, exact)
    return {
        "ladder_K": np.array(LADDER),
        "ladder": np.array(measured),
        "ladder_law": np.array(law),
        "ladder_rounding": np.array(rounding),
    }


def _limit(setting: Setting, problem: SomeTasks, single: SingleTasks, exact: Solved) -> Evidence:
    """|d - grad Phi| from theta*, relative to the parts of d."""
    N = enough(exact)
    step = _cold(setting, problem.started(exact.theta), single.named(exact.x), 1, N, exact.step_size)
    gap = float((vector(step.direction) - exact.gradient).norm()) / size(single, exact)
    return {"limit_N": np.array(N), "limit_gap": np.array(gap)}


def _cold(setting: Setting, problem: SomeTasks, phi: dict[str, Tensor], K: int, N: int, alpha: float) -> Step:
    oracle = Oracle(problem)
    method = setting.method(lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=1.0, warm_start=False)
    return method.step(oracle, phi, oracle.pool, method.start(oracle, phi))


def _lower_steps(single: SingleTasks, x: Tensor, theta: Tensor, K: int, alpha: float) -> Tensor:
    for _ in range(K):
        slopes = [single.slope("lower", i, x, theta[i]) for i in range(len(single))]
        theta = theta - alpha * torch.stack(slopes)
    return theta


def _cg_steps(single: SingleTasks, x: Tensor, theta: Tensor, slopes: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """v_N of every task by scipy's CG, and by projection on the Krylov space, which rounding leaves alone; (M, q)."""
    by_cg, projected = [], []
    for i, b in enumerate(slopes.cpu().numpy()):
        H = single.hessian(i, x, theta[i]).cpu().numpy()
        by_cg.append(cg(H, b, rtol=float(np.finfo(float).eps), atol=0.0, maxiter=N)[0])
        basis = krylov(H, b, N)
        projected.append(basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ b))
    return torch.as_tensor(np.stack(by_cg), device=x.device), torch.as_tensor(np.stack(projected), device=x.device)


def _direct(single: SingleTasks, i: int, x: Tensor, theta: Tensor) -> Tensor:
    return torch.linalg.solve(single.hessian(i, x, theta), single.slope("upper", i, x, theta))


def size(single: SingleTasks, exact: Solved) -> float:
    """|mean grad_phi f| + mean |(d2g/dphi dtheta) v*|, of which grad Phi is the difference; 1 where both are zero."""
    M = range(len(single))
    direct = torch.stack([single.phi_slope("upper", i, exact.x, exact.theta[i]) for i in M]).mean(0).norm()
    cross = sum(float(single.cross(i, exact.x, exact.theta[i], exact.v[i]).norm()) for i in M) / len(single)
    return float(direct) + cross or 1.0


def enough(exact: Solved) -> int:
    """N with sqrt(kappa) chi_N <= 1e-12, or 20000."""
    root = math.sqrt(exact.L / exact.mu)
    rate = math.log((root + 1) / (root - 1)) if root > 1 + 1e-9 else math.inf
    return min(MOST, max(2, math.ceil(math.log(2e12 * root) / rate)))


def _cg_factor(kappa: float, N: int) -> float:
    return 2 * math.sqrt(kappa) * ((math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)) ** N
