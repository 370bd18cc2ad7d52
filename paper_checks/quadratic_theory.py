"""Closed forms for quadratic problems in numpy (docs/theory.md S1-S4); no code is shared with the methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import cg

from paper_checks.stochastic_theory import batch_moments
from problems import LearnedStart, Quadratic
from problems.arrays import random_symmetric

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class QuadraticTheory:
    """The arrays of a `Quadratic` in numpy and what follows from them; leading axis M. `start`, `gain`: theta0."""

    A: Array
    C: Array
    b: Array
    Q: Array
    u: Array
    R: Array
    w: Array
    start: Array
    gain: Array

    @classmethod
    def of(cls, problem: Quadratic | LearnedStart) -> QuadraticTheory:
        """The theory of this problem; of a quadratic with a learned start that of the vector (phi, start).

        Raises TypeError where the problem inside is no quadratic.
        """
        if isinstance(problem, LearnedStart):
            return cls.of(problem.problem)._with_learned_start()
        if not isinstance(problem, Quadratic):
            raise TypeError(f"expected a Quadratic or a LearnedStart of one, got {type(problem).__name__}")
        arrays = {name: tensor.double().cpu().numpy() for name, tensor in problem.data.items()}
        arrays.setdefault("start", np.zeros_like(arrays["b"]))
        arrays.setdefault("gain", np.zeros_like(arrays["C"]))
        return cls(**arrays)

    def _with_learned_start(self) -> QuadraticTheory:
        """theta_0 = start, which neither g nor f sees: q columns of zeros in C, zeros in R and w."""
        M, q = self.b.shape
        return replace(
            self,
            C=np.pad(self.C, ((0, 0), (0, 0), (0, q))),
            R=np.pad(self.R, ((0, 0), (0, q), (0, q))),
            w=np.pad(self.w, ((0, 0), (0, q))),
            start=np.zeros((M, q)),
            gain=np.pad(np.broadcast_to(np.eye(q), (M, q, q)), ((0, 0), (0, 0), (self.C.shape[-1], 0))),
        )

    @cached_property
    def J(self) -> Array:
        """dtheta*/dphi = A^-1 C, (M, q, p)."""
        return np.linalg.solve(self.A, self.C)

    @cached_property
    def offset(self) -> Array:
        """A^-1 b, (M, q): theta* = J phi + A^-1 b."""
        return np.linalg.solve(self.A, self.b[..., None])[..., 0]

    def contraction(self, steps: int, step_size: float) -> Array:
        """E_K = (I - alpha A)^K, (M, q, q), by eigenvalues: theta_K - theta* = E_K (theta_0 - theta*)."""
        eigenvalues, vectors = np.linalg.eigh(self.A)
        return (vectors * (1 - step_size * eigenvalues[:, None, :]) ** steps) @ np.swapaxes(vectors, 1, 2)

    def lower_optimum(self, phi: Array) -> Array:
        """theta_i*(phi), (M, q)."""
        return self.J @ phi + self.offset

    def cold_iterate(self, phi: Array, steps: int, step_size: float) -> Array:
        """theta_K from the cold start, (M, q)."""
        optimum = self.lower_optimum(phi)
        return optimum + apply(self.contraction(steps, step_size), self.start + self.gain @ phi - optimum)

    def direction(self, steps: int | None = None, step_size: float = 0.0) -> tuple[Array, Array]:
        """H_i (M, p, p) and h_i (M, p) with d_i = H_i phi - h_i: cold start, K lower steps, exact v (S3a).

        None lower steps: theta exact, then the means are H_Phi and h_Phi.
        """
        JQ = np.swapaxes(self.J, 1, 2) @ self.Q
        E = np.zeros_like(self.A) if steps is None else self.contraction(steps, step_size)
        rest = np.eye(self.A.shape[-1]) - E
        H = self.R + JQ @ (rest @ self.J + E @ self.gain)
        h = apply(self.R, self.w) - apply(JQ, apply(rest, self.offset) + apply(E, self.start) - self.u)
        return H, h

    @cached_property
    def upper_form(self) -> tuple[Array, Array]:
        """H_Phi and h_Phi: grad Phi(phi) = H_Phi phi - h_Phi."""
        H, h = self.direction()
        return H.mean(0), h.mean(0)

    def gradient(self, phi: Array) -> Array:
        """grad Phi(phi), (p,)."""
        H, h = self.upper_form
        return np.asarray(H @ phi - h)

    def cold_fixed_point(self, steps: int, step_size: float) -> tuple[Array, Array]:
        """The limit of the cold method with exact v, and the matrix of its iteration: phi' = phi - beta (H phi - h)."""
        H, h = (x.mean(0) for x in self.direction(steps, step_size))
        return np.linalg.solve(H, h), H

    def unrolled_form(self, steps: int, step_size: float) -> tuple[Array, Array]:
        """H_i (M, p, p) and h_i (M, p): the gradient of f_i(phi, theta_i,K(phi)), K cold steps, is H_i phi - h_i (S3b).

        theta_i,K = J_i,K phi + (I - E_i) A_i^-1 b_i + E_i start_i, J_i,K = (I - E_i) J_i + E_i G_i.
        """
        E = self.contraction(steps, step_size)
        rest = np.eye(self.A.shape[-1]) - E
        J_K = rest @ self.J + E @ self.gain
        JQ = np.swapaxes(J_K, 1, 2) @ self.Q
        constant = apply(rest, self.offset) + apply(E, self.start) - self.u
        return self.R + JQ @ J_K, apply(self.R, self.w) - apply(JQ, constant)

    def warm_map(self, steps: int, step_size: float, upper_step_size: float) -> Array:
        """The matrix by which one warm iteration with exact v maps (phi, theta_1, ..., theta_M), (p + Mq, p + Mq).

        theta_i' = E_i theta_i + (I - E_i) (J_i phi + ..),  phi' = phi - beta mean_i [ R_i phi + J_i'Q_i theta_i' + .. ]
        (S2); the iteration is affine, and grows where the spectral radius exceeds 1.
        """
        (M, q, p), E = self.C.shape, self.contraction(steps, step_size)
        JQ = np.swapaxes(self.J, 1, 2) @ self.Q
        lower = (np.eye(q) - E) @ self.J
        matrix = np.zeros((p + M * q, p + M * q))
        matrix[:p, :p] = np.eye(p) - upper_step_size * (self.R + JQ @ lower).mean(0)
        for i in range(M):
            own = slice(p + i * q, p + (i + 1) * q)
            matrix[:p, own] = -upper_step_size / M * JQ[i] @ E[i]
            matrix[own, :p], matrix[own, own] = lower[i], E[i]
        return matrix

    def replay(
        self, phi: Array, batches: Iterable[Array], *, K: int, N: int, lower_step_size: float, upper_step_size: float
    ) -> Array:
        """phi_0, phi_1, ... of Algorithm 1, warm, task by task, theta_K by eigenvalues, v by scipy's CG; (T + 1, p)."""
        theta = self.start + self.gain @ phi
        v = np.zeros_like(theta)
        E = self.contraction(K, lower_step_size)
        iterates = [phi]
        for batch in batches:
            directions = []
            for i in dict.fromkeys(int(task) for task in batch):  # a task drawn twice is solved once
                optimum = self.J[i] @ phi + self.offset[i]
                theta[i] = optimum + E[i] @ (theta[i] - optimum)
                b = self.Q[i] @ (theta[i] - self.u[i])
                v[i], _ = cg(self.A[i], b, x0=v[i], rtol=0.0, atol=0.0, maxiter=N)
                d = self.R[i] @ (phi - self.w[i]) + self.C[i].T @ v[i]
                directions.append(d * np.count_nonzero(batch == i))
            phi = phi - upper_step_size * np.sum(directions, axis=0) / len(batch)
            iterates.append(phi)
        return np.stack(iterates)

    def stationary_moment(self, step_size: float, zeta: float) -> tuple[float, float]:
        """F(b) = E |grad Phi|^2 in the stationary state of the exact stochastic method, and its spectral radius (4c).

        X = (I - beta H) X (I - beta H)' + beta^2 zeta [ mean_i delta_i X delta_i' + Sigma ]; F = tr(H X H).
        zeta = 1/b for i.i.d. tasks, (M - b) / (b (M - 1)) without replacement. Raises ValueError where the
        process has no stationary second moment.
        """
        moments = batch_moments(self, step_size, zeta)
        return moments.stationary, moments.radius


