"""What a claim needs of a problem of one's own, and the sentence about one without it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from convergence.needs import POOL, TWICE_DIFFERENTIABLE, Need
from convergence.streams import generator
from paper_checks.own_problem.lower_level import DENSE
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, like, points
from problems import Problem


def lacking(name: str, problem: Problem, *needs: Need) -> str:
    """Why the problem is outside the claim of this name, by the first need that is not met; "" where all are."""
    for need in needs:
        if not need.met(problem):
            return f"expected {need.what} for {name}, got {type(problem).__name__}, {need.lack}"
    return ""


def size_of_theta(problem: Problem) -> int:
    """q."""
    some = SomeTasks.of(problem, 1)
    phi = some.phi0(torch.Generator())
    return some.theta0(phi, some.sample(None, torch.Generator())).shape[-1]


def _f_sees_theta(problem: Problem) -> bool:
    return any(bool(single.slope("upper", i, x, theta).any()) for single, i, x, theta in _tried(problem))


def _phi_reaches_lower(problem: Problem) -> bool:
    return any(bool(single.cross(i, x, theta, torch.ones_like(theta)).any()) for single, i, x, theta in _tried(problem))


def _tried(problem: Problem) -> Iterator[tuple[SingleTasks, int, Tensor, Tensor]]:
    """Two tasks at two phi, theta around theta_0."""
    some = SomeTasks.of(problem, 2).to(dtype=torch.float64)
    pool, rng = some.sample(None, torch.Generator()), generator(1, "noise")
    for phi in points(some, 0, 2):
        single, x = SingleTasks(some, pool, phi), vector(phi)
        for i, start in enumerate(single.theta0(x)):
            yield single, i, x, start + like(start, rng)


EXACT = Need(
    "exact objectives",
    lambda problem: not problem.has("draw"),
    "which draws samples of them",
    "exact objectives",
)
SMALL_THETA = Need(
    f"q <= {DENSE} (dense Hessians)",
    lambda problem: size_of_theta(problem) <= DENSE,
    "whose theta is larger",
    "dense Hessians",
)
F_SEES_THETA = Need(
    "an upper objective that depends on theta",
    _f_sees_theta,
    "whose grad_theta f is zero, and with it v*",
    "grad_theta f",
)
IMPLICIT = Need(
    "phi to reach the lower level",
    _phi_reaches_lower,
    "whose d2g/dphi dtheta is zero at every point tried: the implicit part of grad Phi is zero",
    "d2g/dphi dtheta",
)
SEVERAL = Need(
    "a finite pool of at least two tasks",
    lambda problem: problem.tasks is not None and problem.tasks > 1,
    "which has none",
    "several tasks",
)

__all__ = [
    "EXACT",
    "F_SEES_THETA",
    "IMPLICIT",
    "POOL",
    "SEVERAL",
    "SMALL_THETA",
    "TWICE_DIFFERENTIABLE",
    "lacking",
]
