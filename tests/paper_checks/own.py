"""Methods and problems as somebody brings them along: on the public names alone, right ones and wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from convergence import GradientDescent, Oracle, Status, Step
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
            theta, v = (x.gather(-2, self.places(x, tasks)) for x in state)
        lower = GradientDescent.of(oracle.problem, self.lower_steps, self.lower_step_size)
        theta = lower.solve(oracle, z, theta, tasks)
        v, failure = self.solved(oracle, z, theta, tasks, v)
        d = oracle.hypergradient(z, theta, v, tasks)
        if state is not None:
            state = tuple(x.scatter(-2, self.places(x, tasks), row) for x, row in zip(state, (theta, v), strict=True))
        if self.upper_step_size is not None:
            phi = {name: phi[name] - self.upper_step_size * d[name] for name in phi}
        return Step(phi, state, d, theta, v, failure)

    def places(self, stored: Tensor, tasks: Tasks) -> Tensor:
        """Where the rows of these tasks are in what is stored of all tasks, (..., B, q)."""
        return tasks.index.unsqueeze(-1).expand(*stored.shape[:-2], tasks.index.shape[-1], stored.shape[-1])

    def solved(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, v: Tensor) -> tuple[Tensor, Tensor]:
        """N steps of CG from v, and whether p'Hp <= 0 was met."""
        hessian = oracle.lower_hessian(z, theta, tasks)
        r = oracle.upper_gradient(z, theta, tasks)
        enough = 1e-30 * r.square().sum(-1, keepdim=True)
        if self.warm_start and self.cg_steps:
            r = r - hessian(v)
        p, rr = r, r.square().sum(-1, keepdim=True)
        indefinite = torch.zeros_like(rr, dtype=torch.bool)
        for _ in range(self.cg_steps):
            Hp = hessian(p)
            pHp = (p * Hp).sum(-1, keepdim=True)
            indefinite = indefinite | ((pHp <= 0) & (rr > enough))
            size = torch.where((rr > enough) & (pHp > 0), rr / pHp, 0.0)
            v, r = v + size * p, r - size * Hp
            before, rr = rr, r.square().sum(-1, keepdim=True)
            p = r + torch.where(before > enough, rr / before, 0.0) * p
        failure = torch.where(torch.isfinite(rr), Status.BREAKDOWN * indefinite, Status.NON_FINITE)
        return v, failure.squeeze(-1).to(torch.int32)

    def declared_calls(self, batch: int) -> Calls:
        products = self.cg_steps + (self.warm_start and self.cg_steps > 0)
        return per_task(
            lower_gradient=batch * self.lower_steps, hvp=batch * products, cross_product=batch, upper_gradient=batch
        )


class Backwards(Mine):
    """Mine with the sign of the implicit part the wrong way round."""

    def solved(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, v: Tensor) -> tuple[Tensor, Tensor]:
        v, failure = super().solved(oracle, z, theta, tasks, -v)
        return -v, failure


class Broken(Mine):
    """Mine with a slip that Python finds."""

    def solved(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, v: Tensor) -> tuple[Tensor, Tensor]:
        return theta @ v, theta


class Leaves(Mine):
    """Mine, but the script that it is in ends the process as if all were well."""

    def solved(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, v: Tensor) -> tuple[Tensor, Tensor]:
        raise SystemExit(0)


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
