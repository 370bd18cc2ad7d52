"""References that share no code with what they judge: dense derivatives, task by task, by torch.func."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from problems import Parameters, Problem, Tasks

EPS = torch.finfo(torch.float64).eps


def assert_near(actual: Tensor, expected: Tensor, *, within: float) -> None:
    """Same shape, and the largest difference at most `within` times max(1, the largest entry)."""
    assert actual.shape == expected.shape
    assert torch.isfinite(expected).all()
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    difference = float((actual - expected).abs().max()) if expected.numel() else 0.0
    assert difference <= within * scale, f"differs by {difference:.2e}, allowed {within * scale:.2e}"


def norm(matrices: Tensor) -> float:
    """The largest spectral norm."""
    return float(torch.linalg.matrix_norm(matrices, 2).max())


class Dense:
    """g and f of a single task as functions of two vectors: x, which is phi flattened, and theta.

    `each` evaluates a function of (x, theta, task) at every task; `hessian`, `cross`, `v` and `direction` are such
    functions: d2g/dtheta2 (q, q), d2g/dtheta dphi (q, p), H^-1 grad_theta f, and D = grad_phi f - cross' v.
    """

    def __init__(self, problem: Problem, tasks: Tasks | None = None):
        self.problem = problem
        self.tasks = problem.sample(None, torch.Generator()) if tasks is None else tasks
        self.like = problem.phi0(torch.Generator())
        self.lower_slope, self.upper_slope = grad(self.g, argnums=1), grad(self.f, argnums=1)
        self.hessian, self.cross = jacrev(self.lower_slope, argnums=1), jacrev(self.lower_slope, argnums=0)

    def vector(self, phi: Parameters) -> Tensor:
        return torch.cat([phi[name].reshape(-1) for name in self.like])

    def named(self, x: Tensor) -> Parameters:
        pieces = x.split([tensor.numel() for tensor in self.like.values()])
        return {name: piece.view(self.like[name].shape) for name, piece in zip(self.like, pieces, strict=True)}

    def g(self, x: Tensor, theta: Tensor, task: Any) -> Tensor:
        return self._objective("lower", x, theta, task)

    def f(self, x: Tensor, theta: Tensor, task: Any) -> Tensor:
        return self._objective("upper", x, theta, task)

    def _objective(self, name: str, x: Tensor, theta: Tensor, task: Any) -> Tensor:
        index, tensors = task
        one = Tasks(index[None], **{key: tensor[None] for key, tensor in tensors.items()})
        features = self.problem.embed(self.named(x), one)
        return getattr(self.problem, name)(features, theta[None], one)[0]

    def v(self, x: Tensor, theta: Tensor, task: Any) -> Tensor:
        return torch.linalg.solve(self.hessian(x, theta, task), self.upper_slope(x, theta, task))

    def direction(self, x: Tensor, theta: Tensor, task: Any) -> Tensor:
        return grad(self.f)(x, theta, task) - self.cross(x, theta, task).T @ self.v(x, theta, task)

    def each(self, function: Callable[..., Tensor], x: Tensor, theta: Tensor) -> Tensor:
        return vmap(function, in_dims=(None, 0, 0))(x, theta, (self.tasks.index, self.tasks.tensors))

    def unrolled(self, x: Tensor, start: Callable[[Tensor], Tensor], *, steps: int, step_size: float) -> Tensor:
        """mean_i f_i(x, theta_K,i(x)) with the K gradient steps written out: differentiate it in x."""
        theta = start(x)
        for _ in range(steps):
            theta = theta - step_size * self.each(self.lower_slope, x, theta)
        return self.each(self.f, x, theta).mean()
