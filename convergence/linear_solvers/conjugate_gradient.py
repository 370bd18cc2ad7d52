"""Conjugate gradients, one system a task, all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convergence.arguments import integer, non_negative
from convergence.linear_solvers.solution import LinearSolution
from convergence.status import Status

_WIDE, _MANY = 2**13, 64  # entries of a row, and rows


@dataclass(frozen=True)
class ConjugateGradient:
    """N steps of the conjugate gradient method (Hestenes and Stiefel 1952), each row with its own coefficients.

    A row freezes, bit for bit, once |r| <= tolerance max(|b|, |r_0|) (tolerance None: the rounding unit of the
    dtype), and where p'Hp <= 0 (BREAKDOWN, at its last good iterate); where a value is not finite (NON_FINITE) v means
    nothing.
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
        if self.tolerance is not None:
            non_negative("CG tolerance", self.tolerance)

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
        del b  # its memory is free before the first product, where the caller keeps none of it
        limits = torch.finfo(r.dtype)
        tolerance = limits.eps if self.tolerance is None else self.tolerance
        # Below tiny / eps squares underflow, and p'Hp = 0 would look like a breakdown.
        threshold = (tolerance**2 * torch.maximum(rr, bb)).clamp(min=limits.tiny / limits.eps)
        active, zero = rr > threshold, rr.new_zeros(())
        for _ in range(self.steps):
            if enough is not None and (not bool(active.any()) or enough(rr.squeeze(-1).sqrt())):
                break
            rr, active = _advance(hessian, v, r, p, rr, active, threshold, zero)

        # A row that neither converged nor is still active met p'Hp <= 0 or a value that is not finite.
        finite = torch.isfinite(rr)
        stuck = ~((rr <= threshold) & finite) & ~active
        failure = torch.where(finite, Status.BREAKDOWN, Status.NON_FINITE) * stuck
        return LinearSolution(v, rr.squeeze(-1).sqrt(), failure.squeeze(-1))


def _advance(
    hessian: Callable[[Tensor], Tensor],
    v: Tensor,
    r: Tensor,
    p: Tensor,
    rr: Tensor,
    active: Tensor,
    threshold: Tensor,
    zero: Tensor,
) -> tuple[Tensor, Tensor]:
    """One CG step: v, r, p are overwritten (the peak memory does not depend on how many steps follow)."""
    Hp = hessian(p)
    pHp = _dot(p, Hp)
    active = active & (pHp > 0)
    step = torch.where(active, rr / pHp, zero)
    v.addcmul_(step, p)
    r.addcmul_(step, Hp, value=-1)
    rr_next = _dot(r, r)
    active = active & (rr_next > threshold)
    torch.addcmul(r, torch.where(active, rr_next / rr, zero), p, out=p)
    return rr_next, active


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i> of each row, (..., B, 1).

    Few wide rows one by one, in half the time of multiply and sum and without the memory of their products.
    """
    q = a.shape[-1]
    if q < _WIDE or a.numel() > _MANY * q:
        return (a * b).sum(-1, keepdim=True)
    rows = zip(a.reshape(-1, q), b.reshape(-1, q), strict=True)
    return torch.stack([torch.dot(*row) for row in rows]).view(*a.shape[:-1], 1)
