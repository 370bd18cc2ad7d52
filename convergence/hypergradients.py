"""Estimators of grad Phi(phi) at the lower iterate reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from convergence.arguments import integer, positive
from convergence.linear_solvers import LinearSolver
from convergence.lower_solvers import GradientDescent
from convergence.oracle import Features, Oracle
from convergence.status import Status
from problems import Parameters, Tasks


class Estimate(NamedTuple):
    """The direction d (shapes of phi), theta and v (..., B, q), a Status code of each task (..., B)."""

    direction: Parameters
    theta: Tensor
    v: Tensor
    failure: Tensor


@dataclass(frozen=True)
class Implicit:
    """Implicit: d = mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ],  (d2g_i/dtheta2) v_i = grad_theta f_i.

    Holds no graph of the lower steps. Cost a task: one upper gradient, the products of the linear solver, one
    cross product. Error: docs/theory.md S1, Lemma 1 and Theorem 1.
    Source: Yang, Ma, Yu 2025, Algorithm 1; Pedregosa 2016; Grazzi et al. 2020.
    """

    linear_solver: LinearSolver

    def estimate(
        self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, start: Tensor | None = None
    ) -> Estimate:
        """d at (phi, theta), with v from `start` (None: zero)."""
        b = oracle.upper_gradient(z, theta, tasks)  # grad_theta f_i
        v, _, failure = self.linear_solver.solve(oracle.lower_hessian(z, theta, tasks), b, start)
        d = oracle.hypergradient(z, theta, v, tasks)  # ONE backward pass of mean_i [ f_i - <grad_theta g_i, v_i> ]
        return Estimate(d, theta, v, failure)


@dataclass(frozen=True)
class _Steps:
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        integer("steps", self.steps, least=0)
        positive("step_size", self.step_size)


@dataclass(frozen=True)
class Unrolled(_Steps):
    """Reverse mode through K gradient steps: d = d/dphi mean_i f_i(phi, theta_{i,K}(phi)). Memory grows with K.

    What MAML, ANIL and ITD-BiO do. Cost a task: K lower gradients, and backwards K HVPs and K cross products.
    Source: Franceschi et al. 2017; Ji, Yang, Liang 2021 (ITD-BiO).
    """

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks) -> Estimate:
        """d of the K-step objective from the start theta, which is taken as it is: its dependence on phi counts."""
        for _ in range(self.steps):
            theta = theta - self.step_size * oracle.lower_gradient(z, theta, tasks, keep_graph=True)
        d = oracle.total_gradient(z, theta, tasks)
        for name in ("hvp", "cross_product"):
            oracle.calls[name] += self.steps * len(tasks)
        theta = theta.detach()
        return Estimate(d, theta, torch.zeros_like(theta), non_finite(theta))


@dataclass(frozen=True)
class FirstOrder(_Steps):
    """K gradient steps without a graph; of theta_{i,K}(phi) only the dependence of the start on phi is kept.

    d = mean_i [ grad_phi f_i + (d theta_{i,0} / dphi)' grad_theta f_i ] at theta_{i,K}: second derivatives of g are
    dropped, and with them the change of the steps with phi, so d is biased. Cost a task: K lower gradients, one upper
    gradient. Memory independent of K. Source: Finn, Abbeel, Levine, ICML 2017, section 5.2 (first-order MAML).
    """

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks) -> Estimate:
        """d from the start theta, with the graph by which it depends on phi, if it does."""
        start = theta.detach()
        end = GradientDescent(self.steps, self.step_size).solve(oracle, z, start, tasks)
        theta = theta + (end - start)
        d = oracle.total_gradient(z, theta, tasks)
        return Estimate(d, end, torch.zeros_like(end), non_finite(end))


def non_finite(theta: Tensor) -> Tensor:
    """NON_FINITE for each task whose theta holds a value that is not finite, else 0, (..., B)."""
    return torch.where(torch.isfinite(theta).all(-1), 0, Status.NON_FINITE).int()