@dataclass(frozen=True)
class Chebyshev:
    """The spectrum on which N CG steps contract the energy norm by exactly chi_N (Greenbaum 1979; S1, S3c)."""

    eigenvalues: Array
    weights: Array  # the residual at the start: (1/sqrt 2, 1, ..., 1, 1/sqrt 2)

    @classmethod
    def of(cls, steps: int, kappa: float) -> Chebyshev:
        """N + 1 eigenvalues in [1, kappa], at the extrema of the scaled Chebyshev polynomial of degree N."""
        cosines = np.cos(np.arange(steps + 1) * np.pi / steps)
        weights = np.ones(steps + 1)
        weights[[0, -1]] = 1 / np.sqrt(2)
        return cls((kappa + 1) / 2 + (kappa - 1) / 2 * cosines, weights)


def chi(steps: int, kappa: float) -> float:
    """chi_N = 1 / T_N((kappa + 1) / (kappa - 1)), from the Chebyshev polynomial itself."""
    return float(1 / np.cosh(steps * np.arccosh((kappa + 1) / (kappa - 1))))


def cold_cg_problem(steps: int, kappa: float, *, R: float, w: float, u0: float) -> tuple[Quadratic, float]:
    """The instance of S3c and its floor: exact theta, N cold CG steps, |grad Phi|^2 in the limit.

    p = 1, q = N + 1, A the Chebyshev spectrum, C = c its weights, Q = A, u = A^-1 c u0, b = 0. Then
    c'v_N = (1 - chi_N^2) gamma (phi - u0) with gamma = c'A^-1 c, and the floor is
    (chi_N^2 gamma R (w - u0) / (R + (1 - chi_N^2) gamma))^2.
    """
    spectrum = Chebyshev.of(steps, kappa)
    eigenvalues, c = spectrum.eigenvalues, spectrum.weights
    A = np.diag(eigenvalues)[None]
    J = (c / eigenvalues)[None, :, None]
    problem = Quadratic(
        A=A,
        C=c[None, :, None],
        b=np.zeros((1, len(c))),
        Q=A,
        u=(c / eigenvalues * u0)[None],
        R=[[[R]]],
        w=[[w]],
        gain=J,  # a cold start at theta* itself: the lower level is exact from the first step
    )
    gamma = float((c**2 / eigenvalues).sum())
    chi_sq = chi(steps, kappa) ** 2
    return problem, (chi_sq * gamma * R * (w - u0) / (R + (1 - chi_sq) * gamma)) ** 2


