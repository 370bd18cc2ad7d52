"""What a solver of H v = b is asked for, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class LinearSolution(NamedTuple):
    """v (..., B, q), and for each row (..., B) the norm of its residual (for N = 0 that of v = 0) and a Status code.

    A series reports the last residual that it met, NaN where it met none. The code is 0, BREAKDOWN or NON_FINITE.
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
