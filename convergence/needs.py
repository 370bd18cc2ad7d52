"""What a method needs of a problem, and the sentence that refuses a problem without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convergence.arguments import shown
from problems import Problem


@dataclass(frozen=True)
class Need:
    """`met(problem)` says whether it is there; `what` names it, `lack` says what a problem without it has.

    `short` names it in the table of methods.
    """

    what: str
    met: Callable[[Problem], bool]
    lack: str
    short: str


def require(method: Any, problem: Problem) -> None:
    """Raise ValueError where the problem lacks something that the method needs (`needs`, where it names any).

    Raises TypeError where these are no needs.
    """
    needs = getattr(method, "needs", ())
    if not isinstance(needs, tuple) or not all(isinstance(need, Need) for need in needs):
        raise TypeError(f"expected needs of {type(method).__name__} a tuple of Need, got {shown(needs)}")
    for need in needs:
        if not need.met(problem):
            raise ValueError(
                f"expected {need.what} for {type(method).__name__}, got {type(problem).__name__}, {need.lack}"
            )


def _start(problem: Problem) -> tuple[list[Tensor], Tensor]:
    """phi_0 as leaves of a graph, and theta_0 of one task."""
    phi = {name: x.detach().requires_grad_() for name, x in problem.phi0(torch.Generator().manual_seed(0)).items()}
    with torch.enable_grad():
        return list(phi.values()), problem.theta0(phi, problem.sample(1, torch.Generator().manual_seed(0)))


def _starts_from_phi(problem: Problem) -> bool:
    return _start(problem)[1].requires_grad


def _starts_at_phi(problem: Problem) -> bool:
    phi, theta = _start(problem)
    whole = torch.cat([tensor.detach().flatten() for tensor in phi])
    return theta.requires_grad and theta.numel() == whole.numel() and torch.equal(theta.detach().flatten(), whole)


def _has_some_beside_the_start(problem: Problem) -> bool:
    phi, theta = _start(problem)
    if not theta.requires_grad:
        return False
    slopes = torch.autograd.grad(theta.sum(), phi, allow_unused=True)
    return any(slope is None for slope in slopes)


TWICE_DIFFERENTIABLE = Need(
    "a lower level that is twice differentiable in theta",
    lambda problem: problem.twice_differentiable,
    "whose second derivatives do not tell how theta* moves",
    "d2g/dtheta2",
)
START_FROM_PHI = Need(
    "a start theta_0 that depends on phi",
    _starts_from_phi,
    "whose theta_0 is the same for all phi",
    "theta_0 from phi",
)
START_AT_PHI = Need(
    "phi to be the start theta_0 itself",
    _starts_at_phi,
    "whose theta_0 is another function of phi, or of none",
    "theta_0 = phi",
)
SHARED_PART = Need(
    "a start theta_0 that depends on some tensors of phi and not on others",
    _has_some_beside_the_start,
    "which has no such two parts",
    "theta_0 from a part of phi",
)
FINITE_SUM = Need(
    "lower and upper objectives that are finite sums cut into blocks (Minibatch)",
    lambda problem: problem.blocks is not None,
    "which has none",
    "finite sums",
)
POOL = Need(
    "a finite pool of tasks",
    lambda problem: problem.tasks is not None,
    "which draws tasks without end",
    "finite pool",
)
LOWER_ARGMIN = Need(
    "the closed form lower_argmin",
    lambda problem: problem.has("lower_argmin"),
    "which does not have it",
    "theta* in closed form",
)
