"""The lower level in closed form, and the derivative through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from convergence.arguments import positive
from convergence.hypergradients import non_finite
from convergence.method import Step, descend
from convergence.needs import LOWER_ARGMIN, Need
from convergence.oracle import Calls, Features, Oracle, per_task
from problems import Parameters, Tasks


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """d = d/dphi mean_i f_i(phi, theta_i*(phi)), theta_i* by the problem's `lower_argmin`, differentiated as written.

    upper_step_size  beta; None leaves the step to an optimiser

    Exact; where the objectives are stochastic, exact on one sample, whose theta* does not have that of the whole as its
    mean. Cost a task and iteration: one upper gradient; the closed form itself is not counted. Memory: one graph of
    the closed form. With class means as theta* it is ProtoNet (Snell, Swersky, Zemel, NeurIPS 2017), with ridge
    regression R2D2 (Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019).
    """

    upper_step_size: float | None = None

    needs: ClassVar[tuple[Need, ...]] = (LOWER_ARGMIN,)
    by_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.upper_step_size is not None:
            positive("upper_step_size", self.upper_step_size)

    def start(self, oracle: Oracle, phi: Parameters) -> None:
        """Nothing is carried over."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: None) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        z, tasks = oracle.draw(oracle.embed(phi, tasks, keep_graph=True), tasks)
        theta = oracle.lower_argmin(z, tasks)
        d = oracle.total_gradient(z, theta, tasks)
        theta = theta.detach()
        phi = descend(phi, d, self.upper_step_size)
        return Step(phi, None, d, theta, torch.zeros_like(theta), non_finite(theta))

    def adapt(self, oracle: Oracle, z: Features, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta_i*, (..., B, q)."""
        return oracle.lower_argmin(z, tasks)

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica."""
        return per_task(upper_gradient=batch)
