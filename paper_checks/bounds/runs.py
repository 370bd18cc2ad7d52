"""Bounds on a run with all tasks: Theorem 2 step by step and summed, Theorem 3, the cold floor."""

from __future__ import annotations

import numpy as np

from convergence import Oracle
from paper_checks.bounds.instances import Instances, Shape, Theory, instance, numbers, parameters, share
from paper_checks.falsify import Bound, Cell, Method
from paper_checks.lyapunov import Lyapunov
from paper_checks.quadratic_theory import Array, apply, norm

SHAPE = Shape(tasks=2, p=1, q=2)
FLOOR = Shape(tasks=2, p=2, q=2, gain=True)
WARM = ({"K": 1, "N": 1}, {"K": 3, "N": 1}, {"K": 1, "N": 2})
ITERATIONS = 12


def _trajectory(
    method: Method, cell: Cell, theory: Theory, *, warm: bool
) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
    """phi_t (n, p), d_t (n, p), theta^t and v^t (n, M, q) for t = 0, 1, ...; alpha = beta = 1."""
    oracle, phi = Oracle(Instances(theory), replicas=len(theory.phi)), parameters(theory.phi)
    solver = method(
        lower_steps=cell["K"], lower_step_size=1.0, cg_steps=cell["N"], upper_step_size=1.0, warm_start=warm
    )
    state = solver.start(oracle, phi)
    at, directions, thetas, vs = [], [], [], []
    for _ in range(ITERATIONS):
        step = solver.step(oracle, phi, oracle.pool, state)
        at.append(numbers(phi["phi"]))
        directions.append(numbers(step.direction["phi"]))
        thetas.append(numbers(step.theta))
        vs.append(numbers(step.v))
        phi, state = step.phi, step.state
    return at, directions, thetas, vs


def _lyapunov(method: Method, cell: Cell, x: Array) -> tuple[Array, Array]:
    """V_t and beta |grad Phi_t|^2, (T, n), at the largest beta of each instance, which f is scaled to make 1."""
    theory = Theory(SHAPE.decode(x))
    steps = {"lower_steps": cell["K"], "cg_steps": cell["N"], "exact_v": cell["N"] >= SHAPE.q, "theta_alone": True}
    first = [Lyapunov.of(c, lower_step_size=1.0, **steps).largest_step for c in theory.constants]
    theory = theory.scaled(np.minimum(first, 1e6))  # levels that do not meet allow any beta
    found = [Lyapunov.of(c, lower_step_size=1.0, **steps) for c in theory.constants]
    P, Q = np.array([each.P for each in found]), np.array([each.Q for each in found])
    V, squares = [], []
    for phi, _, theta, v in zip(*_trajectory(method, cell, theory, warm=True), strict=True):
        a = np.square(theta - theory.theta(phi)).sum(-1).mean(-1)
        e = v - theory.v(theta)
        b = np.einsum("nmi,nmij,nmj->nm", e, theory.A, e).mean(-1)
        V.append(theory.gap(phi) + P * a + Q * b)
        squares.append(np.square(theory.gradient(phi)).sum(-1))
    return np.stack(V), np.stack(squares)


def _decrease(method: Method, cell: Cell, x: Array) -> Array:
    """max_t beta/2 |grad Phi_t|^2 over V_t - V_{t+1}, while V is above rounding; infinite where V does not fall."""
    V, squares = _lyapunov(method, cell, x)
    fall = V[:-1] - V[1:] + 1e-12 * V[:-1]
    ratio = np.where(fall > 0, squares[:-1] / (2 * fall), np.inf)
    return np.asarray(np.where(V[:-1] > 1e-6 * V[0], ratio, 0).max(0))


def _sum(method: Method, cell: Cell, x: Array) -> Array:
    """sum_{t<T} |grad Phi_t|^2 over 2 (V_0 - V_T) / beta."""
    V, squares = _lyapunov(method, cell, x)
    return np.asarray(squares[:-1].sum(0) / (2 * (V[0] - V[-1]) + 1e-12 * V[0]))


