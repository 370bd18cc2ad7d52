"""Implicit differentiation: one linear system a task, no graph of the lower steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from convergence.arguments import capable, truth
from convergence.hypergradients.estimate import Estimate
from convergence.linear_solvers import ConjugateGradient, Direct, LinearSolver
from convergence.lower_solvers import LowerSolver
from convergence.needs import TWICE_DIFFERENTIABLE, Need
from convergence.oracle import Calls, Features, Oracle, per_task
from problems import Tasks


@dataclass(frozen=True)
class Implicit:
    """Implicit: d = mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ],  (d2g_i/dtheta2) v_i = grad_theta f_i.

    fresh_products   where the objectives are stochastic: each product of the linear solver sees a sample of its own,
                     as its theory asks of a Neumann series. ValueError beside `ConjugateGradient` and `Direct`, whose
                     products must be of one matrix. Otherwise b, all products and d see one sample together; E d is
                     then off by the order of its variance: the mean of H^-1 is not the inverse of the mean of H

    Holds no graph of the lower steps. Cost a task: one upper gradient, the products of the linear solver, one
    cross product. Error: docs/theory.md S1, Lemma 1 and Theorem 1.
    Source: Yang, Ma, Yu 2025, Algorithm 1; Pedregosa 2016; Grazzi et al. 2020.
    """

    linear_solver: LinearSolver
    fresh_products: bool = False
    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)

    def __post_init__(self) -> None:
        capable("linear_solver", self.linear_solver, "solve", "products")
        truth("fresh_products", self.fresh_products)
        if self.fresh_products and isinstance(self.linear_solver, (ConjugateGradient, Direct)):
            raise ValueError(
                f"expected a series beside fresh_products, got {type(self.linear_solver).__name__}, "
                "whose products must be of one matrix"
            )

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d where the lower solver takes theta, with v from zero."""
        return self.at(oracle, z, lower.solve(oracle, z, theta.detach(), tasks), tasks)

    def at(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, start: Tensor | None = None) -> Estimate:
        """d at (phi, theta), with v from `start` (None: zero)."""
        at, sample = oracle.draw(z, tasks)
        # Products with samples of their own are drawn from the tasks as they are, not from a sample of them
        fresh = self.fresh_products
        hessian = oracle.fresh_hessian(z, theta, tasks) if fresh else oracle.lower_hessian(at, theta, sample)
        # b = grad_theta f_i, in no variable here: a solver that overwrites its vectors needs it only at its start
        v, _, failure = self.linear_solver.solve(hessian, oracle.upper_gradient(at, theta, sample), start)
        d = oracle.hypergradient(at, theta, v, sample)  # ONE backward pass of mean_i [ f_i - <grad_theta g_i, v_i> ]
        return Estimate(d, theta, v, failure)

    def calls(self, lower: LowerSolver) -> Calls:
        """K lower gradients, the products of the linear solver, one cross product, one upper gradient."""
        products = self.linear_solver.products(warm=False)
        return per_task(lower_gradient=lower.gradients, hvp=products, cross_product=1, upper_gradient=1)
