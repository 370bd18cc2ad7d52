"""Solvers of H v = b, one system a task, all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from convergence.arguments import integer
from convergence.status import Status


class LinearSolution(NamedTuple):
    """v (..., B, q), and for each row (..., B) the norm of its residual (for N = 0 that of v = 0) and a Status code.

    The code is 0, BREAKDOWN or NON_FINITE.
    """

    v: Tensor
    residual_norm: Tensor
    failure: Tensor


class LinearSolver(Protocol):
    """What `Implicit` asks of a linear solver."""

    def solve(self, hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None) -> LinearSolution:
        """v with H v = b, from `start` (None: zero)."""

    def products(self, *, warm: bool) -> int:
        """HVPs a task, with a start of v or without. Raises ValueError where they depend on the problem."""


@dataclass(frozen=True)
class ConjugateGradient:
    """N steps of the conjugate gradient method (Hestenes and Stiefel 1952), each row with its own coefficients.

    A row freezes, bit for bit, once |r| <= tolerance max(|b|, |r_0|) (tolerance None: the rounding unit of the
    dtype), and where p'Hp <= 0 (BREAKDOWN, at its last good iterate) or a value is not finite (NON_FINITE).
    No decision is taken on the host: there are N steps whatever the rows do (but for `enough` of `solve`).

    Error in the energy norm: |v_N - v*|_H <= chi_N |v_0 - v*|_H, see `Constants.cg_contraction`.
    Cost: N HVPs a task from v = 0, N + 1 from a given start (its residual), none for N = 0.

    >>> H = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]], dtype=torch.float64)
    >>> b = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> ConjugateGradient(2).solve(lambda v: (H @ v[..., None])[..., 0], b).v
    tensor([[ 0.6000, -0.2000]], dtype=torch.float64)
    """

    steps: int
    tolerance: float | None = None

    def __post_init__(self) -> None:
        integer("CG steps", self.steps, least=0)
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"expected a CG tolerance >= 0, got {self.tolerance}")

    def products(self, *, warm: bool) -> int:
        """N, and one more for the residual of a given start."""
        return self.steps + (1 if warm and self.steps > 0 else 0)

    def solve(
        self,
        hessian: Callable[[Tensor], Tensor],
        b: Tensor,
        start: Tensor | None = None,
        *,
        enough: Callable[[Tensor], bool] | None = None,
    ) -> LinearSolution:
        """v_N from `start` (None: zero). `hessian` maps (..., B, q) to (..., B, q). Raises ValueError on shapes.

        `enough` is asked before each step, given the residual norms (..., B), whether to stop there, which it also does
        once no row is active: the one decision that is taken on the host.
        """
        if start is not None and start.shape != b.shape:
            raise ValueError(f"expected v of shape {tuple(b.shape)}, got {tuple(start.shape)}")
        v = torch.zeros_like(b) if start is None else start.clone()
        r = b.clone() if start is None or self.steps == 0 else b - hessian(v)
        p = r.clone()
        rr, bb = _dot(r, r), _dot(b, b)
        limits = torch.finfo(b.dtype)
        tolerance = limits.eps if self.tolerance is None else self.tolerance
        # Below tiny / eps squares underflow, and p'Hp = 0 would look like a breakdown.
        threshold = (tolerance**2 * torch.maximum(rr, bb)).clamp(min=limits.tiny / limits.eps)
        active = rr > threshold
        for _ in range(self.steps):
            if enough is not None and (not bool(active.any()) or enough(rr.squeeze(-1).sqrt())):
                break
            rr, active = _advance(hessian, v, r, p, rr, active, threshold)

        # A row that neither converged nor is still active met p'Hp <= 0 or a value that is not finite.
        finite = torch.isfinite(rr)
        stuck = ~((rr <= threshold) & finite) & ~active
        failure = torch.where(finite, Status.BREAKDOWN, Status.NON_FINITE) * stuck
        return LinearSolution(v, rr.squeeze(-1).sqrt(), failure.squeeze(-1))


@dataclass(frozen=True)
class Direct:
    """v = H^-1 b: by the problem's closed form `lower_inverse_hvp` where it has one, else by Cholesky factors.

    Without the closed form H is assembled from q products with the unit vectors: q HVPs a task and q^2 numbers, for
    small q; with it, two HVPs a task. The start is not looked at. v = inverse(b) leaves a residual of up to
    kappa eps |b|, eps the rounding unit (a small ridge cancels in the closed form); one refinement step,
    v += inverse(b - H v), takes it to the rounding of the residual itself, about eps |H| |v|, where kappa eps < 1.

    A row is a BREAKDOWN where the H assembled is not positive definite (v = 0, unless b = 0) and where the solve
    is not accurate, |b - H v| > sqrt(eps) |b|: as |H| |v| <= kappa |b|, that takes a kappa of at least about
    1 / sqrt(eps) (3e3 in float32, 7e7 in float64). One that is not finite is NON_FINITE.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapter 12 (refinement in one precision).

    >>> H = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]], dtype=torch.float64)
    >>> Direct().solve(lambda v: (H @ v[..., None])[..., 0], torch.tensor([[1.0, 0.0]], dtype=torch.float64)).v
    tensor([[ 0.6000, -0.2000]], dtype=torch.float64)
    """

    def products(self, *, warm: bool) -> int:
        """Raises ValueError: two with the closed form, else as many as theta has entries."""
        raise ValueError(
            "expected a solver whose HVPs are known beforehand, got Direct: it takes two where the problem has "
            "lower_inverse_hvp, else one for each entry of theta"
        )

    def solve(self, hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None) -> LinearSolution:
        """v = H^-1 b, (..., B, q)."""
        inverse = getattr(hessian, "inverse", None)
        if inverse is None:
            hessian, inverse = _factorised(hessian, b)
        v = inverse(b)
        v = v + inverse(b - hessian(v))
        residual = torch.linalg.vector_norm(b - hessian(v), dim=-1)
        half_the_digits = torch.finfo(b.dtype).eps ** 0.5 * torch.linalg.vector_norm(b, dim=-1)
        failure = torch.where(residual > half_the_digits, Status.BREAKDOWN, 0)
        return LinearSolution(v, residual, torch.where(torch.isfinite(residual), failure, Status.NON_FINITE).int())


def _factorised(
    hessian: Callable[[Tensor], Tensor], b: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The assembled matrix as a map, and its inverse by Cholesky factors: zero where it is not positive definite."""
    units = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device)
    H = torch.stack([hessian(unit.expand_as(b)) for unit in units], -1)
    factor, info = torch.linalg.cholesky_ex(H)
    definite = (info == 0).unsqueeze(-1)
    factor = torch.where(definite.unsqueeze(-1), factor, units)  # so that the other rows can be solved

    def product(v: Tensor) -> Tensor:
        return (H @ v.unsqueeze(-1)).squeeze(-1)

    def inverse(r: Tensor) -> Tensor:
        return torch.cholesky_solve(r.unsqueeze(-1), factor).squeeze(-1) * definite

    return product, inverse


def _advance(
    hessian: Callable[[Tensor], Tensor], v: Tensor, r: Tensor, p: Tensor, rr: Tensor, active: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor]:
    """One CG step: v, r, p are overwritten (the peak memory does not depend on how many steps follow)."""
    Hp = hessian(p)
    pHp = _dot(p, Hp)
    active = active & (pHp > 0)
    step = torch.where(active, rr / pHp, 0.0)
    v.addcmul_(step, p)
    r.addcmul_(step, Hp, value=-1)
    rr_next = _dot(r, r)
    active = active & (rr_next > threshold)
    p.mul_(torch.where(active, rr_next / rr, 0.0)).add_(r)
    return rr_next, active


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i> of each row, (..., B, 1)."""
    return torch.linalg.vecdot(a, b).unsqueeze(-1)
