"""Wrong versions of the algorithm, each with one mistake: the battery must refute every one of them.

Those that the package itself plants in its controls are in `paper_checks.planted`. A mutant that errs in the
sampling replaces the batch before the step.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from convergence import ConjugateGradient, Estimate, GradientDescent, Implicit, MemoryReduced, Oracle, State, Step
from convergence.pool_rows import rows, with_rows
from problems import Parameters, Tasks, map_parameters


def moved(method: MemoryReduced, phi: Parameters, right: Step, d: Parameters) -> Step:
    """The right step with this direction instead of its own."""
    new = map_parameters(lambda x, dx: x - method.upper_step_size * dx, phi, d)
    return right._replace(phi=new, direction=d)


# ---- the direction


class WrongSign(MemoryReduced):
    """grad_phi f + (d2g/dphi dtheta) v."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right = super().step(oracle, phi, tasks, state)
        z = oracle.embed(phi, tasks)
        return moved(self, phi, right, oracle.hypergradient(z, right.theta, -right.v, tasks))


class SumOfTasks(MemoryReduced):
    """The sum over the batch instead of its mean."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right = super().step(oracle, phi, tasks, state)
        return moved(self, phi, right, map_parameters(lambda dx: len(tasks) * dx, right.direction))


class StaleV(MemoryReduced):
    """d is built from the v of the iteration before; the v of this one is stored for the next."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        right = super().step(oracle, phi, tasks, state)
        stale = rows(state.v, tasks, oracle)
        if stale is None:
            return right
        return moved(self, phi, right, oracle.hypergradient(oracle.embed(phi, tasks), right.theta, stale, tasks))


class CrossDerivativeAtTheOrigin(MemoryReduced):
    """grad_phi f and the cross product are evaluated at theta = 0 instead of theta_K."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right = super().step(oracle, phi, tasks, state)
        zero = torch.zeros_like(right.theta)
        return moved(self, phi, right, oracle.hypergradient(oracle.embed(phi, tasks), zero, right.v, tasks))


def of_the_first(oracle: Oracle, phi: Parameters, tasks: Tasks, right: Step, count: int) -> Parameters:
    """The direction of the first so many tasks of the batch alone."""
    axis = tasks.index.dim() - 1
    tensors = {name: tensor.narrow(axis, 0, count) for name, tensor in tasks.tensors.items()}
    first = Tasks(tasks.index[..., :count], **tensors)
    return oracle.hypergradient(oracle.embed(phi, first), right.theta[..., :count, :], right.v[..., :count, :], first)


class UnevenWeights(MemoryReduced):
    """The first task of the batch weighs a thousandth more than the others: unbiased, for batches in random order."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right = super().step(oracle, phi, tasks, state)
        extra = of_the_first(oracle, phi, tasks, right, 1)
        return moved(self, phi, right, map_parameters(lambda d, e: d + 1e-3 * (e - d), right.direction, extra))


class BigBatchSkips(MemoryReduced):
    """The last task is left out of d in batches of more than eight."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right = super().step(oracle, phi, tasks, state)
        if len(tasks) <= 8:
            return right
        return moved(self, phi, right, of_the_first(oracle, phi, tasks, right, len(tasks) - 1))


class Momentum(MemoryReduced):
    """A thousandth of the last direction is added to this one."""

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        return map_parameters(torch.zeros_like, phi), super().start(oracle, phi)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        last, inner = state
        right = super().step(oracle, phi, tasks, inner)
        d = map_parameters(lambda dx, before: dx + 1e-3 * before, right.direction, last)
        return moved(self, phi, right, d)._replace(state=(right.direction, right.state))


class TiredStep(MemoryReduced):
    """beta is a thousandth shorter from iteration 500 on."""

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        return 0, super().start(oracle, phi)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        t, inner = state
        right = super().step(oracle, phi, tasks, inner)
        share = 1.0 if t < 500 else 0.999
        shorter = map_parameters(lambda x, dx: x - share * self.upper_step_size * dx, phi, right.direction)
        return right._replace(phi=shorter, state=(t + 1, right.state))


class FirstTensorOnly(MemoryReduced):
    """Where phi has several tensors, only the first of them moves."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right = super().step(oracle, phi, tasks, state)
        first, *_ = phi
        d = {name: dx if name == first else torch.zeros_like(dx) for name, dx in right.direction.items()}
        return moved(self, phi, right, d)


