"""A function h of one vector as a bilevel problem whose upper objective is h, whatever the lower level (S6)."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Constants, Parameters, Problem, Tasks, matvec


class Embedded(Problem):
    """g_i = 1/2 (theta - phi)'A (theta - phi),  f_i = h(theta) + xi_i'theta,  sum_i xi_i = 0.

    theta*(phi) = phi, so Phi = h whatever the lower level is; A has eigenvalues log-spaced from 1/kappa to 1 = L.
    With kappa = 1 and K = N = alpha = 1 the algorithm is gradient descent on h in exact arithmetic. `coupled`
    rotates A, so that every eigenvalue takes part in every coordinate; without it the first axis is the eigenvector
    of L. A cold lower level starts at theta = phi.

    A subclass gives h (`objective`, `objective_gradient`), `start`, and the two constants of h: `smoothness`, and
    `steepest` = sup |grad h|.

    dimension      of phi and theta
    tasks          M; more than one adds slopes xi_i = +- slope along the axes, in pairs that cancel

    Raises ValueError on sizes < 1, an odd number of tasks > 1, kappa < 1, or kappa != 1 in dimension 1.
    """

    broadcasts_replicas = True

    @checked
    def __init__(
        self,
        *,
        dimension: int,
        kappa: float = 1.0,
        coupled: bool = False,
        tasks: int = 1,
        slope: float = 1.0,
        seed: int = 0,
    ):
        if not 1 <= kappa < math.inf or (dimension == 1 and kappa != 1):
            raise ValueError(
                f"expected kappa >= 1, and kappa = 1 in dimension 1, got kappa {kappa}, dimension {dimension}"
            )
        if tasks != 1 and tasks % 2:
            raise ValueError(f"expected one task or an even number (slopes cancel in pairs), got {tasks}")
        self.p = self.q = dimension

        A = np.diag(np.geomspace(1.0, 1 / kappa, dimension))
        if coupled:
            rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))
            A = rotation @ A @ rotation.T
            A = (A + A.T) / 2
        slopes = np.zeros((tasks, dimension))
        for pair in range(tasks // 2):
            slopes[2 * pair, pair % dimension] = slope
            slopes[2 * pair + 1, pair % dimension] = -slope
        self.data = {"A": torch.as_tensor(np.tile(A, (tasks, 1, 1))), "slope": torch.as_tensor(slopes)}

    # ---- h, along the last axis

    @abstractmethod
    def objective(self, x: Tensor) -> Tensor:
        """h(x), (..., p) to (...)."""

    @abstractmethod
    def objective_gradient(self, x: Tensor) -> Tensor:
        """grad h(x), (..., p)."""

    @property
    @abstractmethod
    def start(self) -> Tensor:
        """phi_0, (p,); not random."""

    smoothness: float  # the Lipschitz constant of grad h

    @property
    @abstractmethod
    def steepest(self) -> float:
        """sup |grad h|."""

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """`start`, not random."""
        return {"phi": self.start.to(self.data["slope"])}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi itself."""
        row = phi["phi"].unsqueeze(-2)
        return row.expand(*torch.broadcast_shapes(row.shape[:-1], tasks.index.shape), self.q)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 (theta - phi)'A (theta - phi)."""
        return 0.5 * ((theta - features["phi"].unsqueeze(-2)) * self.lower_gradient(features, theta, tasks)).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """h(theta) + xi'theta."""
        return self.objective(theta) + (tasks.slope * theta).sum(-1)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """A (theta - phi)."""
        return self.lower_hvp(features, theta, theta - features["phi"].unsqueeze(-2), tasks)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """A v."""
        return matvec(tasks.A, v)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad h(theta) + xi."""
        return self.objective_gradient(theta) + tasks.slope

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i A v_i."""
        return {"phi": matvec(tasks.A, v).mean(-2)}

    # ---- exact solutions

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi for each task."""
        return self.theta0(phi, tasks)

    def value(self, phi: Parameters) -> Tensor:
        """h(phi)."""
        return self.objective(phi["phi"])

    def hypergradient(self, phi: Parameters) -> Parameters:
        """grad h(phi)."""
        return {"phi": self.objective_gradient(phi["phi"])}

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # from the eigenvalues of A
        """Exact; Lambda = L_Phi since d2g/dphi dtheta (d2g/dtheta2)^-1 is the identity. No sigma_sq without optimum."""
        eigenvalues = torch.linalg.eigvalsh(self.data["A"][0].double())
        mu, L = float(eigenvalues[0]), float(eigenvalues[-1])
        slopes = self.data["slope"].double()
        return Constants(
            mu=mu,
            L=L,
            L_c=L,
            rho_1=0.0,
            rho_2=0.0,
            ell=self.smoothness,
            ell_1=0.0,
            B=self.steepest + float(slopes.norm(dim=-1).max()),
            Lambda=self.smoothness,
            tau=1.0,
            nu=self.smoothness / mu,
            L_Phi=self.smoothness,
            sigma_sq=float(slopes.square().sum(-1).mean()) if self.has("upper_solution") else None,
        )
