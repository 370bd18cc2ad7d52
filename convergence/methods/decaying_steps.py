"""Step sizes that decay over the iterations, and what else methods share that have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from convergence.arguments import non_negative, positive
from convergence.hypergradients import non_finite
from convergence.lower_solvers import GradientDescent
from convergence.method import descend
from convergence.needs import POOL, TWICE_DIFFERENTIABLE, Need
from convergence.oracle import Features, Oracle
from problems import Parameters, Tasks


@dataclass(frozen=True, kw_only=True)
class DecayingSteps:
    """Step sizes that decay like powers of the iteration, for methods of stochastic approximation.

    lower_step_size   rho of theta; None takes 2 / (L + mu) from the problem's constants, or for each task from its
                      curvature
    lower_decay       a >= 0: iteration t = 0, 1, ... takes rho (t + 1)^-a
    upper_step_size   beta; None leaves the step to an optimiser
    upper_decay       a >= 0: iteration t takes beta (t + 1)^-a; has no effect on an optimiser

    Of a task that is drawn twice in one batch, with two samples, the first of the two updates is kept.
    """

    lower_step_size: float | None = None
    lower_decay: float = 0.0
    upper_step_size: float | None = None
    upper_decay: float = 0.0

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE, POOL)

    def __post_init__(self) -> None:
        positive_or_none(self, "lower_step_size", "upper_step_size")
        non_negative("lower_decay", self.lower_decay)
        non_negative("upper_decay", self.upper_decay)

    # ---- parts of a step

    def decayed(self, of: str, oracle: Oracle, z: Features, tasks: Tasks, iteration: int) -> float | Tensor:
        """The field `of`, or 2 / (L + mu), times (t + 1)^-lower_decay: one number or one for each task, (..., B, 1).

        Raises ValueError where it is neither given nor known.
        """
        constant = GradientDescent.of(oracle.problem, 1, getattr(self, of), name=of).size(oracle, z, tasks)
        return constant * decay(iteration, self.lower_decay)

    def lower_size(self, oracle: Oracle, z: Features, tasks: Tasks, iteration: int) -> float | Tensor:
        """rho_t."""
        return self.decayed("lower_step_size", oracle, z, tasks, iteration)

    def descended(self, phi: Parameters, direction: Parameters, iteration: int) -> Parameters:
        """phi - beta_t d, or phi as it is where an optimiser takes the step."""
        beta = self.upper_step_size
        return descend(phi, direction, None if beta is None else beta * decay(iteration, self.upper_decay))


def failures(theta: Tensor, v: Tensor) -> Tensor:
    """NON_FINITE for each task whose theta or v holds a value that is not finite, else 0, (..., B)."""
    return torch.maximum(non_finite(theta), non_finite(v))


def decay(iteration: int, exponent: float) -> float:
    """(t + 1)^-exponent."""
    return float((iteration + 1) ** -exponent)


def positive_or_none(method: object, *names: str) -> None:
    """Raise ValueError unless each of these fields is None or a finite number > 0."""
    for name in names:
        if (value := getattr(method, name)) is not None:
            positive(name, value)
