"""`LearnedStart`: any problem whose lower level starts at a tensor of phi of its own (as in ANIL and BOIL)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Parameters, Parts, Problem, Tasks
from problems.wrapper import Wrapper

_START = "start"


class LearnedStart(Wrapper):
    """The problem inside with theta_0 = start, one for all tasks: a tensor of q numbers beside its own phi.

    Neither objective sees the start, so theta*, v* and Phi do not move with it and grad Phi is zero there: it is the
    K-step objective Phi_K of methods that differentiate the lower steps (MAML, ANIL, ...) that depends on it. Closed
    forms are those of the problem inside, with zeros for the start. The first start is where the problem inside starts
    one of its tasks.

    Raises ValueError on a problem whose phi has a tensor called start.

    >>> from problems import Quadratic
    >>> problem = LearnedStart(Quadratic.random(tasks=3, p=1, q=2, kappa=4.0))
    >>> {name: tuple(tensor.shape) for name, tensor in problem.phi0(torch.Generator()).items()}
    {'phi': (1,), 'start': (2,)}
    """

    @checked
    def __init__(self, problem: Problem):
        super().__init__(problem)
        if _START in problem.phi0(torch.Generator()):
            raise ValueError(f"expected a phi without a tensor called start, got that of {type(problem).__name__}")

    # ---- where theta starts

    def phi0(self, rng: torch.Generator) -> Parameters:
        """That of the problem inside, and where it starts theta there."""
        own = self.problem.phi0(rng)
        return own | {_START: self.problem.theta0(own, self.problem.sample(1, torch.Generator()))[0].clone()}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """The start, for each task."""
        row = phi[_START].unsqueeze(-2)
        return row.expand(*torch.broadcast_shapes(row.shape[:-1], tasks.index.shape), -1)

    # ---- all else that takes or returns phi

    def embed(self, phi: Parameters, tasks: Tasks) -> Any:
        """Those of the problem inside: no feature sees the start."""
        return self.problem.embed(_own(phi), tasks)

    def embed_parts(self) -> Parts:
        """Those of the problem inside."""
        functions, join = self.problem.embed_parts()
        return Parts(tuple(partial(_of_own, part) for part in functions), join)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """That of the problem inside, zero for the start."""
        return _with_zeros(self.problem.surrogate_gradient(_own(phi), features, theta, v, tasks), phi)

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.lower_solution(_own(phi), tasks)

    def value(self, phi: Parameters) -> Tensor:
        """As the problem inside."""
        return self.problem.value(_own(phi))

    def hypergradient(self, phi: Parameters) -> Parameters:
        """That of the problem inside, zero for the start."""
        return _with_zeros(self.problem.hypergradient(_own(phi)), phi)

    def upper_solution(self) -> Parameters:
        """That of the problem inside, with one of the starts, which are all as good."""
        return _with_zeros(self.problem.upper_solution(), self.phi0(torch.Generator()))


def _own(phi: Parameters) -> Parameters:
    return {name: tensor for name, tensor in phi.items() if name != _START}


def _of_own(part: Any, phi: Parameters, tasks: Tasks) -> Any:
    return part(_own(phi), tasks)


def _with_zeros(own: Parameters, phi: Parameters) -> Parameters:
    return own | {_START: torch.zeros_like(phi[_START])}
