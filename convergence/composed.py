"""Methods made of parts: a lower solver, an estimator of the hypergradient, an upper step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from convergence.arguments import capable, integer, positive
from convergence.hypergradients import Estimator
from convergence.lower_solvers import GradientDescent, LowerSolver
from convergence.method import Step, descend
from convergence.needs import Need
from convergence.oracle import Calls, Features, Oracle
from problems import Parameters, Tasks


@dataclass(frozen=True, kw_only=True)
class MadeOfParts(ABC):
    """One upper iteration from theta0(phi): lower steps, an estimate of grad Phi, a step on phi.

    A subclass names its `lower_solver` and its `hypergradient`, and with that declares its calls. Nothing is carried
    over: the start is cold; where it depends on phi, as in MAML (theta0 = phi), the estimator may follow that.
    """

    upper_step_size: float | None = None

    by_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.upper_step_size is not None:
            positive("upper_step_size", self.upper_step_size)

    @property
    @abstractmethod
    def lower_solver(self) -> LowerSolver:
        """K steps on theta; a step size it does not have is the problem's 2 / (L + mu)."""

    @property
    @abstractmethod
    def hypergradient(self) -> Estimator:
        """The estimator of grad Phi."""

    # ---- one upper iteration

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: None) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        z = oracle.embed(phi, tasks, keep_graph=True)
        theta = oracle.theta0(z.phi, tasks, keep_graph=True)
        lower = self.lower_solver.known(oracle.problem)
        d, theta, v, failure = self.hypergradient.estimate(oracle, z, theta, tasks, lower=lower)
        return Step(descend(phi, d, self.upper_step_size), None, d, theta, v, failure)

    # ---- around it

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the estimator needs of a problem."""
        return self.hypergradient.needs

    def start(self, oracle: Oracle, phi: Parameters) -> None:
        """Nothing is carried over."""
        return None

    def adapt(self, oracle: Oracle, z: Features, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta_{i,K}(phi), (..., B, q), without a graph: what new tasks are judged by."""
        return self.lower_solver.known(oracle.problem).solve(oracle, z, oracle.theta0(phi, tasks), tasks)

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica."""
        return {name: batch * count for name, count in self.hypergradient.calls(self.lower_solver).items()}


@dataclass(frozen=True, kw_only=True)
class Composed(MadeOfParts):
    """Any lower solver with any estimator that can follow it.

    lower             a LowerSolver, such as GradientDescent(K, alpha)
    estimator         an Estimator, such as Unrolled(), ForwardMode(), Implicit(Neumann(N, eta))
    upper_step_size   beta; None leaves the step to an optimiser

    >>> from convergence import GradientDescent, Unrolled, run
    >>> from problems import Quadratic
    >>> truncated = Composed(lower=GradientDescent(20, 0.1), estimator=Unrolled(last=5), upper_step_size=0.3)
    >>> truncated.declared_calls(batch=2)
    {'lower_gradient': 40, 'hvp': 10, 'cross_product': 10, 'upper_gradient': 2}
    """

    lower: LowerSolver
    estimator: Estimator

    def __post_init__(self) -> None:
        super().__post_init__()
        capable("lower", self.lower, "solve", "split", "known")
        capable("estimator", self.estimator, "estimate", "calls")

    @property
    def lower_solver(self) -> LowerSolver:
        """As given."""
        return self.lower

    @property
    def hypergradient(self) -> Estimator:
        """As given."""
        return self.estimator


@dataclass(frozen=True, kw_only=True)
class LowerSteps(MadeOfParts):
    """`MadeOfParts` with K gradient steps as the lower solver.

    lower_steps       K >= 0
    lower_step_size   alpha; None takes 2 / (L + mu) from the problem's constants
    upper_step_size   beta; None leaves the step to an optimiser
    """

    lower_steps: int
    lower_step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("lower_steps", self.lower_steps, least=0)
        if self.lower_step_size is not None:
            positive("lower_step_size", self.lower_step_size)

    @property
    def lower_solver(self) -> GradientDescent:
        """K gradient steps of size alpha."""
        return GradientDescent(self.lower_steps, self.lower_step_size)
