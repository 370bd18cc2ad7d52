"""Problems as users write them: right ones, and wrong ones with one mistake each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convergence import MemoryReduced
from paper_checks.claim import Setting
from problems import Constants, Parameters, Problem, Tasks
from tests.strategies import normal


class Centre(Problem):
    """The README's: one centre for many ridge regressions."""

    q = 3

    def __init__(self, tasks: int = 6):
        self.data = {name: normal(k, tasks, 10, 4) for k, name in enumerate(("train", "validation"))}

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"centre": torch.randn(3, generator=rng)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return ridge(tasks.train, theta) + 0.5 * (theta - features["centre"]).square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return ridge(tasks.validation, theta)


def ridge(examples: Tensor, theta: Tensor) -> Tensor:
    return 0.5 * ((examples[..., :3] * theta.unsqueeze(-2)).sum(-1) - examples[..., 3]).square().mean(-1)


class WithForms(Centre):
    """With closed forms and constants of the lower level."""

    @property
    def constants(self) -> Constants:  # type: ignore[override]
        X = self.data["train"][..., :3].double()
        eigenvalues = torch.linalg.eigvalsh(X.mT @ X / X.shape[1]) + 1
        return Constants(mu=float(eigenvalues.min()), L=float(eigenvalues.max()), L_c=1.0, rho_1=0.0, rho_2=0.0)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        X, y = tasks.train[..., :3], tasks.train[..., 3]
        r = (X @ theta.unsqueeze(-1)).squeeze(-1) - y
        return (X * r.unsqueeze(-1)).mean(-2) + theta - features["centre"]

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        X = tasks.train[..., :3]
        return (X * (X @ v.unsqueeze(-1))).mean(-2) + v


class TwoTensors(Centre):
    """phi a vector and a number; the lower level is not quadratic, its cross derivative depends on theta."""

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"centre": torch.randn(3, generator=rng), "scale": torch.ones(1)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        bent = (1 + theta.square()).sqrt().sum(-1)
        return super().lower(features, theta, tasks) + 0.1 * features["scale"].exp() * bent

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().upper(features, theta, tasks) + 0.1 * (features["centre"] * theta).sum(-1).sin()


class Spring(Problem):
    """phi a vector and a number without axes; the curvature 1 + exp(log_pull) grows 10 times on the way of phi."""

    q = 2

    def __init__(self):
        self.data = {"goal": normal(0, 5, 2), "start": normal(1, 5, 2)}

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"centre": torch.zeros(2), "log_pull": torch.zeros(())}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        pull = 0.5 * (theta - features["centre"]).square().sum(-1)
        return 0.5 * (theta - tasks.start).square().sum(-1) + features["log_pull"].exp() * pull

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - tasks.goal).square().sum(-1) + 0.5 * (features["log_pull"] - 3).square()


class Linear(Spring):
    """Phi is linear: it has no minimum."""

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"centre": torch.zeros(2)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return (theta - tasks.start).square().sum(-1) + (theta - features["centre"]).square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return (theta * tasks.goal).sum(-1)


class Centred(Linear):
    """phi_0 is stationary, and Phi the same everywhere."""

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return (2 * theta - tasks.start - features["centre"]).square().sum(-1)


class Stretched(Linear):
    """phi scales g and does not move theta*: the implicit part of grad Phi is zero at theta*, and not on the way."""

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"stretch": torch.zeros(())}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * features["stretch"].exp() * (theta - tasks.start).square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - tasks.goal).square().sum(-1) + 0.5 * (features["stretch"] - 1).square()


class Quartic(Linear):
    """g is strongly convex and not smooth: its curvature at theta_0 says nothing of that at theta*."""

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().lower(features, theta - 10, tasks) + (theta - 0.1).pow(4).sum(-1)


class IllConditioned(Spring):
    """kappa = 1e4: CG on it is exact to rounding of its own."""

    q = 8

    def __init__(self):
        turn = torch.linalg.qr(normal(5, 3, 8, 8)).Q
        self.data = {"A": turn * torch.logspace(0, 4, 8, dtype=torch.float64) @ turn.mT, "u": normal(6, 3, 8)}

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"phi": torch.randn(1, 2, 4, generator=rng)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return ((0.5 * tasks.A @ theta.unsqueeze(-1)).squeeze(-1) * theta - features["phi"].flatten() * theta).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - tasks.u).square().sum(-1)


# ---- wrong: each has one mistake


class WrongGradient(WithForms):
    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().lower_gradient(features, theta, tasks) + 1e-6 * theta


class WrongHVP(WithForms):
    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        return super().lower_hvp(features, theta, v, tasks) - v  # without the ridge


class WrongL(WithForms):
    @property
    def constants(self) -> Constants:  # type: ignore[override]
        right = super().constants
        return Constants(mu=right.mu, L=0.99 * right.L)


class WrongMu(WithForms):
    @property
    def constants(self) -> Constants:  # type: ignore[override]
        right = super().constants
        return Constants(mu=1.01 * right.mu, L=right.L)


class WrongOptimum(Centre):
    """An upper solution that is none."""

    def upper_solution(self) -> Parameters:
        return {"centre": torch.full((3,), 0.3, dtype=torch.float64)}


class WrongSolution(Centre):
    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        return self.theta0(phi, tasks) + 0.1


class MixedTasks(Centre):
    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().lower(features, theta - 0.1 * theta.mean(-2, keepdim=True), tasks)


class DetachedPhi(Centre):
    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().lower({"centre": features["centre"].detach()}, theta, tasks) + 0 * features["centre"].sum()


class DetachedTheta(Centre):
    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().upper(features, theta.detach(), tasks) + 0.1 * features["centre"].square().sum(-1)


class IgnoresTheta(Centre):
    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return features["centre"].square().sum(-1) + 0 * tasks.train[..., 0, 0]


class NotConvex(Centre):
    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().lower(features, theta, tasks) - 5.0 * theta[..., 0].square()


class OnlyUpper(Centre):
    """Not a mistake in itself: phi reaches f alone, so that there is nothing bilevel about it."""

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return ridge(tasks.train, theta) + 0.5 * theta.square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().upper(features, theta, tasks) + 0.5 * (features["centre"] - 1).square().sum(-1)


class SinglePrecision(Centre):
    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return super().upper(features, theta, tasks).float()


class WrongBroadcast(Centre):
    """Said to know replicas, which it does not: phi would need an axis for the tasks."""

    broadcasts_replicas = True


class Endless(Problem):
    """Tasks without end."""

    q = 2

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        return Tasks(torch.arange(size or 1), m=torch.randn(size or 1, 2, generator=rng, dtype=torch.float64))

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"c": torch.randn(2, generator=rng)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - tasks.m).square().sum(-1) + 0.5 * (theta - features["c"]).square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        return (1 + (theta - 2 * tasks.m).square().sum(-1)).log()


def setting_of(make: Any, method: Any = MemoryReduced, seed: int = 0) -> Setting:
    """Of a class of problems."""
    return Setting(problem=make, method=method, seed=seed)
