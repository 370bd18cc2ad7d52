"""Solvers of the lower level, argmin_theta g_i(phi, theta) for each task of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from convergence.arguments import integer, is_finite, positive, shown
from convergence.oracle import Features, Oracle
from problems import Problem, Tasks


@dataclass(frozen=True)
class Recursion:
    """m_{k+1} = gamma m_k + grad_theta g(phi, theta_k),  theta_{k+1} = theta_k - alpha m_{k+1},  from m_0 = 0.

    The step that `GradientDescent` (gamma = 0) and `HeavyBall` repeat. It is linear in (theta, m, gradient), so that
    tangents of theta and m obey it too, with the tangent of the gradient.
    """

    step_size: float
    momentum: float = 0.0

    def step(self, theta: Tensor, m: Tensor | None, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """theta_{k+1} and m_{k+1} from theta_k, m_k (None: zero, or not needed) and the gradient at theta_k."""
        m = gradient if m is None else torch.add(gradient, m, alpha=self.momentum)
        return torch.sub(theta, m, alpha=self.step_size), m if self.momentum else None


class LowerSolver(Protocol):
    """K steps on the lower level of each task, which estimators follow or look at the end of."""

    @property
    def steps(self) -> int:
        """K."""

    @property
    def gradients(self) -> int:
        """Lower gradients a task."""

    @property
    def recursion(self) -> Recursion:
        """The step it repeats K times, for estimators that go through the steps. Raises ValueError where unknown."""

    def solve(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, keep_graph: bool = False) -> Tensor:
        """theta_K from theta, (..., B, q); with `keep_graph` as a differentiable function of phi."""

    def split(self, last: int) -> tuple[LowerSolver | None, LowerSolver]:
        """The steps before the last ones (None: there are none), and those. Raises ValueError where it cannot."""

    def known(self, problem: Problem) -> LowerSolver:
        """The same with every step size it leaves to the problem. Raises ValueError where that is not known."""


def known_step_size(problem: Problem, name: str, step_size: float | None) -> float:
    """The step size given, or 2 / (L + mu) of the problem's constants. Raises ValueError where neither is there."""
    if step_size is not None:
        return step_size
    if problem.constants is None:
        raise ValueError(
            f"expected {name} a number, got None with {type(problem).__name__}, "
            "which gives no constants mu, L to take 2 / (L + mu) from"
        )
    return problem.constants.lower_step_size


