"""K stochastic steps on theta, then one step on phi along an estimate by a series: BSA, stocBiO, TTSA, ALSET."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from convergence.arguments import integer
from convergence.declared import Declared
from convergence.hypergradients import Implicit
from convergence.linear_solvers import LinearSolver, RandomNeumann
from convergence.lower_solvers import known_step_size
from convergence.method import Step
from convergence.methods.decaying_steps import DecayingSteps, failures, positive_or_none
from convergence.oracle import Calls, Features, Oracle, per_task
from convergence.pool_rows import rows, with_rows
from problems import Parameters, Tasks


class State(NamedTuple):
    """t, and the theta_i that every task of the pool was left with, (..., M, q); None where each start is cold."""

    iteration: int
    theta: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Alternating(DecayingSteps, ABC):
    """theta_i' = K_t steps theta <- theta - rho_t grad_theta g_i from where theta_i was left, each on a fresh sample,

        phi' = phi - beta_t mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ] at (phi, theta'),

    v_i the first Q terms of H^-1 b = eta sum_j (I - eta H)^j b for b = grad_theta f_i, or one drawn among them; each
    product sees a fresh sample of H = d2g_i/dtheta2, and b with the rest of d one more sample of f and of g.

    terms              Q >= 1
    linear_step_size   eta; None takes 2 / (L + mu) from the problem's constants

    The other fields are those of `DecayingSteps`. A subclass says what K_t is, and which terms are taken.
    """

    terms: int = 20
    linear_step_size: float | None = None

    declared: ClassVar[Declared]

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("terms", self.terms, least=1)
        positive_or_none(self, "linear_step_size")

    @abstractmethod
    def steps_at(self, iteration: int) -> int:
        """K_t."""

    def series(self, step_size: float) -> LinearSolver:
        """One of the Q terms, drawn uniformly and taken Q times."""
        return RandomNeumann(self.terms, step_size)

    # ---- one upper iteration

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        t, z = state.iteration, oracle.embed(phi, tasks)
        theta = oracle.theta0(phi, tasks) if state.theta is None else rows(state.theta, tasks, oracle)
        theta = self.lower_steps_from(oracle, z, theta, tasks, t)
        solver = self.series(known_step_size(oracle.problem, "linear_step_size", self.linear_step_size))
        d, _, v, _ = Implicit(solver, fresh_products=True).at(oracle, z, theta, tasks)
        kept = None if state.theta is None else with_rows(state.theta, theta, tasks, oracle)
        return Step(self.descended(phi, d, t), State(t + 1, kept), d, theta, v, failures(theta, v))

    def lower_steps_from(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, iteration: int) -> Tensor:
        """theta after K_t steps, each on a fresh sample of g, (..., B, q)."""
        rho = self.lower_size(oracle, z, tasks, iteration)
        for _ in range(self.steps_at(iteration)):
            at, sample = oracle.draw(z, tasks)
            theta = theta - rho * oracle.lower_gradient(at, theta, sample)
        return theta

    # ---- around it

    def start(self, oracle: Oracle, phi: Parameters) -> State:
        """theta0 for every task of the pool, or nothing where each start is cold."""
        return State(0, oracle.theta0(phi, oracle.pool).clone() if self.declared.warm else None)

    def adapt(self, oracle: Oracle, z: Features, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta after the K_0 steps of the first iteration from theta0, (..., B, q): what new tasks are judged by."""
        return self.lower_steps_from(oracle, z, oracle.theta0(phi, tasks), tasks, 0)

    def declared_calls(self, batch: int, *, iteration: int = 0) -> Calls:
        """Oracle calls of this upper iteration on a batch of tasks, in one replica."""
        return per_task(
            lower_gradient=batch * self.steps_at(iteration),
            hvp=batch * self.series(1.0).products(warm=False),
            cross_product=batch,
            upper_gradient=batch,
        )
