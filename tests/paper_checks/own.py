"""Methods and problems as somebody brings them along: on the public names alone, right ones and wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from convergence import Oracle, Step
from convergence.methods import SOBA
from convergence.oracle import Calls, Features, per_task
from problems import Parameters, Problem, Tasks


@dataclass(frozen=True, kw_only=True)
class Mine:
    """The paper's algorithm from its pseudo-code, every line written anew."""

    lower_steps: int
    cg_steps: int
    lower_step_size: float | None = None
    upper_step_size: float | None = None
    warm_start: bool = True

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        if not self.warm_start:
            return None
        theta = oracle.theta0(phi, oracle.pool).clone()
        return theta, torch.zeros_like(theta)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        z = oracle.embed(phi, tasks)
        if state is None:
            theta = oracle.theta0(phi, tasks)
            v = torch.zeros_like(theta)
        else:
            theta, v = (x.gather(-2, tasks.index.unsqueeze(-1).expand(*tasks.index.shape, x.shape[-1])) for x in state)
        alpha = self.lower_step_size or oracle.problem.constants.lower_step_size
        for _ in range(self.lower_steps):
            theta = theta - alpha * oracle.lower_gradient(z, theta, tasks)
        v = self.solved(oracle, z, theta, tasks, v)
        d = oracle.hypergradient(z, theta, v, tasks)
        if state is not None:
            index = tasks.index.unsqueeze(-1).expand_as(theta)
            state = tuple(x.scatter(-2, index, row) for x, row in zip(state, (theta, v), strict=True))
        moved = {name: phi[name] - (self.upper_step_size or 0) * d[name] for name in phi}
        fine = torch.zeros(theta.shape[:-1], dtype=torch.int32, device=theta.device)
        return Step(moved, state, d, theta, v, fine)

    def solved(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, v: Tensor) -> Tensor:
        """N steps of CG from v."""
        hessian = oracle.lower_hessian(z, theta, tasks)
        r = oracle.upper_gradient(z, theta, tasks)
        if self.warm_start:
            r = r - hessian(v)
        p, rr = r, r.square().sum(-1, keepdim=True)
        for _ in range(self.cg_steps):
            Hp = hessian(p)
            size = torch.nan_to_num(rr / (p * Hp).sum(-1, keepdim=True))
            v, r = v + size * p, r - size * Hp
            new = r.square().sum(-1, keepdim=True)
            p, rr = r + torch.nan_to_num(new / rr) * p, new
        return v

    def declared_calls(self, batch: int) -> Calls:
        products = self.cg_steps + self.warm_start
        return per_task(
            lower_gradient=batch * self.lower_steps, hvp=batch * products, cross_product=batch, upper_gradient=batch
        )


class Backwards(Mine):
    """Mine with the sign of the implicit part the wrong way round."""

    def solved(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, v: Tensor) -> Tensor:
        return -super().solved(oracle, z, theta, tasks, -v)


class Broken(Mine):
    """Mine with a slip that Python finds."""

    def solved(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, v: Tensor) -> Tensor:
        return theta @ v


class Undeclared(SOBA):
    """A method of another kind that says nothing of itself."""

    declared: ClassVar[Any] = None


class Shy(SOBA):
    """A method of another kind that moves half as far as it says, and is biased besides."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        right = super().step(oracle, phi, tasks, state)
        d = {name: dx + 0.1 for name, dx in right.direction.items()}
        return right._replace(direction=d, phi={name: x - self.upper_step_size * d[name] for name, x in phi.items()})


class Means(Problem):
    """theta_i* = phi, f_i = |theta_i - centre_i|^2 / 2: phi* is the mean of the centres."""

    q = 2

    def __init__(self, seed: int = 0):
        self.data = {"centre": torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))}

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"phi": torch.zeros(2)}

    def lower(self, phi: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - phi["phi"].unsqueeze(-2)).square().sum(-1)

    def upper(self, phi: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - tasks.centre).square().sum(-1)


def drawn() -> Problem:
    """A problem from a function, with numbers from torch's global generator."""
    problem = Means()
    problem.data = {"centre": torch.randn(6, 2)}
    return problem
