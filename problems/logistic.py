"""Logistic heads pulled to a common centre phi: a nonlinear, strongly convex lower level (docs/theory.md S7d)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from problems.base import Constants, Parameters, Problem, Tasks


class ProxLogistic(Problem):
    """g_i = 1/n sum_j log(1 + exp(-y_j x_j'theta)) + lambda/2 |theta - phi|^2,  f_i = validation loss + reg/2 |phi|^2.

    Arrays with leading axis M: X (M, n, q), y (M, n) of +-1 for the lower level, X_val, y_val for the upper one.
    phi is {"centre": (q,)}. Written without closed forms and without a thought of replicas: it goes through
    automatic differentiation and torch.vmap, as a user's own problem does. Raises ValueError on wrong shapes,
    labels other than +-1, values that are not finite, or prox <= 0.
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        X_val: Tensor,
        y_val: Tensor,
        *,
        prox: float = 1.0,
        regulariser: float = 0.1,
    ):
        X, y, X_val, y_val = (torch.as_tensor(array) for array in (X, y, X_val, y_val))
        for name, features, labels in (("X", X, y), ("X_val", X_val, y_val)):
            if features.dim() != 3 or labels.shape != features.shape[:2]:
                raise ValueError(
                    f"expected {name} of shape (M, n, q) with labels (M, n), "
                    f"got {tuple(features.shape)} and {tuple(labels.shape)}"
                )
            if bool((labels.abs() != 1).any()):
                raise ValueError(f"expected labels of {name} to be -1 or +1")
        if X.shape[0] != X_val.shape[0] or X.shape[2] != X_val.shape[2]:
            raise ValueError(f"expected X and X_val to share M and q, got {tuple(X.shape)} and {tuple(X_val.shape)}")
        if not (prox > 0 and regulariser >= 0):
            raise ValueError(f"expected prox > 0 and regulariser >= 0, got {prox} and {regulariser}")
        self.data = {"X": X, "y": y, "X_val": X_val, "y_val": y_val}
        self.q = X.shape[2]
        self.prox, self.regulariser = prox, regulariser
        self.check()

    @classmethod
    def random(
        cls, *, tasks: int, q: int, examples: int, prox: float = 1.0, regulariser: float = 0.1, seed: int = 0
    ) -> ProxLogistic:
        """Gaussian inputs; labels from a task's own direction near a common one, a tenth of them flipped."""
        rng = torch.Generator().manual_seed(seed)
        X = torch.randn(tasks, 2 * examples, q, generator=rng, dtype=torch.float64)
        direction = torch.randn(q, generator=rng, dtype=torch.float64)
        own = direction + 0.5 * torch.randn(tasks, q, generator=rng, dtype=torch.float64)
        y = torch.where((X @ own.unsqueeze(-1)).squeeze(-1) >= 0, 1.0, -1.0).double()
        y = torch.where(torch.rand(y.shape, generator=rng) < 0.1, -y, y)
        halves = (X[:, :examples], y[:, :examples], X[:, examples:], y[:, examples:])
        return cls(*(half.contiguous() for half in halves), prox=prox, regulariser=regulariser)

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Standard normal."""
        like = self.data["X"]
        draw = torch.randn(self.q, generator=rng, dtype=torch.float64, device=rng.device)
        return {"centre": draw.to(like.device, like.dtype)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Training loss plus lambda/2 |theta - phi|^2."""
        margin = tasks.y * (tasks.X @ theta.unsqueeze(-1)).squeeze(-1)
        return softplus(-margin).mean(-1) + 0.5 * self.prox * (theta - features["centre"]).square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Validation loss plus reg/2 |phi|^2."""
        margin = tasks.y_val * (tasks.X_val @ theta.unsqueeze(-1)).squeeze(-1)
        return softplus(-margin).mean(-1) + 0.5 * self.regulariser * features["centre"].square().sum(-1)

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # bounds from the data: S7d
        """Proven bounds: the logistic loss has curvature <= 1/4 and third derivative <= 1 / (6 sqrt 3)."""
        X, X_val = self.data["X"].double(), self.data["X_val"].double()
        n, n_val = X.shape[1], X_val.shape[1]
        largest = lambda matrices: float(torch.linalg.eigvalsh(matrices)[..., -1].max())  # noqa: E731
        mu = L_c = self.prox
        norms = X.norm(dim=-1, keepdim=True)
        rho_2 = largest((norms * X).mT @ X / n) / (6 * math.sqrt(3))
        ell = largest(X_val.mT @ X_val / n_val) / 4
        B = float(X_val.norm(dim=-1).mean(-1).max())
        Lambda = L_c * ell / mu + B * L_c * rho_2 / mu**2
        tau = L_c / mu
        return Constants(
            mu=mu,
            L=mu + largest(X.mT @ X / n) / 4,
            L_c=L_c,
            rho_1=0.0,
            rho_2=rho_2,
            ell=ell,
            ell_1=0.0,
            B=B,
            Lambda=Lambda,
            tau=tau,
            nu=ell / mu + B * rho_2 / mu**2,
            L_Phi=self.regulariser + Lambda * tau,
        )
