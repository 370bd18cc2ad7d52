"""Iterative differentiation: the graph of the K lower steps is kept and differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from convergence.arguments import integer, positive
from convergence.hypergradients import Unrolled
from convergence.lower_solvers import GradientDescent
from convergence.method import Step
from convergence.oracle import Calls, Oracle
from problems import Parameters, Tasks, map_parameters


@dataclass(frozen=True, kw_only=True)
class ITDBiO:
    """Unrolled meta-learning: K gradient steps on theta from theta0(phi), their derivative, a step on phi.

    lower_steps      K >= 0
    lower_step_size  alpha; None takes 2 / (L + mu) from the problem's constants
    upper_step_size  beta

    On all tasks it is gradient descent on Phi_K(phi) = mean_i f_i(phi, theta_{i,K}(phi)), hence ends at a minimiser of
    Phi_K, not of Phi (docs/theory.md S3b). The start is cold; where it depends on phi, as in MAML (theta0 = phi), that
    dependence counts. Cost a task and iteration: K lower gradients, K HVPs, K cross products, one upper gradient.
    Memory: a graph that grows with K.
    Source: Franceschi et al., ICML 2017; Ji, Yang, Liang, ICML 2021, ITD-BiO (Algorithm 1, option ITD).
    Differs: no warm start, whose derivative with respect to phi would be dropped.
    """

    lower_steps: int
    lower_step_size: float | None = None
    upper_step_size: float

    def __post_init__(self) -> None:
        integer("lower_steps", self.lower_steps, least=0)
        positive("upper_step_size", self.upper_step_size)
        if self.lower_step_size is not None:
            positive("lower_step_size", self.lower_step_size)

    def start(self, oracle: Oracle, phi: Parameters) -> None:
        """Nothing is carried over."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: None) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        lower = GradientDescent.of(oracle.problem, self.lower_steps, self.lower_step_size)
        z = oracle.embed(phi, tasks, keep_graph=True)
        theta = oracle.theta0(z.phi, tasks, keep_graph=True)
        d, theta, v, failure = Unrolled(lower.steps, lower.step_size).estimate(oracle, z, theta, tasks)
        phi = map_parameters(lambda x, dx: torch.sub(x, dx, alpha=self.upper_step_size), phi, d)
        return Step(phi, None, d, theta, v, failure)

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica."""
        unrolled = batch * self.lower_steps
        return {"lower_gradient": unrolled, "hvp": unrolled, "cross_product": unrolled, "upper_gradient": batch}
