"""Planted errors: the paper's algorithm, each with one mistake. The controls of the claims run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from convergence import (
    ConjugateGradient,
    GradientDescent,
    Implicit,
    ITDBiO,
    LinearSolution,
    MemoryReduced,
    Oracle,
    State,
    Step,
    Unrolled,
)
from convergence.method import descend
from problems import Parameters, Tasks, map_parameters


class FirstOrder(MemoryReduced):
    """The cross term dropped: d = mean grad_phi f."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """One upper iteration without the cross term."""
        right = super().step(oracle, phi, tasks, state)
        z = oracle.embed(phi, tasks)
        d = oracle.hypergradient(z, right.theta, torch.zeros_like(right.v), tasks)
        return right._replace(phi=map_parameters(lambda x, dx: x - self.upper_step_size * dx, phi, d), direction=d)


class OldResidual(ConjugateGradient):
    """CG whose new direction is built from the residual before the step, as in a published package."""

    def solve(self, hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None) -> LinearSolution:
        """N steps of the wrong recurrence."""
        v = torch.zeros_like(b) if start is None else start
        r = b if start is None else b - hessian(v)
        p = r
        for _ in range(self.steps):
            Hp = hessian(p)
            rr = (r * r).sum(-1, keepdim=True)
            step = rr / (p * Hp).sum(-1, keepdim=True)
            v, old, r = v + step * p, r, r - step * Hp
            p = old + (r * r).sum(-1, keepdim=True) / rr * p
        return LinearSolution(v, r.norm(dim=-1), torch.zeros(b.shape[:-1], dtype=torch.int32, device=b.device))


class OldResidualDirection(MemoryReduced):
    """The paper's algorithm with `OldResidual` for CG."""

    @property
    def implicit(self) -> Implicit:
        """The hypergradient by the wrong CG."""
        return Implicit(OldResidual(self.cg_steps))


class OneLowerStepFewer(MemoryReduced):
    """K - 1 lower steps instead of K."""

    def lower_solver(self, oracle: Oracle) -> GradientDescent:
        """Gradient descent that stops early."""
        right = super().lower_solver(oracle)
        return replace(right, steps=max(right.steps - 1, 0))


class ColdStart(MemoryReduced):
    """theta and v cold in a method that is said to be warm."""

    def __init__(self, **hyperparameters: Any):
        super().__init__(**{**hyperparameters, "warm_start": False})


class ColdDirection(MemoryReduced):
    """v cold in a method that is said to be warm: exact only in the limit of many CG steps."""

    def __init__(self, **hyperparameters: Any):
        if hyperparameters.get("warm_start", True) is True:
            hyperparameters["warm_start"] = "theta"
        super().__init__(**hyperparameters)


@dataclass(frozen=True, kw_only=True)
class HiddenDecay(MemoryReduced):
    """A step size that decays as 1 / sqrt(1 + t / 10) in secret."""

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        """The state with a counter."""
        return 0, super().start(oracle, phi)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        """One upper iteration with the step of iteration t."""
        t, inner = state
        step = MemoryReduced.step(self, oracle, phi, tasks, inner)
        share = (1 + t / 10) ** -0.5
        decayed = map_parameters(lambda x, dx: x - share * self.upper_step_size * dx, phi, step.direction)
        return step._replace(phi=decayed, state=(t + 1, step.state))


@dataclass(frozen=True, kw_only=True)
class LongerStep(MemoryReduced):
    """An upper step half as long again as the one it is given, in secret."""

    share: ClassVar[float] = 1.5

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """One upper iteration with that share of beta."""
        step = MemoryReduced.step(self, oracle, phi, tasks, state)
        taken = map_parameters(lambda x, dx: x - self.share * self.upper_step_size * dx, phi, step.direction)
        return step._replace(phi=taken)


class ShorterStep(LongerStep):
    """Two thirds of the upper step it is given, in secret."""

    share = 2 / 3


class HalfBatch(MemoryReduced):
    """Only the first half of every batch is used."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """One upper iteration on half of the tasks."""
        half = (len(tasks) + 1) // 2
        first = {name: tensor.narrow(tasks.index.dim() - 1, 0, half) for name, tensor in tasks.tensors.items()}
        right = super().step(oracle, phi, Tasks(tasks.index[..., :half], **first), state)
        rows = torch.arange(len(tasks), device=tasks.index.device) % half  # as if every task had been seen
        theta, v = (x.index_select(-2, rows) for x in (right.theta, right.v))
        return right._replace(theta=theta, v=v, failure=right.failure.index_select(-1, rows))


class LastStepOnly(ITDBiO):
    """Unrolled differentiation that backpropagates through the last lower step alone."""

    @property
    def hypergradient(self) -> Unrolled:
        """Reverse mode through one step."""
        return Unrolled(last=1)


class LateLastLine(MemoryReduced):
    """grad_phi f and the cross product are evaluated at theta_{K-1} instead of theta_K, with the right v."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """One upper iteration whose backward pass is one lower step late."""
        right = super().step(oracle, phi, tasks, state)
        late = replace(self, lower_steps=max(self.lower_steps - 1, 0))
        theta = MemoryReduced.step(late, oracle, phi, tasks, state).theta
        d = oracle.hypergradient(oracle.embed(phi, tasks), theta, right.v, tasks)
        return right._replace(phi=map_parameters(lambda x, dx: x - self.upper_step_size * dx, phi, d), direction=d)


class KeptGraph(MemoryReduced):
    """Backpropagation through the K lower steps, passed off as memory-reduced."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """One upper iteration of unrolled differentiation."""
        z = oracle.embed(phi, tasks, keep_graph=True)
        theta, lower = oracle.theta0(phi, tasks), self.lower_solver(oracle)
        estimate = Unrolled().estimate(oracle, z, theta, tasks, lower=lower)
        new = descend(phi, estimate.direction, self.upper_step_size)
        return Step(new, state, estimate.direction, estimate.theta, estimate.v, estimate.failure)


class RepeatedBatch(MemoryReduced):
    """Every batch is used twice in a row: right in each iteration, correlated over time."""

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        """The state with a counter, and with the batch in use once there is one."""
        return 0, None, super().start(oracle, phi)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        """One upper iteration; on the batch of the iteration before where t is odd."""
        t, index, inner = state
        if t % 2:
            tasks = oracle.problem.select(index)
        step = super().step(oracle, phi, tasks, inner)
        return step._replace(state=(t + 1, tasks.index, step.state))


class Refreshed(MemoryReduced):
    """The warm rows of all tasks are brought up to date in every iteration, not only those of the batch."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """One upper iteration, and the lower level of all tasks."""
        everyone = super().step(oracle, phi, oracle.pool, state)
        return super().step(oracle, phi, tasks, state)._replace(state=everyone.state)
