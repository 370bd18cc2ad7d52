"""What an oracle hands to methods: features of phi, a lower Hessian as a map, counts of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from problems import Parameters

Calls = dict[str, int]
CALLS = ("lower_gradient", "hvp", "cross_product", "upper_gradient")


def per_task(*, lower_gradient: int = 0, hvp: int = 0, cross_product: int = 0, upper_gradient: int = 0) -> Calls:
    """So many oracle calls of each kind.

    >>> per_task(hvp=3)
    {'lower_gradient': 0, 'hvp': 3, 'cross_product': 0, 'upper_gradient': 0}
    """
    return dict(zip(CALLS, (lower_gradient, hvp, cross_product, upper_gradient), strict=True))


class Features(NamedTuple):
    """What `Oracle.embed` returns: phi as leaves of a graph, the features with that graph, and without it.

    `graph` is None where the features are to be computed again for the last line; `pieces` are then what is joined.
    """

    phi: Parameters
    graph: Any
    value: Any
    pieces: tuple[Any, ...] = ()


@dataclass(frozen=True)
class LowerHessian:
    """The map v -> (d2g_i/dtheta2) v_i at some theta, one HVP a task and product.

    `inverse` maps b to (d2g_i/dtheta2)^-1 b_i where the problem has that closed form, and counts no product. `sampled`
    is `Oracle.sampled`, for solvers that draw random numbers.
    """

    product: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None
    sampled: Callable[[Callable[[torch.Generator], Tensor]], Tensor] | None = None

    def __call__(self, v: Tensor) -> Tensor:
        """(d2g_i/dtheta2) v_i, (..., B, q)."""
        return self.product(v)
