"""Directions without second derivatives of g: of first-order MAML, of Reptile, and by differences of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from convergence.arguments import positive
from convergence.hypergradients.estimate import Estimate
from convergence.hypergradients.reverse import Iterate, pull_back, walk
from convergence.lower_solvers import LowerSolver
from convergence.needs import START_FROM_PHI, TWICE_DIFFERENTIABLE, Need
from convergence.oracle import Calls, Features, Oracle, per_task
from problems import Tasks


@dataclass(frozen=True)
class FirstOrder:
    """K lower steps without a graph; of theta_{i,K}(phi) only the dependence of the start on phi is kept.

    d = mean_i [ grad_phi f_i + (d theta_{i,0} / dphi)' grad_theta f_i ] at theta_{i,K}: second derivatives of g are
    dropped, and with them the change of the steps with phi, so d is biased. Cost a task: K lower gradients, one upper
    gradient. Memory independent of K. Where the start does not depend on phi, d is grad_phi f_i alone (ValueError where
    f does not see phi either); what keeps one product with d2g/dphi dtheta, T1-T2, is `Unrolled(last=1)`.
    Source: Finn, Abbeel, Levine, ICML 2017, section 5.2 (first-order MAML).
    """

    needs: ClassVar[tuple[Need, ...]] = ()

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d from the start theta, with the graph by which it depends on phi, if it does."""
        end = lower.solve(oracle, z, theta.detach(), tasks)
        z, tasks = oracle.draw(z, tasks)
        d = oracle.total_gradient(z, theta + (end - theta.detach()), tasks)
        return Estimate.of_steps(d, end)

    def calls(self, lower: LowerSolver) -> Calls:
        """K lower gradients, one upper gradient."""
        return per_task(lower_gradient=lower.gradients, upper_gradient=1)


@dataclass(frozen=True)
class Displacement:
    """How far the lower steps go from their start: d = mean_i (d theta_{i,0} / dphi)' (theta_{i,0} - theta_{i,K}).

    With theta_0 = phi and a step of beta it is Reptile's phi <- phi + beta mean_i (theta_{i,K} - phi). It looks at g
    alone, and is the gradient of no function in general; for quadratic g_i(theta) = 1/2 |theta - c_i|^2_A it is that of
    1/2 mean_i |phi - c_i|^2_(I - E_K). Cost a task: K lower gradients. Memory independent of K.
    Source: Nichol, Achiam, Schulman, 2018, Algorithm 2.
    """

    needs: ClassVar[tuple[Need, ...]] = (START_FROM_PHI,)

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d from the start theta, with the graph by which it depends on phi."""
        end = lower.solve(oracle, z, theta.detach(), tasks)
        d = oracle.start_gradient(z, theta, theta.detach() - end, tasks)
        return Estimate.of_steps(d, end)

    def calls(self, lower: LowerSolver) -> Calls:
        """K lower gradients."""
        return per_task(lower_gradient=lower.gradients)


@dataclass(frozen=True)
class HessianFree:
    """Reverse mode through K lower steps with differences of gradients of g in place of every product.

    radius   half the distance of the two points theta_k +- radius w / |w| at which gradients are taken for the product
             of w with d2g/dtheta2 and d2g/dphi dtheta

    d is that of `Unrolled()` up to an error of the order of radius^2, which is zero for quadratic g but for rounding
    (of the order of eps / radius, eps the rounding unit): radius about eps^(1/3) times the size of theta balances both.
    Where grad g jumps between the two points, as that of a network of ReLUs does at its kinks, so does d, by the jump
    over the radius.
    Every theta_k is kept, q numbers a step, without its graph. Cost a task: K lower gradients forwards and 2 K
    backwards, one upper gradient, no product.
    Source: Fallah, Mokhtari, Ozdaglar, AISTATS 2020, HF-MAML: there K = 1 and theta_0 = phi, where
    d = mean_i (I - alpha d2g_i/dtheta2) grad f_i. Differs: any K and any start; the points are `radius` away from
    theta_k whatever |w|, where the paper takes radius |w|.
    """

    radius: float
    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)

    def __post_init__(self) -> None:
        positive("radius", self.radius)

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d from the start theta, which is taken as it is: its dependence on phi counts."""
        recursion = lower.recursion
        samples = [oracle.draw(z, tasks) for _ in range(lower.steps)]
        (end, _), visits = walk(oracle, recursion, samples, Iterate(theta.detach(), None))
        adjoint = partial(oracle.finite_adjoint, radius=self.radius)
        d, _ = pull_back(
            oracle, oracle.draw(z, tasks), theta, end, reversed(visits), recursion=recursion, adjoint=adjoint
        )
        return Estimate.of_steps(d, end)

    def calls(self, lower: LowerSolver) -> Calls:
        """K + 2 K lower gradients, one upper gradient."""
        gradients = lower.gradients + 2 * lower.steps
        return per_task(lower_gradient=gradients, upper_gradient=1)