@dataclass(frozen=True)
class GradientDescent:
    """theta_{k+1} = theta_k - alpha grad_theta g(phi, theta_k), K steps; each forgets its graph, unless it is kept.

    step_size   alpha; None: 2 / (L_i + mu_i) for each task, from the problem's `curvature` at the features

    Where g is stochastic each step sees a fresh sample. Cost: K lower gradients a task; memory independent of K.
    """

    steps: int
    step_size: float | None

    def __post_init__(self) -> None:
        integer("steps", self.steps, least=0)
        if self.step_size is not None:
            positive("step_size", self.step_size)

    @property
    def gradients(self) -> int:
        """K."""
        return self.steps

    @property
    def recursion(self) -> Recursion:
        """No momentum. Raises ValueError where each task has a step size of its own."""
        return Recursion(self.one_step_size)

    def split(self, last: int) -> tuple[GradientDescent | None, GradientDescent]:
        """The first K - last steps (None: there are none) and the last ones."""
        if last >= self.steps:
            return None, self
        return replace(self, steps=self.steps - last), replace(self, steps=last)

    def known(self, problem: Problem) -> GradientDescent:
        """With a step size of 2 / (L + mu) where it has none."""
        return self.of(problem, self.steps, self.step_size)

    @classmethod
    def of(
        cls, problem: Problem, steps: int, step_size: float | None, *, name: str = "lower_step_size"
    ) -> GradientDescent:
        """K steps of the size given; where it is None of 2 / (L + mu) by the problem's constants or its curvature.

        Raises ValueError where the size, which is called `name`, is neither given nor known.
        """
        if step_size is None and problem.has("curvature"):
            return cls(steps, None)
        return cls(steps, known_step_size(problem, name, step_size))

    def solve(
        self,
        oracle: Oracle,
        z: Features,
        theta: Tensor,
        tasks: Tasks,
        *,
        keep_graph: bool = False,
        enough: Callable[[Tensor], bool] | None = None,
    ) -> Tensor:
        """theta_K from theta, (..., B, q); with `keep_graph` as a differentiable function of phi.

        `enough` is asked after each step, given |grad_theta g_i| (..., B) from before it, whether to stop there.
        """
        own = None if self.step_size is not None or keep_graph else self.size(oracle, z, tasks)
        for k in range(self.steps):
            at, sample = oracle.draw(z, tasks)
            gradient = oracle.lower_gradient(at, theta, sample, keep_graph=keep_graph)
            if k > 0 and not keep_graph:  # in the memory that the first step took; what the caller gave stays as it is
                _ = theta.sub_(gradient, alpha=self.one_step_size) if own is None else theta.sub_(own * gradient)
            elif own is None:
                theta = torch.sub(theta, gradient, alpha=self.one_step_size)
            else:
                theta = theta - own * gradient
            if enough is not None and enough(gradient.norm(dim=-1)):
                break
        return theta

    @property
    def one_step_size(self) -> float:
        """alpha, where it is one number for all tasks. Raises ValueError where each task has its own."""
        if self.step_size is None:
            raise ValueError("expected lower_step_size a number, got None, which lets each task have its own")
        return self.step_size

    def size(self, oracle: Oracle, z: Features, tasks: Tasks) -> float | Tensor:
        """alpha: one number, or 2 / (L_i + mu_i) of each task, (..., B, 1)."""
        if self.step_size is not None:
            return self.step_size
        mu, L = oracle.curvature(z, tasks)
        return (2 / (L + mu)).unsqueeze(-1)


@dataclass(frozen=True)
class HeavyBall:
    """m_{k+1} = gamma m_k + grad_theta g(phi, theta_k),  theta_{k+1} = theta_k - alpha m_{k+1},  K steps from m_0 = 0.

    step_size   alpha < 2 (1 + gamma) / L; None: 2 / (L + mu) from the problem's constants
    momentum    0 < gamma < 1

    For gamma > 0 a step can be undone, which `Reversed` uses. Where g is stochastic each step sees a fresh sample.
    Cost: K lower gradients a task; memory independent of K, q numbers more than `GradientDescent`.
    Source: Polyak 1964.
    """

    steps: int
    step_size: float | None
    momentum: float

    def __post_init__(self) -> None:
        integer("steps", self.steps, least=0)
        if self.step_size is not None:
            positive("step_size", self.step_size)
        if not (is_finite(self.momentum) and 0 < self.momentum < 1):
            raise ValueError(f"expected a momentum between 0 and 1, got {shown(self.momentum)}")

    @property
    def gradients(self) -> int:
        """K."""
        return self.steps

    @property
    def recursion(self) -> Recursion:
        """With momentum. Raises ValueError where the step size is not known."""
        return Recursion(GradientDescent(self.steps, self.step_size).one_step_size, self.momentum)

    def split(self, last: int) -> tuple[None, HeavyBall]:
        """All steps. Raises ValueError on fewer: the last steps alone would lack the momentum of those before."""
        if last < self.steps:
            raise ValueError(
                f"expected all {self.steps} steps of HeavyBall to be followed, as each holds the momentum of those "
                f"before, got the last {last}"
            )
        return None, self

    def known(self, problem: Problem) -> HeavyBall:
        """With a step size of 2 / (L + mu) where it has none."""
        return replace(self, step_size=GradientDescent.of(problem, self.steps, self.step_size).step_size)

    def solve(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, keep_graph: bool = False) -> Tensor:
        """theta_K from theta, (..., B, q); with `keep_graph` as a differentiable function of phi."""
        recursion, m = self.recursion, None
        for _ in range(self.steps):
            at, sample = oracle.draw(z, tasks)
            theta, m = recursion.step(theta, m, oracle.lower_gradient(at, theta, sample, keep_graph=keep_graph))
        return theta
