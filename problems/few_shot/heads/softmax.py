"""Softmax regression."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from problems.arguments import non_negative, truth
from problems.base import Parameters
from problems.few_shot.heads.head import Head, cross_entropy, largest_eigenvalue, units


@dataclass(frozen=True, kw_only=True)
class SoftmaxHead(Head):
    """g_i = mean cross entropy of W (z, 1) + ridge/2 |W|^2 + lasso |W|_1.

    ridge   > 0 makes g_i strongly convex, mu = ridge; 0 as in the published experiments, outside the theory
    lasso   of the published ITD-BiO
    learned_start   theta starts at a tensor "head.start" of phi, as in ANIL; else at zero. Learned through the steps
                    alone (`ITDBiO`): neither g_i nor f_i sees it at a given theta, so that the implicit gradient of
                    `MemoryReduced` in it is exactly zero and it stays where it was drawn

    L = ridge + lambda_max(Z'Z) / 2n: the Hessian of the cross entropy in the logits is at most half the unit matrix
    (Boehning 1992). The inverse Hessian costs one system of n way unknowns a task: with J the block diagonal Hessian in
    the logits, K = Z Z', it is (n ridge + J K) S = J Z b' and v = (b - S'Z) / ridge.
    Raises ValueError on fewer than two classes, and penalties that are negative or not finite.
    """

    way: int = 5
    ridge: float = 1.0
    lasso: float = 0.0
    learned_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ridge", "lasso"):
            non_negative(name, getattr(self, name))
        truth("learned_start", self.learned_start)

    @property
    def closed_forms(self) -> frozenset[str]:
        """The inverse Hessian only with a ridge."""
        return super().closed_forms - (set() if self.ridge > 0 else {"lower_inverse_hvp"})

    def inputs(self, features: int) -> int:
        """The features and a constant one."""
        return features + 1

    def prepare(self, Z: Tensor) -> Tensor:
        """(z, 1)."""
        return F.pad(Z, (0, 1), value=1.0)

    def parameters(self, features: int, rng: torch.Generator) -> Parameters:
        """The start of theta where it is learned: uniform within 1 / sqrt(features)."""
        if not self.learned_start:
            return {}
        uniform = torch.rand(self.way * self.inputs(features), generator=rng)
        return {"head.start": (2 * uniform - 1) / math.sqrt(features)}

    def start(self, own: Parameters, like: Tensor, features: int) -> Tensor:
        """Zeros, or what phi holds."""
        return own["head.start"] if self.learned_start else super().start(own, like, features)

    def logits(self, Z: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """W (z, 1)."""
        return Z @ self._matrix(theta).mT

    def lower(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """Mean cross entropy, ridge and lasso."""
        penalty = self.ridge / 2 * theta.square().sum(-1) + self.lasso * theta.abs().sum(-1)
        return cross_entropy(self.logits(Z, theta, own), y) + penalty

    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(P - Y)'Z / n + ridge W + lasso sign W."""
        error = self.logits(Z, theta, own).softmax(-1) - units(y, self.way, Z)
        gradient = self._mean_with_ridge(error, Z, theta)
        return gradient.add(theta.sign(), alpha=self.lasso) if self.lasso else gradient

    def lower_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, v: Tensor, own: Parameters) -> Tensor:
        """(J Z V')'Z / n + ridge V, J = diag(p) - p p' for each image."""
        P, T = self.logits(Z, theta, own).softmax(-1), Z @ self._matrix(v).mT
        return self._mean_with_ridge(P * (T - torch.linalg.vecdot(P, T).unsqueeze(-1)), Z, v)

    def upper_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(P - Y)'Z / n."""
        return (self._residual(Z, y, theta, own).mT @ Z).flatten(-2)

    def lower_inverse_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, b: Tensor, own: Parameters) -> Tensor:
        """By the system of n way unknowns in the class docstring."""
        P, n = self.logits(Z, theta, own).softmax(-1), y.shape[-1]
        J = torch.diag_embed(P) - P.unsqueeze(-1) * P.unsqueeze(-2)  # (B, n, way, way)
        JK = torch.einsum("bjkl,bji->bjkil", J, Z @ Z.mT).flatten(-2).flatten(-3, -2)
        right = (J @ (Z @ self._matrix(b).mT).unsqueeze(-1)).flatten(-3)
        system = JK + n * self.ridge * torch.eye(n * self.way, dtype=Z.dtype, device=Z.device)
        S = torch.linalg.solve(system, right).unflatten(-1, (n, self.way))
        return (b - (S.mT @ Z).flatten(-2)) / self.ridge

    def _mean_with_ridge(self, S: Tensor, Z: Tensor, theta: Tensor) -> Tensor:
        """S'Z / n + ridge theta, in one operation: there are K + N of them on small matrices."""
        return torch.baddbmm(self._matrix(theta), S.mT, Z, beta=self.ridge, alpha=1 / S.shape[-2]).flatten(-2)

    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """ridge, and ridge + lambda_max(Z'Z) / 2n."""
        largest = largest_eigenvalue(Z) / (2 * y.shape[-1])
        return torch.full_like(largest, self.ridge), self.ridge + largest
