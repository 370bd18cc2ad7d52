"""Dense solves, for small q and for problems that know the inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convergence.linear_solvers.solution import LinearSolution
from convergence.status import Status


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
