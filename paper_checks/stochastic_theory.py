"""Exact first and second moments of the algorithm on batches of tasks (docs/theory.md S4); no code of the methods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from paper_checks.quadratic_theory import QuadraticTheory
    from problems import Constants

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RandomAffine:
    """x' = T x + n with (T, n) drawn afresh in every step, E n = 0: what its first two moments need.

    mean = E T (n, n), square = E T (x) T (n^2, n^2), cross = E [T (x) n + n (x) T] (n^2, n), source = E n (x) n (n^2,):
    then m' = mean m and, with Y = E x x' row by row, Y' = square Y + cross m + source.
    """

    mean: Array
    square: Array
    cross: Array
    source: Array

    @classmethod
    def of_maps(cls, maps: Array, shifts: Array) -> RandomAffine:
        """From all pairs (T_k, n_k), equally likely: maps (k, n, n) and shifts (k, n) of mean zero."""
        count, n = shifts.shape
        square = np.einsum("kij,klm->iljm", maps, maps).reshape(n * n, n * n)
        cross = np.einsum("kij,kl->ilj", maps, shifts) + np.einsum("ki,klj->ilj", shifts, maps)
        return cls(maps.mean(0), square / count, cross.reshape(n * n, n) / count, (shifts.T @ shifts).ravel() / count)

    @classmethod
    def of_batches(cls, H: Array, g: Array, step_size: float, zeta: float) -> RandomAffine:
        """Of x' = x - beta (H_B x + g_B), batch means of H_i (M, n, n) and g_i (M, n) with mean zero (4c).

        The covariance of a batch mean is zeta times that of one task, whatever the sampling.
        """
        delta, share = H - H.mean(0), step_size**2 * zeta
        noise = cls.of_maps(delta, g)
        mean = np.eye(H.shape[-1]) - step_size * H.mean(0)
        return cls(mean, np.kron(mean, mean) + share * noise.square, share * noise.cross, share * noise.source)

    @cached_property
    def radius(self) -> float:
        """The spectral radius of `square`: below 1 exactly where the second moment has a limit."""
        return float(np.abs(np.linalg.eigvals(self.square)).max())

    @cached_property
    def stationary(self) -> Array:
        """X = E x x' in the limit. Raises ValueError where there is none."""
        if self.radius >= 1:
            raise ValueError(f"expected a mean-square stable step size, got spectral radius {self.radius:.3g}")
        return np.linalg.solve(np.eye(len(self.square)) - self.square, self.source).reshape(self.mean.shape)

    def moments(self, start: Array, iterations: int) -> tuple[Array, Array]:
        """E x_t (iterations, n) and E x_t x_t' (iterations, n, n) for t = 0, 1, ..., from the point x_0 = start."""
        m, Y = start, np.outer(start, start).ravel()
        means, squares = [], []
        for _ in range(iterations):
            means.append(m)
            squares.append(Y)
            m, Y = self.mean @ m, self.square @ Y + self.cross @ m + self.source
        return np.stack(means), np.stack(squares).reshape(iterations, len(start), len(start))


@dataclass(frozen=True)
class GradientMoments:
    """E |grad Phi(phi_t)|^2 where grad Phi = gradient + readout x, x the state less its centre, a `RandomAffine`."""

    process: RandomAffine
    centre: Array
    gradient: Array  # at the centre
    readout: Array

    @property
    def radius(self) -> float:
        """How fast the second moment forgets its start."""
        return self.process.radius

    @property
    def stationary(self) -> float:
        """F = |gradient|^2 + tr(readout X readout')."""
        return float(self.gradient @ self.gradient + np.trace(self.readout @ self.process.stationary @ self.readout.T))

    def curve(self, start: Array, iterations: int) -> Array:
        """E |grad Phi(phi_t)|^2 for t = 0, 1, ..., from this state."""
        m, Y = self.process.moments(start - self.centre, iterations)
        bias = self.gradient @ self.gradient + 2 * m @ (self.readout.T @ self.gradient)
        return bias + np.einsum("ij,tjk,ik->t", self.readout, Y, self.readout)


def batch_moments(
    theory: QuadraticTheory,
    step_size: float,
    zeta: float,
    lower: tuple[int | None, float] = (None, 0.0),
) -> GradientMoments:
    """Of the exact stochastic method, or of K lower steps from a cold start with exact v (4c): state phi.

    lower: K and alpha; no K for an exact lower level. Centre: where the mean direction vanishes, phi* if it is exact.
    """
    H, h = theory.direction(*lower)
    centre = np.linalg.solve(H.mean(0), h.mean(0))
    process = RandomAffine.of_batches(H, H @ centre - h, step_size, zeta)
    return GradientMoments(process, centre, theory.gradient(centre), theory.upper_form[0])


