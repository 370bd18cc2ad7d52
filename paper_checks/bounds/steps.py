"""Bounds on one step: Theorem 1, its certificate, the unrolled direction, the rate of CG."""

from __future__ import annotations

import numpy as np
import torch

from convergence import Certificate, ITDBiO, MemoryReduced, Oracle, Step
from paper_checks.bounds.instances import Instances, Shape, Theory, instance, numbers, parameters
from paper_checks.falsify import Bound, Cell, Method
from paper_checks.quadratic_theory import Array, apply, chi, norm

SHAPE = Shape(tasks=1, p=2, q=3)
UNROLLED = Shape(tasks=1, p=2, q=3, gain=True)
STEPS = ({"K": 0, "N": 1}, {"K": 1, "N": 1}, {"K": 2, "N": 2}, {"K": 4, "N": 3})
_ROUNDING = 1e-12  # of |grad Phi|


def _step(solver: MemoryReduced | ITDBiO, theory: Theory) -> tuple[Step, Array, Array]:
    """One cold step of all instances, |d - grad Phi| and |grad Phi| (n,)."""
    oracle, phi = Oracle(Instances(theory), replicas=len(theory.phi)), parameters(theory.phi)
    step = solver.step(oracle, phi, oracle.pool, solver.start(oracle, phi))
    true = theory.gradient(theory.phi)
    error = np.linalg.norm(numbers(step.direction["phi"]) - true, axis=-1)
    return step, error, np.linalg.norm(true, axis=-1)


def _cold(method: Method, cell: Cell) -> MemoryReduced:
    return method(lower_steps=cell["K"], lower_step_size=1.0, cg_steps=cell["N"], upper_step_size=1.0, warm_start=False)


def _theorem_1(method: Method, cell: Cell, x: Array) -> Array:
    """Lambda D_0 varrho^K + L_c |grad_theta f(theta_K)| / mu 2 sqrt(kappa) r^N."""
    theory = Theory(SHAPE.decode(x))
    c, K, N = theory.bounds, cell["K"], cell["N"]
    _, error, size = _step(_cold(method, cell), theory)
    optimum = theory.theta(theory.phi)[:, 0]
    off = theory.start_at[:, 0] - optimum
    b = np.linalg.norm(apply(theory.Q[:, 0], optimum + _damped(theory, K) * off - theory.u[:, 0]), axis=-1)
    root = np.sqrt(c["L"] / c["mu"])
    first = c["Lambda"] * np.linalg.norm(off, axis=-1) * c["varrho"] ** K
    second = c["L_c"] * b / c["mu"] * 2 * root * ((root - 1) / (root + 1)) ** N
    return np.asarray(error / (first + second + _ROUNDING * size))


def _damped(theory: Theory, K: int) -> Array:
    """(1 - lambda_j)^K of the one task: K lower steps with alpha = 1, A diagonal."""
    return np.asarray((1 - np.diagonal(theory.A[:, 0], axis1=-2, axis2=-1)) ** K)


def _certificate(method: Method, cell: Cell, x: Array) -> Array:
    """a |grad_theta g| / mu + c |r| at the theta and v of the step."""
    theory = Theory(SHAPE.decode(x))
    step, error, size = _step(_cold(method, cell), theory)
    return np.asarray(error / (_certified(theory, step) + _ROUNDING * size))


def _certified(theory: Theory, step: Step) -> Array:
    """The certificate of each instance, (n,)."""
    theta, v = numbers(step.theta), numbers(step.v)
    gradient = torch.as_tensor(np.linalg.norm(apply(theory.A, theta - theory.theta(theory.phi)), axis=-1))
    residual = torch.as_tensor(np.linalg.norm(apply(theory.Q, theta - theory.u) - apply(theory.A, v), axis=-1))
    bound = np.empty(len(theta))
    for k, constants in enumerate(theory.constants):
        certificate = Certificate(constants)
        e = certificate.theta_error(gradient[k])
        bound[k] = float(certificate.direction_error(e, residual[k], step.v[k].norm(dim=-1)))
    return bound


