"""g and f of single tasks and their derivatives, by torch.func from `lower`, `upper` and `embed` alone.

No closed form, no oracle, no batch of tasks: what a problem of one's own and methods on it are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, jacrev

from paper_checks.written_out import flattened
from problems import Parameters, Problem, Tasks

Level = Literal["lower", "upper"]


class SingleTasks:
    """Functions of a task's number i, of phi as one vector x (p,), of theta (q,) and v (q,), float64, detached.

    value         g ("lower") or f ("upper"), a scalar
    slope         its gradient in theta, (q,)
    phi_slope     its gradient in phi, (p,)
    product       (d2g/dtheta2) v, (q,);  hessian (q, q) dense
    cross         (d2g/dphi dtheta) v, (p,)
    direction     D(phi, theta, v) = grad_phi f - (d2g/dphi dtheta) v, (p,)

    Cost: a few evaluations of one task each; `hessian` q of them at once.
    """

    def __init__(self, problem: Problem, tasks: Tasks, like: Parameters):
        self.problem, self.tasks = problem, list(tasks)
        self.shapes = {name: tensor.shape for name, tensor in like.items()}

    def __len__(self) -> int:
        return len(self.tasks)

    def named(self, x: Tensor) -> Parameters:
        """The vector as tensors of phi."""
        pieces = x.split([shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def theta0(self, x: Tensor) -> Tensor:
        """Where a cold lower level starts, (M, q)."""
        return torch.cat([self.problem.theta0(self.named(x), task).detach() for task in self.tasks])

    def value(self, level: Level, i: int, x: Tensor, theta: Tensor) -> Tensor:
        """g or f."""
        return self._objective(level, i)(x, theta).detach()

    def slope(self, level: Level, i: int, x: Tensor, theta: Tensor) -> Tensor:
        """In theta."""
        return grad(self._objective(level, i), argnums=1)(x, theta).detach()

    def phi_slope(self, level: Level, i: int, x: Tensor, theta: Tensor) -> Tensor:
        """In phi."""
        return grad(self._objective(level, i))(x, theta).detach()

    def product(self, i: int, x: Tensor, theta: Tensor, v: Tensor) -> Tensor:
        """(d2g/dtheta2) v."""
        return grad(self._slope_along(i, v), argnums=1)(x, theta).detach()

    def hessian(self, i: int, x: Tensor, theta: Tensor) -> Tensor:
        """d2g/dtheta2."""
        return jacrev(grad(self._objective("lower", i), argnums=1), argnums=1)(x, theta).detach()

    def cross(self, i: int, x: Tensor, theta: Tensor, v: Tensor) -> Tensor:
        """(d2g/dphi dtheta) v."""
        return grad(self._slope_along(i, v))(x, theta).detach()

    def direction(self, i: int, x: Tensor, theta: Tensor, v: Tensor) -> Tensor:
        """D(phi, theta, v)."""
        return self.phi_slope("upper", i, x, theta) - self.cross(i, x, theta, v)

    def mean_direction(self, x: Tensor, theta: Tensor, v: Tensor) -> Tensor:
        """mean_i D(phi, theta_i, v_i), rows (M, q) of theta and v."""
        return torch.stack([self.direction(i, x, theta[i], v[i]) for i in range(len(self))]).mean(0)

    def _objective(self, level: Level, i: int) -> Callable[[Tensor, Tensor], Tensor]:
        task = self.tasks[i]

        def value(x: Tensor, theta: Tensor) -> Tensor:
            features = self.problem.embed(self.named(x), task)
            return getattr(self.problem, level)(features, theta[None], task)[0]

        return value

    def _slope_along(self, i: int, v: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        slope = grad(self._objective("lower", i), argnums=1)
        return lambda x, theta: torch.dot(slope(x, theta), v)


def vector(phi: Parameters) -> Tensor:
    """phi as one vector, (p,)."""
    return flattened(phi)
