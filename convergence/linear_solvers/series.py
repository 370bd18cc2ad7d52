"""Series for v = H^-1 b in powers of I - eta H, which need products with H and no inner products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convergence.arguments import integer, positive
from convergence.linear_solvers.solution import LinearSolution
from convergence.status import Status


@dataclass(frozen=True)
class Richardson:
    """N steps v <- v - eta (H v - b) from the start given, or from zero: the fixed point of one gradient step.

    Error: v_N - H^-1 b = (I - eta H)^N (v_0 - H^-1 b), so it shrinks where eta < 2 / L. Cost: N HVPs a task from a
    given start, N - 1 from zero, whose first step is eta b. The residual reported is that of v_{N-1} (N = 0: of v = 0):
    that of v_N would cost one more product, and is smaller where eta < 2 / L. Rows that are not finite are NON_FINITE.
    Source: Grazzi, Franceschi, Pontil, Salzo, ICML 2020, AID-FP.

    >>> H = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    >>> Richardson(3, 1.0).solve(lambda v: H * v, torch.ones(1, 2, dtype=torch.float64)).v
    tensor([[1.0000, 1.7500]], dtype=torch.float64)
    """

    steps: int
    step_size: float

    def __post_init__(self) -> None:
        integer("Richardson steps", self.steps, least=0)
        positive("step_size", self.step_size)

    def products(self, *, warm: bool) -> int:
        """N from a given start, N - 1 from zero."""
        return self.steps if warm else max(self.steps - 1, 0)

    def solve(self, hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None) -> LinearSolution:
        """v_N from `start` (None: zero). Raises ValueError on shapes."""
        if start is not None and start.shape != b.shape:
            raise ValueError(f"expected v of shape {tuple(b.shape)}, got {tuple(start.shape)}")
        v, residual = torch.zeros_like(b) if start is None else start, b
        for step in range(self.steps):
            residual = b if start is None and step == 0 else b - hessian(v)
            v = torch.add(v, residual, alpha=self.step_size)
        return _solution(v, residual)


@dataclass(frozen=True)
class Neumann:
    """v_N = eta sum_{j=0}^{N} (I - eta H)^j b, by N products with H: p <- p - eta H p, v <- v + eta p, both from b.

    Error: v_N - H^-1 b = -(I - eta H)^(N+1) H^-1 b, that of N + 1 steps of `Richardson` from zero. A start is not
    looked at. Cost: N HVPs a task. The residual reported is |(I - eta H)^N b|, that of v_{N-1} (b where N = 0).

    Where each product sees a fresh H_j (`Implicit(fresh_products=True)`), term j is (I - eta H_j) ... (I - eta H_1) b:
    E v_N is the series of E H, and it is the estimator of stocBiO, whose samples Q, ..., 1 are here 1, ..., N = Q.
    `Richardson` has (I - eta H_N) ... (I - eta H_{N-j+1}) b in its place, another estimator with the same mean.

    Sources: Lorraine, Vicol, Duvenaud, AISTATS 2020; Ji, Yang, Liang, ICML 2021, v_Q of stocBiO.
    Differs: each product sees a sample of the same size (stocBiO: larger ones for the products that come first).

    >>> H = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    >>> Neumann(2, 1.0).solve(lambda v: H * v, torch.ones(1, 2, dtype=torch.float64)).v
    tensor([[1.0000, 1.7500]], dtype=torch.float64)
    """

    steps: int
    step_size: float

    def __post_init__(self) -> None:
        integer("Neumann steps", self.steps, least=0)
        positive("step_size", self.step_size)

    def products(self, *, warm: bool) -> int:
        """N."""
        return self.steps

    def solve(self, hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None) -> LinearSolution:
        """v_N. The start is not looked at."""
        term, total = b, b
        for _ in range(self.steps):
            term = torch.sub(term, hessian(term), alpha=self.step_size)
            total = total + term
        return _solution(self.step_size * total, term)


@dataclass(frozen=True)
class RandomNeumann:
    """v = eta Q prod_{j=1}^{p} (I - eta H_j) b with p uniform on 0, ..., Q - 1: one term of the series, times Q.

    E v = eta sum_{p=0}^{Q-1} (I - eta H)^p b = H^-1 (b - (I - eta H)^Q b) where each H_j is a fresh sample with mean
    H: that of `Neumann(Q - 1, eta)`, with a far larger variance, also where H is exact. Each task and replica draws its
    own p. Cost: Q - 1 HVPs a task whatever was drawn, as the rows of a batch share their products; a task alone would
    need (Q - 1) / 2 in the mean. A start is not looked at. The residual is not known: NaN.
    Source: Ghadimi, Wang 2018, the inverse Hessian of their stochastic algorithm BSA (there eta = 1 / L).

    Raises ValueError on a `hessian` that cannot draw random numbers (`LowerHessian.sampled`).
    """

    terms: int
    step_size: float

    def __post_init__(self) -> None:
        integer("terms", self.terms, least=1)
        positive("step_size", self.step_size)

    def products(self, *, warm: bool) -> int:
        """Q - 1."""
        return self.terms - 1

    def solve(self, hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None) -> LinearSolution:
        """v. The start is not looked at."""
        sampled = getattr(hessian, "sampled", None)
        if sampled is None:
            raise ValueError(
                f"expected a hessian that draws random numbers for RandomNeumann (LowerHessian), got {hessian!r}"
            )
        rows = b.shape[-2:-1]
        p = sampled(lambda rng: torch.randint(self.terms, rows, generator=rng)).to(b.device).unsqueeze(-1)
        v = b
        for j in range(self.terms - 1):
            v = torch.where(j < p, torch.sub(v, hessian(v), alpha=self.step_size), v)
        v = self.step_size * self.terms * v
        return _solution(v, torch.full_like(b, torch.nan))


def _solution(v: Tensor, residual: Tensor) -> LinearSolution:
    failure = torch.where(torch.isfinite(v).all(-1), 0, Status.NON_FINITE).int()
    return LinearSolution(v, torch.linalg.vector_norm(residual, dim=-1), failure)
