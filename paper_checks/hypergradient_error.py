"""The error of the hypergradient decays geometrically in K and N.

Statement.
    At any phi, with K lower gradient steps from a cold start and N CG steps from v = 0,
    |d - grad Phi| <= Lambda |theta_0 - theta*| varrho^K + (L_c |grad_theta f| / mu) 2 sqrt(kappa) r^N,
    r = (sqrt(kappa) - 1) / (sqrt(kappa) + 1).
Hypotheses.
    g mu-strongly convex and L-smooth in theta, 0 < alpha < 2 / L; for non-quadratic lower levels also Lipschitz
    second derivatives of g and a bounded grad_theta f.
Predicted.
    (1) On quadratics the error is known exactly: d - grad Phi = J'Q (I - alpha A)^K (theta_0 - theta*) + C'(v_N - v*).
    (2) measured / bound <= 1 on random quadratics (kappa up to 1000), on quadratics pulled to phi, where theta also
    starts, and on logistic and softmax heads pulled to phi. (3) With C = Q = I
    and theta_0 - theta* along the slowest eigenvector the first term is attained: |d - grad Phi| = D_0 varrho^K / mu.
    (4) Where the cross derivative depends on theta (a representation shared by ridge heads) and the lower level is
    solved to rounding, d = grad Phi.
Measured.
    One step of the method at a random phi. In (1) theta_K comes from an eigendecomposition and v_N from scipy's
    CG; in (2) grad Phi from the closed form, or from damped Newton for the heads.
Refuted by.
    One instance above its bound by more than rounding (1e-12 of |grad Phi|), or an identity missed by 1e-10.
Source.
    docs/theory.md S1, Lemma 1 and Theorem 1 (Ghadimi and Wang 2018; Grazzi et al. 2020). The paper's own constants
    are not used.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse.linalg import cg

from convergence import Oracle, Step, reference
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most, equal
from paper_checks.planted import FirstOrder
from paper_checks.quadratic_theory import Array, QuadraticTheory, slowest_start
from problems import Problem, ProxHeads, Proximal, ProxLogistic, ProxSoftmax, Quadratic, Representation

PLANTED = "the cross term of the hypergradient dropped (first-order method)"
STEPS = [(1, 1), (3, 2), (10, 4), (30, 8)]  # (K, N)
FAMILIES: tuple[type[Problem], ...] = (Quadratic, Proximal, ProxLogistic, ProxSoftmax)  # by the code in the evidence
Row = tuple[float, float, float, int]  # |d - grad Phi|, its bound, |grad Phi|, the family


def run(setting: Setting) -> Evidence:
    """The identity, the bound, and the tight instance."""
    return {**_identity(setting), **_bound(setting), **_tight(setting), **_bilinear(setting)}


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=FirstOrder))


def judge(evidence: Evidence) -> list[Comparison]:
    """Identities and tight instance attained; every ratio to the bound at most 1."""
    e = evidence
    tight = [f"kappa {kappa:.0f}, K {K:.0f}" for kappa, K in zip(e["tight_kappa"], e["tight_K"], strict=True)]
    ratio = (e["bound_error"] - 1e-12 * e["bound_gradient"]) / e["bound"]
    return [
        equal("|d - grad Phi| on the tight instance", e["tight_error"], e["tight_law"], relative=1e-10, cells=tight),
        equal("d, exact identity", e["identity_measured"], e["identity_predicted"], relative=1e-10),
        equal("d, cross derivative depending on theta", e["bilinear"], e["bilinear_exact"], relative=1e-9),
        at_most("|d - grad Phi| / bound", ratio, 1.0),
        at_least("random instances", float(e["instances"]), 300.0),
    ]


def _one_step(setting: Setting, problem: Problem, phi: dict[str, torch.Tensor], K: int, N: int, alpha: float) -> Step:
    """One cold step of the method at phi on all tasks; with a replica axis in phi, replica i sees task i alone."""
    problem = problem.to(setting.device)
    phi = {name: tensor.to(setting.device) for name, tensor in phi.items()}
    plain = problem.phi0(torch.Generator())
    replicas = problem.tasks if any(phi[name].dim() > plain[name].dim() for name in plain) else None
    oracle = Oracle(problem, replicas=replicas)
    method = setting.method(lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=1.0, warm_start=False)
    tasks = oracle.pool if replicas is None else problem.select(oracle.pool.index.unsqueeze(-1))
    return method.step(oracle, phi, tasks, method.start(oracle, phi))


def _identity(setting: Setting) -> Evidence:
    rng = np.random.default_rng([setting.seed, 1])
    measured, predicted = [], []
    for k in setting.track(range(setting.pick(40, 400)), "instances of the identity"):
        q, kappa = int(rng.integers(2, 9)), float(rng.choice([1.5, 10.0, 100.0]))
        problem = Quadratic.random(tasks=3, p=4, q=q, kappa=kappa, seed=setting.seed + k)
        if k % 4 == 3:
            q, prox = 4, 1 / kappa
            problem = Proximal.random(tasks=3, q=q, spectrum=(0.1, 1.0), prox=prox, matched=k % 8 == 3, seed=k)
        K, N = int(rng.integers(0, 12)), int(rng.integers(1, q + 1))
        alpha = problem.constants.lower_step_size
        phi = rng.standard_normal(4)
        step = _one_step(setting, problem, {"phi": torch.as_tensor(phi)}, K, N, alpha)
        measured.append(step.direction["phi"].cpu().numpy())
        predicted.append(_exact_direction(QuadraticTheory.of(problem), phi, K, N, alpha))
    return {"identity_measured": np.stack(measured), "identity_predicted": np.stack(predicted)}


def _exact_direction(theory: QuadraticTheory, phi: Array, K: int, N: int, alpha: float) -> Array:
    """grad Phi + mean_i [ J'Q E_K (theta_0 - theta*) + C'(v_N - v*(theta_K)) ]."""
    theta = theory.cold_iterate(phi, K, alpha)
    error = np.zeros_like(phi)
    for i, A in enumerate(theory.A):
        b = theory.Q[i] @ (theta[i] - theory.u[i])
        v_N, _ = cg(A, b, rtol=0.0, atol=0.0, maxiter=N)
        error += theory.J[i].T @ theory.Q[i] @ (theta[i] - theory.lower_optimum(phi)[i])
        error += theory.C[i].T @ (v_N - np.linalg.solve(A, b))
    return theory.gradient(phi) + error / len(theory.A)


def _bound(setting: Setting) -> Evidence:
    """measured error, bound and |grad Phi| of single-task instances: one batched call for all of one kappa."""
    seed, kappas = setting.seed, (2.0, 10.0, 100.0, 1000.0)
    problems: list[Problem] = [
        Quadratic.random(tasks=setting.pick(80, 800), p=4, q=8, kappa=kappa, seed=seed + 7) for kappa in kappas
    ]
    for prox in (0.2, 1.0):
        few, many = setting.pick((20, 40), (200, 400))
        problems.append(ProxLogistic.random(tasks=few, q=5, examples=15, prox=prox, seed=seed))
        problems.append(Proximal.random(tasks=many, q=6, spectrum=(0.1, 20.0), prox=prox, seed=seed + 9))
        problems.append(ProxSoftmax.random(tasks=few, classes=3, features=2, examples=15, prox=prox, seed=seed))
    rows: list[Row] = []
    for problem in setting.track(problems, "families of the bound"):
        of_family = _quadratic_rows if isinstance(problem, Quadratic) else _head_rows
        rows += setting.kept(of_family, setting, problem)
    error, bound, gradient, family = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "bound_error": error,
        "bound": bound,
        "bound_gradient": gradient,
        "bound_family": family,
        "instances": np.array(sum(problem.tasks or 0 for problem in problems)),
    }


def _quadratic_rows(setting: Setting, problem: Quadratic) -> list[Row]:
    constants, theory = problem.constants, QuadraticTheory.of(problem)
    alpha = constants.lower_step_size
    phi = np.random.default_rng([setting.seed, 2]).standard_normal((len(theory.A), problem.p))
    H, h = theory.direction()
    rows = []
    for K, N in STEPS:
        d = _one_step(setting, problem, {"phi": torch.as_tensor(phi)}, K, N, alpha).direction["phi"].cpu().numpy()
        E = theory.contraction(K, alpha)
        for i, at in enumerate(phi):
            optimum = theory.J[i] @ at + theory.offset[i]
            start = theory.start[i] + theory.gain[i] @ at - optimum
            theta_K = optimum + E[i] @ start
            Lambda = np.linalg.norm(theory.J[i].T @ theory.Q[i], 2)
            first = Lambda * np.linalg.norm(start) * constants.lower_contraction(alpha) ** K
            b = np.linalg.norm(theory.Q[i] @ (theta_K - theory.u[i]))
            second = np.linalg.norm(theory.C[i], 2) * b / constants.mu * _cg_factor(constants.kappa, N)
            true = H[i] @ at - h[i]
            error, size = float(np.linalg.norm(d[i] - true)), float(np.linalg.norm(true))
            rows.append((error, float(first + second), size, FAMILIES.index(type(problem))))
    return rows


def _head_rows(setting: Setting, problem: ProxHeads) -> list[Row]:
    constants = problem.constants
    alpha = constants.lower_step_size
    pool = problem.sample(None, torch.Generator())
    rng = torch.Generator().manual_seed(setting.seed)
    phi = 2 * torch.randn(len(pool), problem.q, generator=rng, dtype=torch.float64)
    true = [reference(problem, {"centre": at}, task) for at, task in zip(phi, pool, strict=True)]
    rows = []
    for K, N in STEPS:
        d = _one_step(setting, problem, {"centre": phi}, K, N, alpha).direction["centre"].cpu()
        for i, exact in enumerate(true):
            first = constants.Lambda * float(exact.theta.norm()) * constants.lower_contraction(alpha) ** K
            second = constants.L_c * constants.B / constants.mu * _cg_factor(constants.kappa, N)
            gradient = exact.hypergradient["centre"]
            error, size = float((d[i] - gradient).norm()), float(gradient.norm())
            rows.append((error, first + second, size, FAMILIES.index(type(problem))))
    return rows


def _cg_factor(kappa: float, N: int) -> float:
    return 2 * math.sqrt(kappa) * ((math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)) ** N


class _WithoutClosedForms(Problem):
    """The same representation with nothing but its objectives: the method goes through automatic differentiation."""

    def __init__(self, problem: Representation):
        self.data, self.q = problem.data, problem.q
        self.phi0, self.embed, self.lower, self.upper = problem.phi0, problem.embed, problem.lower, problem.upper


def _bilinear(setting: Setting) -> Evidence:
    """The lower level solved to rounding, 200 steps and q CG steps: d is grad Phi of the Newton reference."""
    measured, exact = [], []
    for k in range(5):
        problem = Representation.random(tasks=4, d=5, rank=2, examples=8, seed=setting.seed + k)
        phi = problem.phi0(generator(setting.seed + k, "start"))
        alpha = 2 / (problem.prox + problem.lower_smoothness(float(torch.linalg.matrix_norm(phi["U"], 2))))
        true = reference(problem, phi, problem.sample(None, torch.Generator())).hypergradient["U"]
        for form in (problem, _WithoutClosedForms(problem)):
            step = _one_step(setting, form, phi, 200, 2, alpha)
            measured.append(step.direction["U"].flatten().cpu().numpy())
            exact.append(true.flatten().numpy())
    return {"bilinear": np.stack(measured), "bilinear_exact": np.stack(exact)}


def _tight(setting: Setting) -> Evidence:
    """D_0 = 2."""
    kappas, Ks, errors, laws = [], [], [], []
    rng = np.random.default_rng([setting.seed, 3])
    for kappa in (10.0, 100.0):
        problem, phi = slowest_start(kappa, rng, distance=2.0)
        alpha = 1 / kappa
        true = QuadraticTheory.of(problem).gradient(phi)
        for K in (0, 1, 2, 5, 10, 20, 40):
            d = _one_step(setting, problem, {"phi": torch.as_tensor(phi)}, K, 3, alpha).direction["phi"].cpu().numpy()
            kappas.append(kappa)
            Ks.append(K)
            errors.append(np.linalg.norm(d - true))
            laws.append(2.0 * (1 - alpha) ** K)
    return {
        "tight_kappa": np.array(kappas),
        "tight_K": np.array(Ks),
        "tight_error": np.array(errors),
        "tight_law": np.array(laws),
    }
