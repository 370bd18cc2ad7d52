"""The paper's algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from convergence.adaptive import Certified
from convergence.arguments import capable, integer, positive, shown, truth
from convergence.declared import Declared
from convergence.hypergradients import Implicit
from convergence.linear_solvers import ConjugateGradient, LinearSolver
from convergence.lower_solvers import GradientDescent
from convergence.method import Step, descend
from convergence.needs import TWICE_DIFFERENTIABLE, Need
from convergence.oracle import Calls, Features, Oracle, per_task
from convergence.pool_rows import require_pool, rows, with_rows
from problems import Parameters, Tasks


class State(NamedTuple):
    """What is carried over: the last theta_i and v_i of every task of the pool, (..., M, q); None where cold."""

    theta: Tensor | None
    v: Tensor | None


@dataclass(frozen=True, kw_only=True)
class MemoryReduced:
    """Memory-reduced meta-learning: K gradient steps on theta, N CG steps on v, one backward pass, a step on phi.

    lower_steps      K >= 0
    lower_step_size  alpha; None takes 2 / (L + mu) from the problem's constants, or for each task from its curvature
    cg_steps         N >= 0; None where another linear_solver is given
    upper_step_size  beta; None leaves the step to an optimiser (`run(optimizer=)`, training)
    warm_start       True: theta AND v of each task start where they were left; False: at theta0 and 0;
                     "theta": only theta is warm (then N < q leaves an error floor, docs/theory.md S3c)
    accuracy         None: K and N as given. A number: they are upper limits, and each iteration takes as few steps as
                     certify |d - grad Phi_B| <= accuracy |d| (docs/theory.md S1; not with replicas, nor with
                     stochastic objectives). The probe certified_direction_error tells where the limits did not let it.
                     Not in the paper
    recompute        compute the features without a graph, and again, part by part, for the last line: half the memory
                     of a network for one more forward pass
    linear_solver    instead of N CG steps that freeze at rounding: `Direct()`, or `ConjugateGradient` with a tolerance

    Cost a task and iteration: K lower gradients, N HVPs (N + 1 if v is warm and N > 0), one cross product, one
    upper gradient. Memory: no graph of the K steps; a warm start keeps 2 M q numbers. The theorems ask for more
    than beta < 1 / L_Phi: docs/theory.md, Theorem 2 and Proposition 2c.
    Source: Yang, Ma, Yu, AAAI 2025, Algorithm 1. Differs: v may be warm, which exact convergence needs.
    """

    lower_steps: int
    lower_step_size: float | None = None
    cg_steps: int | None = None
    upper_step_size: float | None = None
    warm_start: bool | Literal["theta"] = True
    accuracy: float | None = None
    linear_solver: LinearSolver | None = None
    recompute: bool = False

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)
    declared: ClassVar[Declared] = Declared(
        title="memory-reduced",
        estimates="exact",
        warm=True,
        bias="varrho^K and chi_N from a cold start (docs/theory.md S1); none in the limit of a warm one",
        memory="flat",
        exact=True,
        rate=1.0,
        source="Yang, Ma, Yu, AAAI 2025",
    )

    def __post_init__(self) -> None:
        integer("lower_steps", self.lower_steps, least=0)
        for name in ("lower_step_size", "upper_step_size", "accuracy"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.linear_solver is None:
            integer("cg_steps", self.cg_steps, least=0)
        elif self.cg_steps is not None or self.accuracy is not None:
            raise ValueError(
                "expected cg_steps=None and accuracy=None beside a linear_solver, "
                f"got {self.cg_steps} and {self.accuracy}"
            )
        else:
            capable("linear_solver", self.linear_solver, "solve", "products")
        if not (
            isinstance(self.warm_start, bool) or (isinstance(self.warm_start, str) and self.warm_start == "theta")
        ):  # 1 == True is not meant
            raise ValueError(f'expected warm_start True, False or "theta", got {shown(self.warm_start)}')
        truth("recompute", self.recompute)

    # ---- one upper iteration

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        # Features once; their graph is kept for the last line of `implicit` alone.
        z = oracle.embed(phi, tasks, recompute=self.recompute)
        theta, v = rows(state, tasks, oracle)  # theta0, or where each task's iterate was left
        if theta is None:
            theta = oracle.theta0(phi, tasks)
        if self.accuracy is None:
            theta = self.lower_solver(oracle).solve(oracle, z, theta, tasks)  # K gradient steps
            estimate = self.implicit.at(oracle, z, theta, tasks, start=v)  # N CG steps, one backward pass
        else:
            estimate = self.certified(oracle, self.accuracy).estimate(oracle, z, theta, tasks, start=v)
        d, theta, v, failure = estimate
        phi = descend(phi, d, self.upper_step_size)
        return Step(phi, with_rows(state, State(theta, v), tasks, oracle), d, theta, v, failure)

    # ---- its parts

    def lower_solver(self, oracle: Oracle) -> GradientDescent:
        """K gradient steps of size alpha. Raises ValueError where alpha is neither given nor known."""
        return GradientDescent.of(oracle.problem, self.lower_steps, self.lower_step_size)

    def adapt(self, oracle: Oracle, z: Features, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta after K steps from theta0, (..., B, q): what new tasks are judged by."""
        return self.lower_solver(oracle).solve(oracle, z, oracle.theta0(phi, tasks), tasks)

    @property
    def by_task(self) -> bool:
        """Whether each task is worked on alone: a certified accuracy is one of the whole batch."""
        return self.accuracy is None

    @property
    def implicit(self) -> Implicit:
        """The hypergradient by N CG steps, or by the linear solver given."""
        return Implicit(self.linear_solver or self._conjugate_gradient)

    @property
    def _conjugate_gradient(self) -> ConjugateGradient:
        return ConjugateGradient(integer("cg_steps", self.cg_steps, least=0))

    def certified(self, oracle: Oracle, accuracy: float) -> Certified:
        """The hypergradient to a certified accuracy, by at most K lower and N CG steps."""
        return Certified(self.lower_solver(oracle), self._conjugate_gradient, accuracy)

    def start(self, oracle: Oracle, phi: Parameters) -> State:
        """The state before the first iteration: theta0 and v = 0 for every task of the pool."""
        if self.warm_start is False:
            return State(None, None)
        require_pool(oracle.problem, "warm_start")
        theta = oracle.theta0(phi, oracle.pool).clone()
        return State(theta, torch.zeros_like(theta) if self.warm_start is True else None)

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica.

        Raises ValueError where `accuracy` or the problem decides on them.
        """
        if self.accuracy is not None:
            raise ValueError(f"expected accuracy=None for calls that are known beforehand, got {self.accuracy}")
        products = self.implicit.linear_solver.products(warm=self.warm_start is True)
        return per_task(
            lower_gradient=batch * self.lower_steps,
            hvp=batch * products,
            cross_product=batch,
            upper_gradient=batch,
        )