def _looseness(method: Method, cell: Cell, x: Array) -> Array:
    """The certificate over kappa (Lambda |theta - theta*| + L_c |v - v*|), Lemma 1 at the true distances."""
    theory = Theory(SHAPE.decode(x))
    step, _, size = _step(_cold(method, cell), theory)
    theta, v = numbers(step.theta), numbers(step.v)
    c = theory.bounds
    away = np.linalg.norm(theta - theory.theta(theory.phi), axis=-1)[:, 0]
    of_v = np.linalg.norm(v - theory.v(theta), axis=-1)[:, 0]
    lemma = c["L"] / c["mu"] * (c["Lambda"] * away + c["L_c"] * of_v)
    return np.asarray(_certified(theory, step) / (lemma + _ROUNDING * size))


def _unrolled(method: Method, cell: Cell, x: Array) -> Array:
    """varrho^K (tau ell D_0 + B (tau + |G|)), B = |grad_theta f(theta_K)|, for theta_0 = start + G phi."""
    theory = Theory(UNROLLED.decode(x))
    c, K = theory.bounds, cell["K"]
    solver = (ITDBiO if method is MemoryReduced else method)(lower_steps=K, lower_step_size=1.0, upper_step_size=1.0)
    _, error, size = _step(solver, theory)
    optimum = theory.theta(theory.phi)[:, 0]
    off = theory.start_at[:, 0] - optimum
    b = np.linalg.norm(apply(theory.Q[:, 0], optimum + _damped(theory, K) * off - theory.u[:, 0]), axis=-1)
    first = c["tau"] * c["ell"] * np.linalg.norm(off, axis=-1)
    bound = c["varrho"] ** K * (first + b * (c["tau"] + norm(theory.gain[:, 0])))
    return np.asarray(error / (bound + _ROUNDING * size))


# ---- CG alone: eigenvalues and the first error


def _systems(cell: Cell, x: Array) -> dict[str, Array]:
    """q = N + 1 eigenvalues from 1 to kappa <= 1000, both ends among them, and v* with v_0 = 0."""
    q = cell["N"] + 1
    kappa = 10 ** (0.01 + 2.99 * x[:, 0])
    inner = np.sort(x[:, 1:q], -1)
    exponents = np.concatenate([np.zeros((len(x), 1)), inner[:, : q - 2], np.ones((len(x), 1))], -1)
    return {"eigenvalues": kappa[:, None] ** exponents, "v": 2 * x[:, q : 2 * q] - 1}


def _cg(method: Method, cell: Cell, x: Array) -> Array:
    """|v_N - v*|_A / (chi_N |v_0 - v*|_A); the linear solver of the method."""
    system = _systems(cell, x)
    A, v = (torch.as_tensor(system[name])[:, None] for name in ("eigenvalues", "v"))
    solver = method(lower_steps=0, lower_step_size=1.0, cg_steps=cell["N"], upper_step_size=1.0, warm_start=False)
    found = solver.implicit.linear_solver.solve(lambda p: A * p, A * v).v
    energy = [numbers((A * e.square()).sum(-1).sqrt())[:, 0] for e in (found - v, v)]
    kappa = system["eigenvalues"][:, -1]
    bound = np.array([chi(cell["N"], each) for each in kappa])
    return np.asarray(energy[0] / (energy[1] * (bound + 1e-9)))  # CG in float64 loses about that


BOUNDS = {
    "hypergradient_error": (
        Bound(
            "Theorem 1: |d - grad Phi| over its bound, cold start",
            lambda cell: SHAPE.dimensions,
            STEPS,
            _theorem_1,
            instance(SHAPE),
        ),
    ),
    "certificate": (
        Bound(
            "|d - grad Phi| over its certificate, cold start",
            lambda cell: SHAPE.dimensions,
            STEPS,
            _certificate,
            instance(SHAPE),
        ),
        Bound(
            "certificate over kappa times Lemma 1 at the true distances",
            lambda cell: SHAPE.dimensions,
            STEPS,
            _looseness,
            instance(SHAPE),
        ),
    ),
    "itd_floor": (
        Bound(
            "|d - grad Phi| over its bound, K unrolled steps",
            lambda cell: UNROLLED.dimensions,
            ({"K": 0}, {"K": 1}, {"K": 3}),
            _unrolled,
            instance(UNROLLED),
        ),
    ),
    "cg_rate": (
        Bound(
            "energy norm of the error after N CG steps over chi_N",
            lambda cell: 2 * cell["N"] + 2,
            ({"N": 1}, {"N": 2}, {"N": 4}),
            _cg,
            lambda cell, x: {name: array[0] for name, array in _systems(cell, x[None]).items()},
        ),
    ),
}
