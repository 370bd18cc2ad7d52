"""Ridge regression."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.arguments import positive
from problems.base import Parameters
from problems.few_shot.heads.head import Head, largest_eigenvalue, units


@dataclass(frozen=True, kw_only=True)
class RidgeHead(Head):
    """g_i = |Z W' - Y|^2 / 2n + lambda/2 |W|^2;  f_i the mean cross entropy of scale W z.

    lambda and scale are tensors of phi: "head.log_ridge", "head.scale". theta* = W has the closed form
    W' = Z'(Z Z' + n lambda)^-1 Y. mu = lambda, L = lambda + lambda_max(Z'Z) / n.
    Raises ValueError on fewer than two classes, and a ridge or a scale that is not positive and finite.
    Source: Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019 (R2D2). Differs: g_i is a mean over the images; no offset,
    as one number added to the logits of all classes changes no probability.
    """

    way: int = 5
    ridge: float = 1.0
    scale: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ridge", "scale"):
            positive(name, getattr(self, name))

    def parameters(self, features: int, rng: torch.Generator) -> Parameters:
        """Where lambda and scale start."""
        return {"head.log_ridge": torch.tensor(math.log(self.ridge)), "head.scale": torch.tensor(self.scale)}

    def logits(self, Z: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """scale W z."""
        return own["head.scale"] * (Z @ self._matrix(theta).mT)

    def lower(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """Mean squared error and ridge."""
        error = Z @ self._matrix(theta).mT - units(y, self.way, Z)
        ridge = own["head.log_ridge"].exp()
        return error.square().sum((-2, -1)) / (2 * y.shape[-1]) + ridge / 2 * theta.square().sum(-1)

    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(Z W' - Y)'Z / n + lambda W."""
        error = (Z @ self._matrix(theta).mT - units(y, self.way, Z)) / y.shape[-1]
        return (error.mT @ Z).flatten(-2) + own["head.log_ridge"].exp() * theta

    def lower_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, v: Tensor, own: Parameters) -> Tensor:
        """(Z V')'Z / n + lambda V."""
        return ((Z @ self._matrix(v).mT / y.shape[-1]).mT @ Z).flatten(-2) + own["head.log_ridge"].exp() * v

    def upper_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """scale (P - Y)'Z / n."""
        return own["head.scale"] * (self._residual(Z, y, theta, own).mT @ Z).flatten(-2)

    def lower_inverse_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, b: Tensor, own: Parameters) -> Tensor:
        """(b - Z'(Z Z' + n lambda)^-1 Z b) / lambda, for each row of W."""
        B = self._matrix(b)
        inner = torch.linalg.solve(self._dual(Z, y, own), Z @ B.mT)
        return (B - inner.mT @ Z).flatten(-2) / own["head.log_ridge"].exp()

    def lower_argmin(self, Z: Tensor, y: Tensor, own: Parameters) -> Tensor:
        """W' = Z'(Z Z' + n lambda)^-1 Y."""
        return (torch.linalg.solve(self._dual(Z, y, own), units(y, self.way, Z)).mT @ Z).flatten(-2)

    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """lambda, and lambda + lambda_max(Z'Z) / n."""
        largest, ridge = largest_eigenvalue(Z) / y.shape[-1], own["head.log_ridge"].exp()
        return ridge.expand_as(largest), ridge + largest

    def _dual(self, Z: Tensor, y: Tensor, own: Parameters) -> Tensor:
        n = y.shape[-1]
        return Z @ Z.mT + n * own["head.log_ridge"].exp() * torch.eye(n, dtype=Z.dtype, device=Z.device)