def stale_moments(
    theory: QuadraticTheory, step_size: float, batch: int, *, lower: tuple[int, float]
) -> GradientMoments:
    """Of warm theta with exact v, batches without replacement: state (phi, theta_1, ..., theta_M), size p + M q.

    lower: K and alpha. A sampled task takes K lower steps from where it was left, the others stay; the average is over
    all subsets. The centre is (phi*, theta_i*(phi*)): there is no bias. Cost: (p + M q)^6 once: keep p + M q <= 20.
    """
    M, q, p = theory.C.shape
    E = theory.contraction(*lower)
    JQ = np.swapaxes(theory.J, 1, 2) @ theory.Q
    H, h = theory.upper_form
    optimum = np.linalg.solve(H, h)
    each = np.einsum("mij,j->mi", theory.direction()[0], optimum) - theory.direction()[1]  # grad Phi_i(phi*)
    rows = [slice(p + i * q, p + (i + 1) * q) for i in range(M)]
    maps, shifts = [], []
    for subset in combinations(range(M), batch):
        T, n = np.eye(p + M * q), np.zeros(p + M * q)
        for i in subset:
            T[rows[i], :p] = (np.eye(q) - E[i]) @ theory.J[i]  # theta_i' less theta_i*(phi*)
            T[rows[i], rows[i]] = E[i]
            T[:p] -= step_size / batch * JQ[i] @ T[rows[i]]
            T[:p, :p] -= step_size / batch * theory.R[i]
            n[:p] -= step_size / batch * each[i]
        maps.append(T)
        shifts.append(n)
    centre = np.concatenate([optimum, theory.lower_optimum(optimum).ravel()])
    readout = np.hstack([H, np.zeros((p, M * q))])
    return GradientMoments(RandomAffine.of_maps(np.stack(maps), np.stack(shifts)), centre, np.zeros(p), readout)


def task_variance(theory: QuadraticTheory, moments: GradientMoments, start: Array, iterations: int) -> Array:
    """E sigma^2(phi_t) = E mean_i |grad Phi_i - grad Phi|^2 at phi_t for t = 0, 1, ...; the state begins with phi."""
    H, h = theory.direction()
    p = h.shape[-1]
    delta = H - H.mean(0)
    spread = np.einsum("mij,j->mi", H, moments.centre[:p]) - h
    spread = spread - spread.mean(0)
    m, Y = moments.process.moments(start - moments.centre, iterations)
    linear, square = np.einsum("mi,mij->j", spread, delta) / len(H), np.einsum("mij,mik->jk", delta, delta) / len(H)
    return np.square(spread).sum(-1).mean() + 2 * m[:, :p] @ linear + np.einsum("jk,tjk->t", square, Y[:, :p, :p])


def fourth_moment_radius(maps: Array) -> float:
    """The spectral radius of E T (x) T (x) T (x) T, maps (k, n, n) equally likely: below 1 where E |x|^4 has a limit.

    Without it the mean of |x|^2 over seeds has no standard error. Batches of b tasks have at most that of one task
    (convexity of the fourth power). Cost n^12: keep n <= 4.
    """
    pairs = np.einsum("kij,klm->kiljm", maps, maps).reshape(len(maps), maps.shape[-1] ** 2, -1)
    fourth = sum(np.kron(pair, pair) for pair in pairs) / len(pairs)
    return float(np.abs(np.linalg.eigvals(fourth)).max())


@dataclass(frozen=True)
class StaleBound:
    """Theorem 4b: warm theta, exact v, b of M tasks without replacement; the others keep theta where it was left.

    gamma = b / (2 M) (1 - varrho^2K), P = 2 Lambda^2 varrho^2K / gamma,
    largest_step = min(1 / (2 L_Phi), gamma / (4 Lambda varrho^K tau)).
    """

    P: float
    coupling: float  # 4 Lambda varrho^K tau / gamma
    largest_step: float
    smoothness: float

    @classmethod
    def of(cls, constants: Constants, *, pool: int, batch: int, lower: tuple[int, float]) -> StaleBound:
        """From exact constants, for K lower steps of size alpha."""
        tau, Lambda, L_Phi = (getattr(constants, name) for name in ("tau", "Lambda", "L_Phi"))
        varrho_K = constants.lower_contraction(lower[1]) ** lower[0]
        gamma = batch / (2 * pool) * (1 - varrho_K**2)
        coupling = 4 * Lambda * varrho_K * tau / gamma
        return cls(2 * Lambda**2 * varrho_K**2 / gamma, coupling, min(1 / (2 * L_Phi), 1 / coupling), L_Phi)

    def average(self, step_size: float, gap: float, stale: float, noise: Array) -> Array:
        """The bound on 1/T sum_{t<T} E |grad Phi_t|^2 for T = 1, 2, ...

        gap = Phi(phi_0) - Phi*, stale = mean_i |theta_i - theta_i*(phi_0)|^2 at the start, noise = zeta_b E sigma^2_t.
        """
        T = np.arange(1, len(noise) + 1)
        share = 2 * step_size * self.smoothness + (self.coupling * step_size) ** 2
        return 2 * (gap + step_size * self.P * stale) / (step_size * T) + share * np.cumsum(noise) / T