def slowest_start(kappa: float, rng: np.random.Generator, *, distance: float = 1.0) -> tuple[Quadratic, Array]:
    """The instance of S1 that attains Theorem 1 and its certificate, and phi: C = Q = I, exact v with N = 3 = q.

    theta_0 = theta*(phi) + distance e, e the eigenvector of mu = 1: |d - grad Phi| = distance (1 - alpha)^K.
    """
    A = random_symmetric(rng, 1, np.array([1.0, kappa / 2, kappa]))
    phi, b, u, w = rng.standard_normal((4, 3))
    slowest = np.linalg.eigh(A[0]).eigenvectors[:, 0]
    start = np.linalg.solve(A[0], phi + b) + distance * slowest
    eye = np.eye(3)[None]
    return Quadratic(A, eye, b[None], eye, u[None], eye, w[None], start=start[None]), phi


def zeta(batch: int, pool: int, *, replacement: bool) -> float:
    """The variance of a batch mean over that of a single task: 1/b, or (M - b) / (b (M - 1))."""
    return 1 / batch if replacement else (pool - batch) / (batch * (pool - 1))


def apply(matrices: Array, vectors: Array) -> Array:
    """matrix @ vector, over leading axes."""
    return np.asarray((matrices @ vectors[..., None])[..., 0])


def norm(matrices: Array) -> Array:
    """Spectral norms over the last two axes."""
    return np.asarray(np.linalg.norm(matrices, 2, axis=(-2, -1)))