# ---- the lower level


class StepOfTheSmoothness(MemoryReduced):
    """alpha = 1 / L where 2 / (L + mu) is asked for."""

    def lower_solver(self, oracle: Oracle) -> GradientDescent:
        right = super().lower_solver(oracle)
        if self.lower_step_size is not None:
            return right
        return replace(right, step_size=1 / oracle.problem.constants.L)


class MoreStepsWithoutClosedForms(MemoryReduced):
    """K + 2 lower steps where K > 3 and the problem has no closed form of a lower gradient."""

    def lower_solver(self, oracle: Oracle) -> GradientDescent:
        right = super().lower_solver(oracle)
        if right.steps <= 3 or oracle.problem.has("lower_gradient"):
            return right
        return replace(right, steps=right.steps + 2)


class UncountedStep(MemoryReduced):
    """A lower gradient by an oracle of its own, which keeps its counts to itself; the iterates are right."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right, own = super().step(oracle, phi, tasks, state), Oracle(oracle.problem, replicas=oracle.replicas)
        own.lower_gradient(own.embed(phi, tasks), right.theta, tasks)
        return right


class RepeatedTaskTakesTwice(MemoryReduced):
    """A task that is drawn twice takes 2 K lower steps: wrong with replacement only."""

    def lower_solver(self, oracle: Oracle) -> GradientDescent:
        right = super().lower_solver(oracle)
        return _Twice(right.steps, right.step_size)


class _Twice(GradientDescent):
    def solve(self, oracle: Oracle, z: Any, theta: Tensor, tasks: Tasks, **options: Any) -> Tensor:
        once = super().solve(oracle, z, theta, tasks, **options)
        twice = super().solve(oracle, z, once, tasks, **options)
        drawn = (tasks.index.unsqueeze(-1) == tasks.index.unsqueeze(-2)).sum(-1, keepdim=True)
        return torch.where(drawn > 1, twice, once)


# ---- the linear system


class OneCGStepFewer(MemoryReduced):
    """N - 1 CG steps instead of N."""

    @property
    def implicit(self) -> Implicit:
        return Implicit(ConjugateGradient(max(self.cg_steps - 1, 0)))


class LooseCG(MemoryReduced):
    """CG that stops at a relative residual of 1e-6."""

    @property
    def implicit(self) -> Implicit:
        return Implicit(ConjugateGradient(self.cg_steps, tolerance=1e-6))


class NoProxInCG(MemoryReduced):
    """The proximal term is forgotten in the matrix of CG, where the problem has one."""

    @property
    def implicit(self) -> Implicit:
        return _WithoutProx(ConjugateGradient(self.cg_steps))


class _WithoutProx(Implicit):
    def at(self, oracle: Oracle, z: Any, theta: Tensor, tasks: Tasks, *, start: Tensor | None = None) -> Estimate:
        prox, hessian = getattr(oracle.problem, "prox", 0.0), oracle.lower_hessian(z, theta, tasks)
        b = oracle.upper_gradient(z, theta, tasks)
        v, _, failure = self.linear_solver.solve(lambda x: hessian(x) - prox * x, b, start)
        return Estimate(oracle.hypergradient(z, theta, v, tasks), theta, v, failure)


class LateHessian(MemoryReduced):
    """Hessian-vector products at theta_{K-1}: right wherever the Hessian does not depend on theta."""

    late_hessian, late_gradient = True, False

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        right, z = super().step(oracle, phi, tasks, state), oracle.embed(phi, tasks)
        before = MemoryReduced.step(replace(self, lower_steps=max(self.lower_steps - 1, 0)), oracle, phi, tasks, state)
        at = {True: before.theta, False: right.theta}
        b = oracle.upper_gradient(z, at[self.late_gradient], tasks)
        hessian = oracle.lower_hessian(z, at[self.late_hessian], tasks)
        v, _, failure = ConjugateGradient(self.cg_steps).solve(hessian, b, rows(state.v, tasks, oracle))
        d = oracle.hypergradient(z, right.theta, v, tasks)
        stored = with_rows(state, State(right.theta, v), tasks, oracle)
        return moved(self, phi, right, d)._replace(v=v, state=stored, failure=failure)


class LateUpperGradient(LateHessian):
    """grad_theta f, the right-hand side of CG, at theta_{K-1}."""

    late_hessian, late_gradient = False, True


# ---- the warm start


class ColdPassedOffAsWarm(MemoryReduced):
    """theta and v start cold in every iteration."""

    def __init__(self, **hyperparameters: Any):
        if hyperparameters.get("warm_start", True) is True:
            hyperparameters["warm_start"] = False
        super().__init__(**hyperparameters)


class ForgetsV(MemoryReduced):
    """v is lost in every 50th iteration, and found again in the next ones."""

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        return 0, super().start(oracle, phi)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        t, inner = state
        if t % 50 == 49 and inner.v is not None:
            inner = inner._replace(v=torch.zeros_like(inner.v))
        step = super().step(oracle, phi, tasks, inner)
        return step._replace(state=(t + 1, step.state))


class ColdVWithoutClosedForms(MemoryReduced):
    """v starts cold from iteration 9 on, where the problem has no closed form of a lower gradient."""

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        return 0, super().start(oracle, phi)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        t, inner = state
        if t > 8 and inner.v is not None and not oracle.problem.has("lower_gradient"):
            inner = inner._replace(v=torch.zeros_like(inner.v))
        step = super().step(oracle, phi, tasks, inner)
        return step._replace(state=(t + 1, step.state))


class ColdThetaOnAllTasks(MemoryReduced):
    """warm_start="theta" starts theta cold where all tasks are in the batch."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        if self.warm_start == "theta" and tasks is oracle.pool:
            state = State(oracle.theta0(phi, tasks), None)
        return super().step(oracle, phi, tasks, state)


