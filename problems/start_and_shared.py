"""A quadratic whose phi has two parts: where theta starts, and what the lower level sees (as in ANIL and BOIL)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from problems.base import Parameters, Parts, Problem, Tasks
from problems.quadratic import Quadratic
from problems.wrapper import Wrapper


class StartAndShared(Wrapper):
    """The quadratic inside with phi = (start, shared) as two tensors: theta_0 = start (..., q), shared (..., p - q).

    `random` makes g depend on theta and shared alone, as the loss of a network does, whose head is theta and whose body
    is shared. Then theta* and v* do not move with the start: Phi sees it through R alone, and only a method that
    differentiates the lower steps sees more of it.
    Raises ValueError on a quadratic inside whose start is not theta_0 = (I, 0) phi.

    >>> problem = StartAndShared.random(tasks=3, q=2, shared=1, kappa=4.0)
    >>> {name: tuple(tensor.shape) for name, tensor in problem.phi0(torch.Generator()).items()}
    {'start': (2,), 'shared': (1,)}
    """

    problem: Quadratic

    def __init__(self, problem: Quadratic):
        super().__init__(problem)
        p, q, data = problem.p, problem.q, problem.data
        some = data["A"]
        if (
            "gain" not in data
            or bool(data["start"].any())
            or not torch.equal(data["gain"], torch.eye(q, p, dtype=some.dtype, device=some.device).expand_as(data["C"]))
        ):
            raise ValueError("expected a quadratic that starts at the first q of the p numbers of phi, got another")

    @classmethod
    def random(cls, *, tasks: int, q: int, shared: int, kappa: float, seed: int = 0) -> StartAndShared:
        """As `Quadratic.random` of p = q + shared, with the first q columns of every C_i zero."""
        data = dict(Quadratic.random(tasks=tasks, p=q + shared, q=q, kappa=kappa, seed=seed).data)
        C = data["C"].clone()
        C[..., :q] = 0
        return cls(Quadratic(**{**data, "C": C}, gain=torch.eye(q, q + shared, dtype=C.dtype).expand_as(C).clone()))

    # ---- phi in two tensors

    def _join(self, phi: Parameters) -> Parameters:
        return {"phi": torch.cat([phi["start"], phi["shared"]], -1)}

    def _split(self, phi: Parameters) -> Parameters:
        q = self.problem.q
        return {"start": phi["phi"][..., :q], "shared": phi["phi"][..., q:]}

    # ---- all that takes or returns phi

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Standard normal."""
        return self._split(self.problem.phi0(rng))

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """The start, for each task."""
        row = phi["start"].unsqueeze(-2)
        return row.expand(*torch.broadcast_shapes(row.shape[:-1], tasks.index.shape), -1)

    def embed(self, phi: Parameters, tasks: Tasks) -> Any:
        """Those of the quadratic inside."""
        return self.problem.embed(self._join(phi), tasks)

    def embed_parts(self) -> Parts:
        """All in one."""
        return Problem.embed_parts(self)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i [ R (phi - w) + C'v ]."""
        return self._split(self.problem.surrogate_gradient(self._join(phi), features, theta, v, tasks))

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """A^-1 (C phi + b)."""
        return self.problem.lower_solution(self._join(phi), tasks)

    def value(self, phi: Parameters) -> Tensor:
        """1/2 phi'H_Phi phi - h_Phi'phi + constant."""
        return self.problem.value(self._join(phi))

    def hypergradient(self, phi: Parameters) -> Parameters:
        """H_Phi phi - h_Phi."""
        return self._split(self.problem.hypergradient(self._join(phi)))

    def upper_solution(self) -> Parameters:
        """H_Phi^-1 h_Phi."""
        return self._split(self.problem.upper_solution())
