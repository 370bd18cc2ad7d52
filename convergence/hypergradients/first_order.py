"""Directions without second derivatives of g: of first-order MAML and of Reptile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from convergence.hypergradients.estimate import Estimate, non_finite
from convergence.lower_solvers import LowerSolver
from convergence.needs import START_FROM_PHI, Need
from convergence.oracle import Calls, Features, Oracle
from problems import Tasks


@dataclass(frozen=True)
class FirstOrder:
    """K lower steps without a graph; of theta_{i,K}(phi) only the dependence of the start on phi is kept.

    d = mean_i [ grad_phi f_i + (d theta_{i,0} / dphi)' grad_theta f_i ] at theta_{i,K}: second derivatives of g are
    dropped, and with them the change of the steps with phi, so d is biased. Cost a task: K lower gradients, one upper
    gradient. Memory independent of K. Source: Finn, Abbeel, Levine, ICML 2017, section 5.2 (first-order MAML); for a
    start that does not depend on phi it is the estimate T1-T2 with T2 = 0 of Luketina et al., ICML 2016.
    """

    needs: ClassVar[tuple[Need, ...]] = ()

    def estimate(
        self,
        oracle: Oracle,
        z: Features,
        theta: Tensor,
        tasks: Tasks,
        *,
        lower: LowerSolver,
        start: Tensor | None = None,
    ) -> Estimate:
        """d from the start theta, with the graph by which it depends on phi, if it does."""
        end = lower.solve(oracle, z, theta.detach(), tasks)
        z, tasks = oracle.draw(z, tasks)
        d = oracle.total_gradient(z, theta + (end - theta.detach()), tasks)
        return Estimate(d, end, torch.zeros_like(end), non_finite(end))

    def calls(self, lower: LowerSolver, *, warm: bool = False) -> Calls:
        """K lower gradients, one upper gradient."""
        return {"lower_gradient": lower.gradients, "hvp": 0, "cross_product": 0, "upper_gradient": 1}


@dataclass(frozen=True)
class Displacement:
    """How far the lower steps go from their start: d = mean_i (d theta_{i,0} / dphi)' (theta_{i,0} - theta_{i,K}).

    With theta_0 = phi and a step of beta it is Reptile's phi <- phi + beta mean_i (theta_{i,K} - phi). It looks at g
    alone, and is the gradient of no function in general; for quadratic g_i(theta) = 1/2 |theta - c_i|^2_A it is that of
    1/2 mean_i |phi - c_i|^2_(I - E_K). Cost a task: K lower gradients. Memory independent of K.
    Source: Nichol, Achiam, Schulman, 2018, Algorithm 2.
    """

    needs: ClassVar[tuple[Need, ...]] = (START_FROM_PHI,)

    def estimate(
        self,
        oracle: Oracle,
        z: Features,
        theta: Tensor,
        tasks: Tasks,
        *,
        lower: LowerSolver,
        start: Tensor | None = None,
    ) -> Estimate:
        """d from the start theta, with the graph by which it depends on phi."""
        end = lower.solve(oracle, z, theta.detach(), tasks)
        d = oracle.start_gradient(z, theta, theta.detach() - end, tasks)
        return Estimate(d, end, torch.zeros_like(end), non_finite(end))

    def calls(self, lower: LowerSolver, *, warm: bool = False) -> Calls:
        """K lower gradients."""
        return {"lower_gradient": lower.gradients, "hvp": 0, "cross_product": 0, "upper_gradient": 0}
