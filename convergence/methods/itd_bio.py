"""Iterative differentiation: the graph of the K lower steps is kept and differentiated."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from convergence.arguments import integer, positive
from convergence.hypergradients import FirstOrder, Unrolled
from convergence.lower_solvers import GradientDescent
from convergence.method import Step, descend
from convergence.oracle import Calls, Features, Oracle
from problems import Parameters, Tasks


@dataclass(frozen=True, kw_only=True)
class ITDBiO:
    """Unrolled meta-learning: K gradient steps on theta from theta0(phi), their derivative, a step on phi.

    lower_steps      K >= 0
    lower_step_size  alpha; None takes 2 / (L + mu) from the problem's constants
    upper_step_size  beta; None leaves the step to an optimiser
    first_order      drop the derivative of the steps themselves: `FirstOrder` (FOMAML where theta0 = phi)

    On all tasks it is gradient descent on Phi_K(phi) = mean_i f_i(phi, theta_{i,K}(phi)), hence ends at a minimiser of
    Phi_K, not of Phi (docs/theory.md S3b). The start is cold; where it depends on phi, as in MAML (theta0 = phi), that
    dependence counts. Cost a task and iteration: K lower gradients, K HVPs, K cross products, one upper gradient.
    Memory: a graph that grows with K. First order: K lower gradients and one upper gradient, no graph of the steps.
    Source: Franceschi et al., ICML 2017; Ji, Yang, Liang, ICML 2021, ITD-BiO (Algorithm 1, option ITD).
    Differs: no warm start, whose derivative with respect to phi would be dropped.
    """

    lower_steps: int
    lower_step_size: float | None = None
    upper_step_size: float | None = None
    first_order: bool = False

    def __post_init__(self) -> None:
        integer("lower_steps", self.lower_steps, least=0)
        for name in ("lower_step_size", "upper_step_size"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))

    def start(self, oracle: Oracle, phi: Parameters) -> None:
        """Nothing is carried over."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: None) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        lower = self.lower_solver(oracle)
        z = oracle.embed(phi, tasks, keep_graph=True)
        theta = oracle.theta0(z.phi, tasks, keep_graph=True)
        estimator = (FirstOrder if self.first_order else Unrolled)(lower.steps, lower.one_step_size)
        d, theta, v, failure = estimator.estimate(oracle, z, theta, tasks)
        return Step(descend(phi, d, self.upper_step_size), None, d, theta, v, failure)

    def adapt(self, oracle: Oracle, z: Features, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta_{i,K}(phi), (..., B, q), without a graph."""
        return self.lower_solver(oracle).solve(oracle, z, oracle.theta0(phi, tasks), tasks)

    def lower_solver(self, oracle: Oracle) -> GradientDescent:
        """K gradient steps of size alpha. Raises ValueError where alpha is neither given nor known."""
        return GradientDescent.of(oracle.problem, self.lower_steps, self.lower_step_size)

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica."""
        steps = batch * self.lower_steps
        products = 0 if self.first_order else steps
        return {"lower_gradient": steps, "hvp": products, "cross_product": products, "upper_gradient": batch}
