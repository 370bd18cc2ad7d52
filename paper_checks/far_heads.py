"""Heads far from their optimum on which Lemma 2 (docs/theory.md S2) is nearly sharp: cells of lyapunov_decrease."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from convergence import reference
from paper_checks.lyapunov import Drift
from problems import Constants, Parameters, ProxLogistic, Tasks

KAPPA = 2.0
SMALL = 0.1  # validation inputs beside the training ones: B rho_2 / mu is then most of Lambda
WIDTH = 10.0  # of the pull, in units of s_bar: its curvature is small where |phi| moves by s_bar
BEYOND_K = 2  # first steps beyond the K of an iteration


class FarHeads(ProxLogistic):
    """Logistic heads whose f pulls phi by slope (sqrt(width^2 + |phi|^2) - width), and whose theta starts where told.

    |grad_phi f| <= slope, with curvature at most slope / width.
    """

    slope = 0.0
    width = 1.0
    start: Tensor | None = None  # theta_0 (M, q)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Validation loss plus the pull, written without the cancellation."""
        square = features["centre"].square().sum(-1)
        pull = self.slope * square / (self.width + (self.width**2 + square).sqrt())
        return super().upper(features, theta, tasks) + pull

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """`start`, or 0."""
        return super().theta0(phi, tasks) if self.start is None else self.start[tasks.index]

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # bounds from the data
        """Those of the heads; the pull adds its curvature to L_Phi."""
        heads = super().constants
        return replace(heads, L_Phi=heads.L_Phi + self.slope / self.width)


@dataclass(frozen=True)
class FarStart:
    """An instance with its phi_0 and theta_0 (`problem.start`), what Lemma 2 says of it, and its first steps."""

    problem: FarHeads
    phi: Parameters
    lemma: Drift
    first_steps: int

    @classmethod
    def of(cls, *, lower_steps: int, cg_steps: int, pull: float, seed: int) -> FarStart:
        """alpha = 2 / (L + mu); `pull` is the slope over what the heads add to D_bar.

        phi_0 lies so far out that the logistic losses are flat: the lower level contracts by varrho itself, and
        |grad_theta f| is near B. theta lies behind theta*, on the side that phi moves away from, as far as K + 2 lower
        steps allow: K of them are those of the first iteration, the others are behind theta_0.
        """
        problem = _heads(seed)
        steps = {"lower_steps": lower_steps, "cg_steps": cg_steps, "lower_step_size": problem.constants.lower_step_size}
        lemma = Drift.of(problem.constants, **steps, slope=0.0)
        if pull:
            problem.slope, problem.width = pull * lemma.direction, WIDTH * lemma.allowed
            del problem.constants  # computed without the pull
            lemma = Drift.of(problem.constants, **steps, slope=problem.slope)
        pool = problem.sample(None, torch.Generator())
        common = (pool.y_val.unsqueeze(-1) * pool.X_val).mean((0, 1))
        phi = {"centre": -10 * (problem.width if pull else 1 / problem.constants.B) * common / common.norm()}
        first = _put_behind(problem, phi, lemma, lower_steps)
        return cls(problem, phi, lemma, first)


def _put_behind(problem: FarHeads, phi: Parameters, lemma: Drift, K: int) -> int:
    """Set `problem.start` as in `FarStart.of`; all first steps that Lemma 2 asks for."""
    constants, pool = problem.constants, problem.sample(None, torch.Generator())
    alpha, exact = constants.lower_step_size, reference(problem, phi, pool)
    gradient = exact.hypergradient["centre"]
    # Less by far more than rounding, which would ask for one step more
    distance = (1 - 1e-9) * lemma.allowed / 4 / constants.lower_contraction(alpha) ** (K + BEYOND_K)
    first = lemma.first_steps(constants, lower_step_size=alpha, distance=distance)
    theta = exact.theta + distance * gradient / gradient.norm()
    for _ in range(first - K):
        theta = theta - alpha * torch.func.grad(lambda x: problem.lower(phi, x, pool).sum())(theta)
    problem.start = theta
    return first


def _heads(seed: int) -> FarHeads:
    """Random heads with mu = prox = 1, the training inputs scaled so that L = 1 + lambda_max(X'X / n) / 4 = kappa."""
    drawn = ProxLogistic.random(tasks=4, q=3, examples=12, seed=seed).data
    X = drawn["X"]
    largest = torch.linalg.matrix_norm(X, 2).square().max() / X.shape[1]
    X = X * (4 * (KAPPA - 1) / largest).sqrt()
    return FarHeads(X, drawn["y"], SMALL * drawn["X_val"], drawn["y_val"], prox=1.0, regulariser=0.0)
