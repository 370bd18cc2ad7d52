"""Problems made for the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from problems import Parameters, Problem, Tasks


class Twin(Problem):
    """The bare objectives of another problem, or others in their place: no closed form, no constants.

    It goes through automatic differentiation, and through torch.vmap over replicas unless `broadcasts`.
    """

    def __init__(
        self,
        base: Problem,
        *,
        lower: Callable[..., Tensor] | None = None,
        upper: Callable[..., Tensor] | None = None,
        broadcasts: bool = False,
    ):
        self.base, self.data, self.q = base, base.data, base.q
        self.broadcasts_replicas = broadcasts
        self._lower, self._upper = lower or base.lower, upper or base.upper

    def phi0(self, rng: torch.Generator) -> Parameters:
        return self.base.phi0(rng)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        return self.base.theta0(phi, tasks)

    def embed(self, phi: Parameters, tasks: Tasks) -> Any:
        return self.base.embed(phi, tasks)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return self._lower(features, theta, tasks)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return self._upper(features, theta, tasks)


class Scalar(Problem):
    """Two equal tasks; phi is one number x, theta one number: g and f are given as functions of both."""

    q = 1

    def __init__(self, lower: Callable[..., Tensor], upper: Callable[..., Tensor], *, start: float = 1.0):
        self.data = {"nothing": torch.zeros(2, 1, dtype=torch.float64)}
        self._lower, self._upper, self.start = lower, upper, start

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"x": torch.full((1,), self.start, dtype=torch.float64)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return self._lower(features["x"], theta).expand(len(tasks), 1).squeeze(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return self._upper(features["x"], theta).expand(len(tasks), 1).squeeze(-1)


class Endless(Problem):
    """Tasks c ~ N(0, I) without end:  g = 1/2 |theta - phi - c|^2,  f = 1/2 |theta|^2."""

    q = 2

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        return Tasks(torch.arange(size), c=torch.randn(size, 2, generator=rng, dtype=torch.float64))

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"x": torch.ones(2, dtype=torch.float64)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - features["x"] - tasks.c).square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * theta.square().sum(-1)


class UserRidge(Problem):  # as a user would write it: data, phi0, lower, upper, q, and not a word on replicas
    q = 3

    def __init__(self, tasks: int = 5):
        rng = torch.Generator().manual_seed(0)
        self.data = {"X": torch.randn(tasks, 8, 3, generator=rng), "y": torch.randn(tasks, 8, generator=rng)}

    def phi0(self, rng):
        return {"centre": torch.randn(3, generator=rng), "log_weight": torch.randn(1, generator=rng)}

    def lower(self, phi, theta, tasks):
        residual = (tasks.X @ theta[..., None])[..., 0] - tasks.y
        return residual.square().mean(-1) + phi["log_weight"].exp() * (theta - phi["centre"]).square().sum(-1)

    def upper(self, phi, theta, tasks):
        return (tasks.X[:, :4] @ theta[..., None])[..., 0].sub(tasks.y[:, :4]).square().mean(-1)
