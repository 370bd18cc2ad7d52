"""What the tests of estimators share: an estimate from theta_0(phi), and the K-step objective written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from convergence import Estimate, Estimator, GradientDescent, HeavyBall, LowerSolver, Oracle
from problems import Parameters, Problem, ProxLogistic, Quadratic, Tasks
from tests.independent import Dense
from tests.strategies import normal

LOWER = {"descent": lambda K, alpha: GradientDescent(K, alpha), "momentum": lambda K, alpha: HeavyBall(K, alpha, 0.6)}


class FromCentre(ProxLogistic):
    """Prox-logistic heads that start at phi, as in MAML: f, the steps and their start all see it."""

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        lead = torch.broadcast_shapes(tasks.index.shape, (*phi["centre"].shape[:-1], 1))
        return phi["centre"].unsqueeze(-2).expand(*lead, self.q)


class Jittered(Problem):
    """Stochastic in its features themselves: each draw scales phi anew, z = (1 + noise) phi, in both levels."""

    q = 3

    def __init__(self):
        self.data = {"scale": torch.ones(4, 3, dtype=torch.float64), "c": normal(0, 4, 3)}

    def draw(self, tasks: Tasks, rng: torch.Generator) -> Tasks:
        noise = 0.3 * torch.randn(tasks.scale.shape, generator=rng, dtype=tasks.scale.dtype)
        return Tasks(tasks.index, **{**tasks.tensors, "scale": tasks.scale + noise})

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"x": torch.randn(3, generator=rng, dtype=torch.float64)}

    def embed(self, phi: Parameters, tasks: Tasks) -> Tensor:
        return tasks.scale * phi["x"]

    def lower(self, z: Tensor, theta: Tensor, tasks: Tasks) -> Tensor:
        return ((theta - z).cosh() + 0.5 * (theta - tasks.c).square()).sum(-1)

    def upper(self, z: Tensor, theta: Tensor, tasks: Tasks) -> Tensor:
        return (theta.square() + z.sin() * theta).sum(-1)


def somewhere(problem: Problem, seed: int, *lead: int) -> Parameters:
    """A phi with standard normal entries."""
    like = problem.phi0(torch.Generator())
    return {name: normal(seed + k, *lead, *tensor.shape) for k, (name, tensor) in enumerate(like.items())}


def estimated(
    problem: Problem,
    phi: Parameters,
    estimator: Estimator,
    lower: LowerSolver,
    *,
    seeds: Sequence[int] | None = None,
    oracle: Oracle | None = None,
    tasks: Tasks | None = None,
) -> tuple[Estimate, Oracle]:
    """The estimate from theta_0(phi), whose own dependence on phi is kept; `seeds`: one for each replica."""
    if oracle is None:
        oracle = Oracle(problem) if seeds is None else Oracle(problem, replicas=len(seeds), seeds=seeds)
    tasks = oracle.pool if tasks is None else tasks
    z = oracle.embed(phi, tasks, keep_graph=True)
    theta = oracle.theta0(z.phi, tasks, keep_graph=True)
    return estimator.estimate(oracle, z, theta, tasks, lower=lower), oracle


def flat(direction: Parameters, *, lead: int = 0) -> Tensor:
    """d as one vector, after the leading axes."""
    return torch.cat([tensor.reshape(*tensor.shape[:lead], -1) for tensor in direction.values()], -1)


def momentum_of(lower: LowerSolver) -> float:
    return lower.momentum if isinstance(lower, HeavyBall) else 0.0


def step_polynomial(A: np.ndarray, lower: LowerSolver) -> np.ndarray:
    """P with theta_K - theta* = P (theta_0 - theta*): a block of a power of the map of (theta - theta*, m)."""
    eye, alpha, gamma = np.eye(len(A)), lower.step_size, momentum_of(lower)
    once = np.block([[eye - alpha * A, -alpha * gamma * eye], [A, gamma * eye]])
    return np.linalg.matrix_power(once, lower.steps)[: len(A), : len(A)]


def quadratic_law(problem: Quadratic, phi: Parameters, lower: LowerSolver) -> tuple[np.ndarray, np.ndarray]:
    """grad Phi_K in closed form, Phi_K = mean_i f_i(phi, theta_{i,K}(phi)), and theta_K."""
    data = {name: tensor.numpy() for name, tensor in problem.data.items()}
    x, total, thetas = phi["phi"].numpy(), np.zeros(problem.p), []
    for i in range(problem.tasks):
        A, C, b, Q, u, R, w = (data[name][i] for name in "ACbQuRw")
        G = data["gain"][i] if "gain" in data else np.zeros_like(C)
        P, J = step_polynomial(A, lower), np.linalg.solve(A, C)
        star = J @ x + np.linalg.solve(A, b)
        theta = star + P @ (G @ x - star)
        total += R @ (x - w) + (J + P @ (G - J)).T @ Q @ (theta - u)
        thetas.append(theta)
    return total / problem.tasks, np.array(thetas)


def k_step_objective(dense: Dense, x: Tensor, lower: LowerSolver) -> Tensor:
    """Phi_K(x) with the steps written out, to be differenced or differentiated in x."""
    theta = dense.problem.theta0(dense.named(x), dense.tasks)
    m = torch.zeros_like(theta)
    for _ in range(lower.steps):
        m = momentum_of(lower) * m + dense.each(dense.lower_slope, x, theta)
        theta = theta - lower.step_size * m
    return dense.each(dense.f, x, theta).mean()
