"""What an estimator of grad Phi is asked for, and what it returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from convergence.lower_solvers import LowerSolver
from convergence.needs import Need
from convergence.oracle import Calls, Features, Oracle
from convergence.status import Status
from problems import Parameters, Tasks


class Estimate(NamedTuple):
    """The direction d (shapes of phi), theta and v (..., B, q), a Status code of each task (..., B)."""

    direction: Parameters
    theta: Tensor
    v: Tensor
    failure: Tensor

    @classmethod
    def of_steps(cls, direction: Parameters, theta: Tensor) -> Estimate:
        """That of an estimator without v: zeros in its place, and NON_FINITE where theta is not finite."""
        theta = theta.detach()
        return cls(direction, theta, torch.zeros_like(theta), non_finite(theta))


class Estimator(Protocol):
    """An estimator of grad Phi(phi), which composes with any lower solver."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it needs of a problem."""

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d, from the start theta of the lower solver. z and theta hold the graph of what depends on phi.

        Raises ValueError on a lower solver that it cannot follow.
        """

    def calls(self, lower: LowerSolver) -> Calls:
        """Oracle calls a task, with those of the lower solver."""


def non_finite(theta: Tensor) -> Tensor:
    """NON_FINITE for each task whose theta holds a value that is not finite, else 0, (..., B)."""
    return torch.where(torch.isfinite(theta).all(-1), 0, Status.NON_FINITE).int()