class SinglePrecisionV(MemoryReduced):
    """v is kept in single precision between iterations."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        right = super().step(oracle, phi, tasks, state)
        theta, v = right.state
        return right._replace(state=State(theta, None if v is None else v.float().to(v.dtype)))


class WrongRow(MemoryReduced):
    """Every batch stores its warm theta and v in the row of the next task."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        right = super().step(oracle, phi, tasks, state)
        return right._replace(state=State(*(rows if rows is None else rows.roll(1, -2) for rows in right.state)))


# ---- the batch


class Resampled(MemoryReduced):
    """The tasks of the batch are replaced by `drawn` before the step."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        raise NotImplementedError

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        index = self.drawn(tasks.index, len(oracle.pool))
        return super().step(oracle, phi, tasks if index is tasks.index else oracle.problem.select(index), state)


class FirstTaskAlwaysIn(Resampled):
    """Task 0 is in every batch."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        there = (index == 0).any(-1, keepdim=True)
        return torch.cat([torch.where(there, index[..., :1], 0), index[..., 1:]], -1)


class LastTaskNeverIn(Resampled):
    """The last task of the pool is never drawn: an index that stops one short."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        return index.clamp(max=pool - 2)


class WithReplacement(Resampled):
    """i.i.d. tasks whatever is asked for."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        rng = torch.Generator().manual_seed(zlib.crc32(index.numpy().tobytes()))
        return torch.randint(pool, index.shape, generator=rng)


class SameTasks(Resampled):
    """Always the first b tasks."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        return torch.arange(index.shape[-1]).expand(index.shape)


class TasksOfTheFirstReplica(Resampled):
    """All replicas see the tasks of the first: their runs are right, and not independent."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        return index[:1].expand(index.shape) if index.dim() > 1 else index


class PairsShareTasks(Resampled):
    """Replica 3 sees the tasks of replica 2, replica 5 those of 4, and so on; 0 and 1 are independent."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        if index.dim() == 1:
            return index
        replica = torch.arange(len(index))
        return index[torch.where(replica < 2, replica, replica // 2 * 2)]


class SameTasksWithoutReplicas(Resampled):
    """Always the first b tasks in a run without replicas; replicas are right."""

    def drawn(self, index: Tensor, pool: int) -> Tensor:
        return torch.arange(len(index)) if index.dim() == 1 and len(index) < pool else index
