"""The lower level of a problem of one's own: spectra of its Hessians, theta*, v* and grad Phi at a point."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from convergence import ReferenceFailed, reference
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks
from paper_checks.quadratic_theory import Array
from problems import Parameters

DENSE = 512  # the largest q for which (q, q) Hessians are formed


class Solved(NamedTuple):
    """At x = phi as a vector: theta* and v* (M, q), grad Phi (p,), Phi; mu and L of the Hessians on the way to theta*.

    mu and L are the extreme eigenvalues over the tasks at theta_0, half-way, and theta*.
    """

    x: Tensor
    theta: Tensor
    v: Tensor
    gradient: Tensor
    value: float
    mu: float
    L: float

    @property
    def step_size(self) -> float:
        """1 / (L + mu): half of the fastest, so that one step is never exact where all eigenvalues are equal."""
        return 1 / (self.L + self.mu)


def solved(problem: SomeTasks, phi: Parameters) -> Solved:
    """By damped Newton and direct solves. Raises ReferenceFailed where a lower level is not strongly convex."""
    pool = problem.sample(None, torch.Generator())
    exact = reference(problem, phi, pool)
    single, x = SingleTasks(problem, pool, phi), vector(phi)
    start = problem.theta0(phi, pool).detach()
    ends = [extremes(single, x, start + share * (exact.theta - start)) for share in (0.0, 0.5, 1.0)]
    mu, L = min(low for low, _ in ends), max(high for _, high in ends)
    if not mu > 0:
        raise ReferenceFailed(
            f"expected the lower level of {type(problem).__name__} to be strongly convex between theta_0 and theta*, "
            f"got a Hessian with the eigenvalue {mu:.1e}"
        )
    return Solved(x, exact.theta, exact.v, vector(exact.hypergradient), float(exact.value), mu, L)


def extremes(single: SingleTasks, x: Tensor, theta: Tensor) -> tuple[float, float]:
    """The least and the largest eigenvalue of d2g_i/dtheta2 over the tasks, theta (M, q); to 1e-4 where q > 512."""
    if theta.shape[-1] <= DENSE:
        H = torch.stack([single.hessian(i, x, theta[i]) for i in range(len(single))])
        eigenvalues = torch.linalg.eigvalsh(H) if bool(torch.isfinite(H).all()) else torch.full((1,), torch.nan)
        return float(eigenvalues.min()), float(eigenvalues.max())
    return min(_end("SA", single, x, theta)), max(_end("LA", single, x, theta))


def largest(single: SingleTasks, x: Tensor, theta: Tensor) -> float:
    """The largest alone."""
    return extremes(single, x, theta)[1] if theta.shape[-1] <= DENSE else max(_end("LA", single, x, theta))


def _end(which: str, single: SingleTasks, x: Tensor, theta: Tensor) -> list[float]:
    """The eigenvalue at that end of the spectrum, of each task."""
    v0 = np.cos(np.arange(theta.shape[-1], dtype=float))  # ARPACK's own is random
    operators = (operator(single, i, x, theta[i]) for i in range(len(single)))
    return [float(eigsh(each, k=1, which=which, v0=v0, tol=1e-4, return_eigenvectors=False)[0]) for each in operators]


def operator(single: SingleTasks, i: int, x: Tensor, theta: Tensor) -> LinearOperator:
    """v -> (d2g_i/dtheta2) v of numpy vectors."""

    def product(v: Array) -> Array:
        along = torch.as_tensor(np.asarray(v, float).reshape(-1), device=theta.device)
        return single.product(i, x, theta, along).cpu().numpy()

    return LinearOperator((len(theta), len(theta)), matvec=product, dtype=np.float64)


def krylov(H: Array, r: Array, N: int) -> Array:
    """An orthonormal basis of span(r, H r, ..., H^(N-1) r), (q, at most N), each vector made orthogonal twice."""
    basis = np.empty((len(r), 0))
    for _ in range(min(N, len(r))):
        size = np.linalg.norm(r)
        for _ in range(2):
            r = r - basis @ (basis.T @ r)
        if not np.linalg.norm(r) > 1e-10 * size:  # the space does not grow any more
            break
        basis = np.column_stack([basis, r / np.linalg.norm(r)])
        r = H @ basis[:, -1]
    return basis
