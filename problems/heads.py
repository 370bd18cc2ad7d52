"""Classification heads pulled to a common centre phi: a nonlinear, strongly convex lower level (docs/theory.md S7d)."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from problems.arguments import checked
from problems.arrays import largest_eigenvalue
from problems.base import Constants, Examples, Parameters, Problem, Tasks


class ProxHeads(Problem):
    """g_i = mean training loss + lambda/2 |theta - phi|^2,  f_i = mean validation loss + reg/2 |phi|^2.

    The loss of an example (x, y) is log sum_k exp(z_k) - z_y, its logits z linear in theta and in x. Arrays with
    leading axis M: X (M, n, d) and labels y (M, n) for the lower level, X_val, y_val for the upper one. phi is
    {"centre": (q,)}. Written without closed forms and without a thought of replicas: it goes through automatic
    differentiation and torch.vmap, as a user's own problem does.

    A subclass gives `mean_loss`, which labels it knows, and `outputs` and `spread`: theta has q = outputs d entries,
    and along U, theta as a matrix (outputs, d), the logits of x spread over max z - min z <= spread |U x|.
    Raises ValueError on wrong shapes, unknown labels, values that are not finite, or prox <= 0.
    """

    outputs: int
    spread: float
    examples = Examples(lower=("X", "y"), upper=("X_val", "y_val"))

    @checked
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
        for name, inputs, labels in (("X", X, y), ("X_val", X_val, y_val)):
            if inputs.dim() != 3 or labels.shape != inputs.shape[:2]:
                raise ValueError(
                    f"expected {name} of shape (M, n, d) with labels (M, n), "
                    f"got {tuple(inputs.shape)} and {tuple(labels.shape)}"
                )
            self._require_labels(name, labels)
        if X.shape[0] != X_val.shape[0] or X.shape[2] != X_val.shape[2]:
            raise ValueError(f"expected X and X_val to share M and d, got {tuple(X.shape)} and {tuple(X_val.shape)}")
        if not (prox > 0 and regulariser >= 0):
            raise ValueError(f"expected prox > 0 and regulariser >= 0, got {prox} and {regulariser}")
        self.data = {"X": X, "y": y, "X_val": X_val, "y_val": y_val}
        self.q = self.outputs * X.shape[2]
        self.prox, self.regulariser = prox, regulariser
        self.check()

    @abstractmethod
    def _require_labels(self, name: str, labels: Tensor) -> None:
        """Raise ValueError on labels of the array `name` that the loss does not know."""

    @abstractmethod
    def mean_loss(self, X: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """The loss averaged over the examples (..., n, d) of each task, shape (...)."""

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Standard normal."""
        like = self.data["X"]
        draw = torch.randn(self.q, generator=rng, dtype=torch.float64, device=rng.device)
        return {"centre": draw.to(like.device, like.dtype)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Training loss plus lambda/2 |theta - phi|^2."""
        pull = 0.5 * self.prox * (theta - features["centre"]).square().sum(-1)
        return self.mean_loss(tasks.X, tasks.y, theta) + pull

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Validation loss plus reg/2 |phi|^2."""
        penalty = 0.5 * self.regulariser * features["centre"].square().sum(-1)
        return self.mean_loss(tasks.X_val, tasks.y_val, theta) + penalty

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # bounds from the data
        """Proven bounds (docs/theory.md S7d), not always attained.

        Along U, |U| = 1, the logits of x_j move like a random variable that takes the value dz_k with probability
        softmax(z)_k, on an interval of length r_j <= spread |U x_j|. The loss then has slope |E dz - dz_y| <= r_j,
        curvature Var dz <= r_j^2 / 4 and third derivative |E (dz - E dz)^3| <= r_j^3 / (6 sqrt 3). A symmetric
        trilinear form attains its norm on the diagonal (Banach 1938), and |U x_j|^3 <= |x_j| |U x_j|^2.
        """
        X, X_val = self.data["X"].double(), self.data["X_val"].double()
        mu = L_c = self.prox
        norms = X.norm(dim=-1, keepdim=True)
        rho_2 = self.spread**3 / (6 * math.sqrt(3)) * largest_eigenvalue(norms * X, X)
        ell = self.spread**2 / 4 * largest_eigenvalue(X_val, X_val)
        B = self.spread * float(X_val.norm(dim=-1).mean(-1).max())
        Lambda = L_c * ell / mu + B * L_c * rho_2 / mu**2
        tau = L_c / mu
        return Constants(
            mu=mu,
            L=mu + self.spread**2 / 4 * largest_eigenvalue(X, X),
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


def halves(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X, y, X_val, y_val of a problem: the first half of each task's examples to train on, the rest to validate."""
    X, X_val, y, y_val = (half.contiguous() for array in (X, y) for half in array.chunk(2, dim=1))
    return X, y, X_val, y_val
