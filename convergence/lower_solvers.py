"""Solvers of the lower level, argmin_theta g_i(phi, theta) for each task of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convergence.arguments import integer, positive
from convergence.oracle import Features, Oracle
from problems import Tasks


@dataclass(frozen=True)
class GradientDescent:
    """theta_{k+1} = theta_k - alpha grad_theta g(phi, theta_k), K steps; each forgets its graph.

    Cost: K lower gradients a task; memory independent of K.
    """

    steps: int
    step_size: float

    def __post_init__(self) -> None:
        integer("steps", self.steps, least=0)
        positive("step_size", self.step_size)

    def solve(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks) -> Tensor:
        """theta_K from theta, (..., B, q)."""
        for _ in range(self.steps):
            theta = torch.sub(theta, oracle.lower_gradient(z, theta, tasks), alpha=self.step_size)
        return theta
