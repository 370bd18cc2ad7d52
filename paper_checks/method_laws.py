"""Where the directions of published methods point on quadratics, in numpy; no code is shared with the methods.

Every law is the mean over the tasks of  d_i = R_i (phi - w_i) + ...  at one phi, shape (p,). theta is either theta_K of
a cold start or, for methods that carry theta over while phi is held, theta*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from paper_checks.quadratic_theory import Array, QuadraticTheory, apply

# ---- theta, and v for it


def polynomial(theory: QuadraticTheory, of: Callable[[Array], Array]) -> Array:
    """The matrices of(A_i), (M, q, q), by eigenvalues."""
    eigenvalues, vectors = np.linalg.eigh(theory.A)
    return np.asarray((vectors * of(eigenvalues)[:, None, :]) @ np.swapaxes(vectors, 1, 2))


def heavy_ball(theory: QuadraticTheory, steps: int, step_size: float, momentum: float) -> Array:
    """P_K of theta_K - theta* = P_K (theta_0 - theta*): P_k+1 = (1 + gamma - alpha A) P_k - gamma P_k-1, (M, q, q)."""

    def of(eigenvalues: Array) -> Array:
        before = now = np.ones_like(eigenvalues)
        for _ in range(steps):
            before, now = now, (1 + momentum - step_size * eigenvalues) * now - momentum * before
        return now

    return polynomial(theory, of)


def moved(theory: QuadraticTheory, phi: Array, remaining: Array) -> Array:
    """theta* + remaining (theta_0 - theta*), (M, q)."""
    optimum = theory.lower_optimum(phi)
    return optimum + apply(remaining, theory.start + theory.gain @ phi - optimum)


def series(theory: QuadraticTheory, terms: int, step_size: float) -> Array:
    """eta sum_{j < terms} (I - eta A)^j, (M, q, q): what a Neumann series of so many terms puts in place of A^-1."""
    return polynomial(theory, lambda x: (1 - (1 - step_size * x) ** terms) / x)


def krylov(theory: QuadraticTheory, b: Array, steps: int) -> Array:
    """v in span(b, A b, ..., A^{N-1} b) with A v - b orthogonal to it, (M, q): N steps of CG from zero, by Galerkin."""
    found = np.zeros_like(b)
    for i, (A, right) in enumerate(zip(theory.A, b, strict=True)):
        basis = np.empty((len(right), 0))
        direction = right
        for _ in range(min(steps, len(right))):
            for _ in range(2):  # orthogonalised twice: to rounding
                direction = direction - basis @ (basis.T @ direction)
            basis = np.column_stack([basis, direction / np.linalg.norm(direction)])
            direction = A @ basis[:, -1]
        if basis.shape[1]:
            found[i] = basis @ np.linalg.solve(basis.T @ A @ basis, basis.T @ right)
    return found


# ---- directions


def direct(theory: QuadraticTheory, phi: Array) -> Array:
    """grad_phi f_i = R_i (phi - w_i), (M, p)."""
    return apply(theory.R, phi - theory.w)


def upper_slope(theory: QuadraticTheory, theta: Array) -> Array:
    """grad_theta f_i = Q_i (theta_i - u_i), (M, q)."""
    return apply(theory.Q, theta - theory.u)


def implicit(theory: QuadraticTheory, phi: Array, v: Array) -> Array:
    """mean_i [ grad_phi f_i + C_i' v_i ]."""
    return (direct(theory, phi) + apply(np.swapaxes(theory.C, 1, 2), v)).mean(0)


def through(theory: QuadraticTheory, phi: Array, theta: Array, jacobian: Array) -> Array:
    """mean_i [ grad_phi f_i + jacobian_i' grad_theta f_i(theta_i) ]."""
    return (direct(theory, phi) + apply(np.swapaxes(jacobian, 1, 2), upper_slope(theory, theta))).mean(0)


def unrolled(theory: QuadraticTheory, phi: Array, remaining: Array) -> Array:
    """Through steps that leave `remaining` of theta_0 - theta*: J_K = (I - E) J + E G."""
    rest = np.eye(theory.A.shape[-1]) - remaining
    return through(theory, phi, moved(theory, phi, remaining), rest @ theory.J + remaining @ theory.gain)


def truncated(theory: QuadraticTheory, phi: Array, steps: int, last: int, step_size: float) -> Array:
    """Through the last h of K steps: theta_{K-h} does not move with phi where h < K."""
    whole = theory.contraction(steps, step_size)
    if last >= steps:
        return unrolled(theory, phi, whole)
    rest = np.eye(theory.A.shape[-1]) - theory.contraction(last, step_size)
    return through(theory, phi, moved(theory, phi, whole), rest @ theory.J)


def displacement(theory: QuadraticTheory, phi: Array, remaining: Array) -> Array:
    """mean_i G_i' (theta_0 - theta_K)."""
    start = theory.start + theory.gain @ phi
    return apply(np.swapaxes(theory.gain, 1, 2), start - moved(theory, phi, remaining)).mean(0)


def penalty(theory: QuadraticTheory, phi: Array, multiplier: float) -> Array:
    """The gradient of mean_i [ min_y (f_i + lambda g_i) - lambda min g_i ].

    d_i = grad_phi f_i - lambda C_i'(y_i - theta_i*),
    y_i = (Q_i + lambda A_i)^-1 (Q_i u_i + lambda (C_i phi + b_i)); off grad Phi by a term of the order of 1 / lambda.
    """
    right = apply(theory.Q, theory.u) + multiplier * (theory.C @ phi + theory.b)
    y = np.linalg.solve(theory.Q + multiplier * theory.A, right[..., None])[..., 0]
    return implicit(theory, phi, -multiplier * (y - theory.lower_optimum(phi)))


# ---- what a method declares, as a function of the method


def _step_size(theory: QuadraticTheory, given: float | None) -> float:
    spectrum = np.linalg.eigvalsh(theory.A)
    return float(2 / (spectrum.min() + spectrum.max())) if given is None else given


def _remaining(theory: QuadraticTheory, method: Any) -> Array:
    """E_K of the method's cold lower steps; zero where theta is carried over, and has settled."""
    if method.declared.warm:
        return np.zeros_like(theory.A)
    return theory.contraction(method.lower_steps, _step_size(theory, method.lower_step_size))


def _solved(kind: Literal["exact", "cg", "neumann", "sampled"]) -> Callable[[QuadraticTheory, Array, Any], Array]:
    def law(theory: QuadraticTheory, phi: Array, method: Any) -> Array:
        b = upper_slope(theory, moved(theory, phi, _remaining(theory, method)))
        if kind == "exact":
            v = np.linalg.solve(theory.A, b[..., None])[..., 0]
        elif kind == "cg":
            v = krylov(theory, b, method.cg_steps)
        else:  # the sum of all terms, or the expectation of the one that is drawn
            terms = method.terms + (kind == "neumann")
            v = apply(series(theory, terms, _step_size(theory, method.linear_step_size)), b)
        return implicit(theory, phi, v)

    return law


LAWS: dict[str, Callable[[QuadraticTheory, Array, Any], Array]] = {
    "exact": _solved("exact"),
    "cg": _solved("cg"),
    "neumann": _solved("neumann"),
    "sampled_neumann": _solved("sampled"),
    "unrolled": lambda theory, phi, method: unrolled(theory, phi, _remaining(theory, method)),
    "first_order": lambda theory, phi, method: through(
        theory, phi, moved(theory, phi, _remaining(theory, method)), theory.gain
    ),
    "displacement": lambda theory, phi, method: displacement(theory, phi, _remaining(theory, method)),
    "penalty": lambda theory, phi, method: penalty(theory, phi, method.multiplier),
}