def _theorem_3(method: Method, cell: Cell, x: Array) -> Array:
    """sum_{t<T} |grad Phi_t|^2 over 2 Delta / beta + sum_{t<T} |d_t - grad Phi_t|^2, the largest over T."""
    theory = Theory(SHAPE.decode(x[:, :-1]))
    theory = theory.scaled(share(x[:, -1]) / theory.bounds["L_Phi"])
    at, directions, _, _ = _trajectory(method, cell, theory, warm=False)
    squares = np.stack([np.square(theory.gradient(phi)).sum(-1) for phi in at])
    errors = np.stack([np.square(d - theory.gradient(phi)).sum(-1) for phi, d in zip(at, directions, strict=True)])
    bound = 2 * theory.gap(at[0]) + np.cumsum(errors, 0)
    return np.asarray((np.cumsum(squares, 0) / (bound + 1e-12 * squares[0])).max(0))


def _floor(method: Method, cell: Cell, x: Array) -> Array:
    """|grad Phi| where the cold method rests, over mean_i |J'Q| varrho_i^K |theta_0 - theta*|; exact v.

    The point of rest is solved for, and the method's own direction there is taken off: it is zero where it rests.
    """
    theory, K = Theory(FLOOR.decode(x)), cell["K"]
    eigenvalues = np.diagonal(theory.A, axis1=-2, axis2=-1)
    E = (1 - eigenvalues) ** K
    JQ = np.swapaxes(theory.J, -1, -2) @ theory.Q
    H = (theory.R + JQ @ ((1 - E)[..., None] * theory.J + E[..., None] * theory.gain)).mean(1)
    h = (apply(theory.R, theory.w) - apply(JQ, E * theory.start - theory.u)).mean(1)
    rest = np.linalg.solve(H, h[..., None])[..., 0]
    theory = Theory(theory.arrays | {"phi": rest})
    oracle, phi = Oracle(Instances(theory), replicas=len(x)), parameters(rest)
    solver = method(lower_steps=K, lower_step_size=1.0, cg_steps=cell["N"], upper_step_size=1.0, warm_start=False)
    d = numbers(solver.step(oracle, phi, oracle.pool, solver.start(oracle, phi)).direction["phi"])
    away = np.linalg.norm(theory.start_at - theory.theta(rest), axis=-1)
    bound = (norm(JQ) * np.abs(E).max(-1) * away).mean(-1)
    each = np.linalg.norm(theory.gradients(rest), axis=-1).max(-1)
    return np.asarray(np.linalg.norm(theory.gradient(rest) - d, axis=-1) / (bound + 1e-9 * each))


def _dimensions(cell: Cell) -> int:
    return SHAPE.dimensions


BOUNDS = {
    "lyapunov_decrease": (
        Bound("Theorem 2: beta/2 |grad Phi_t|^2 over V_t - V_{t+1}", _dimensions, WARM, _decrease, instance(SHAPE)),
        Bound("Theorem 2: sum |grad Phi|^2 over 2 (V_0 - V_T) / beta", _dimensions, WARM, _sum, instance(SHAPE)),
    ),
    "growing_lower_steps": (
        Bound(
            "Theorem 3: sum |grad Phi|^2 over 2 Delta / beta + sum |d - grad Phi|^2",
            lambda cell: SHAPE.dimensions + 1,
            ({"K": 1, "N": 1}, {"K": 3, "N": 1}, {"K": 8, "N": 2}),
            _theorem_3,
            lambda cell, x: instance(SHAPE)(cell, x[:-1]) | {"beta L_Phi": share(x[-1:])},
        ),
    ),
    "cold_start_floor": (
        Bound(
            "|grad Phi| at the floor over its bound, exact v",
            lambda cell: FLOOR.dimensions,
            ({"K": 1, "N": 2}, {"K": 3, "N": 2}, {"K": 10, "N": 2}),
            _floor,
            instance(FLOOR),
        ),
    ),
}
