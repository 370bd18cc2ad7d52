"""Heads: what a task learns on top of the features, a strongly convex lower level with closed forms.

Z (B, n, d) are the features of n images of each of B tasks, y (B, n) their classes, Y (B, n, way) the same as unit
vectors. theta (B, q) is a matrix W for each task, (way, d), row after row.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import Tensor

from problems.base import Parameters


class Head:
    """The lower objective g_i on the support images, the upper objective f_i on the query images, given features.

    `own` are the tensors of phi that belong to the head. Losses are (B,), one value a task; theta, v, b and gradients
    (B, q). `closed_forms` names those of `Problem` that the head has.
    """

    way: int

    @property
    def closed_forms(self) -> frozenset[str]:
        """Names of the closed forms that there are."""
        return frozenset({"lower_gradient", "lower_hvp", "upper_gradient"})

    # ---- sizes and starts

    def inputs(self, features: int) -> int:
        """d, given the number of features of the embedding."""
        return features

    def prepare(self, Z: Tensor) -> Tensor:
        """Z as the head wants it, computed once an iteration: (..., features) -> (..., d)."""
        return Z

    def parameters(self, features: int, rng: torch.Generator) -> Parameters:
        """Tensors of phi that belong to the head, float32; none by default."""
        return {}

    def start(self, own: Parameters, like: Tensor, features: int) -> Tensor:
        """Where theta of a task starts cold, (q,): zeros, unless phi says otherwise."""
        return like.new_zeros(self.way * self.inputs(features))

    # ---- the two levels

    @abstractmethod
    def lower(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """g_i, of the support images."""

    @abstractmethod
    def logits(self, Z: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(B, n, way): the larger, the likelier the class."""

    def upper(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """f_i: the mean cross entropy of the query images."""
        return _cross_entropy(self.logits(Z, theta, own), y)

    # ---- closed forms

    @abstractmethod
    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """grad_theta g_i."""

    @abstractmethod
    def lower_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, v: Tensor, own: Parameters) -> Tensor:
        """(d2g_i / dtheta2) v_i."""

    @abstractmethod
    def upper_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """grad_theta f_i."""

    def lower_inverse_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, b: Tensor, own: Parameters) -> Tensor:
        """(d2g_i / dtheta2)^-1 b_i."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form lower_inverse_hvp")

    def lower_argmin(self, Z: Tensor, y: Tensor, own: Parameters) -> Tensor:
        """theta_i*."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form lower_argmin")

    @abstractmethod
    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """mu and L (B,): every eigenvalue of d2g_i/dtheta2 lies between them, whatever theta."""

    def _matrix(self, theta: Tensor) -> Tensor:
        return theta.unflatten(-1, (self.way, -1))

    def _residual(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(softmax(logits) - Y) / n."""
        return (self.logits(Z, theta, own).softmax(-1) - _units(y, self.way, Z)) / y.shape[-1]


@dataclass(frozen=True, kw_only=True)
class SoftmaxHead(Head):
    """g_i = mean cross entropy of W (z, 1) + ridge/2 |W|^2 + lasso |W|_1.

    ridge   > 0 makes g_i strongly convex, mu = ridge; 0 as in the published experiments, outside the theory
    lasso   of the published ITD-BiO
    learned_start   theta starts at a tensor "head.start" of phi, as in ANIL; else at zero

    L = ridge + lambda_max(Z'Z) / 2n: the Hessian of the cross entropy in the logits is at most half the unit matrix
    (Boehning 1992). The inverse Hessian costs one system of n way unknowns a task: with J the block diagonal Hessian in
    the logits, K = Z Z', it is (n ridge + J K) S = J Z b' and v = (b - S'Z) / ridge.
    """

    way: int = 5
    ridge: float = 1.0
    lasso: float = 0.0
    learned_start: bool = False

    def __post_init__(self) -> None:
        for name in ("ridge", "lasso"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} a finite number >= 0, got {getattr(self, name)!r}")

    @property
    def closed_forms(self) -> frozenset[str]:
        """The inverse Hessian only with a ridge."""
        return super().closed_forms | ({"lower_inverse_hvp"} if self.ridge > 0 else set())

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
        return _cross_entropy(self.logits(Z, theta, own), y) + penalty

    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(P - Y)'Z / n + ridge W + lasso sign W."""
        gradient = (self._residual(Z, y, theta, own).mT @ Z).flatten(-2).add(theta, alpha=self.ridge)
        return gradient.add(theta.sign(), alpha=self.lasso) if self.lasso else gradient

    def lower_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, v: Tensor, own: Parameters) -> Tensor:
        """(J Z V')'Z / n + ridge V, J = diag(p) - p p' for each image."""
        P, T = self.logits(Z, theta, own).softmax(-1), Z @ self._matrix(v).mT
        S = P * (T - torch.linalg.vecdot(P, T).unsqueeze(-1)) / y.shape[-1]
        return (S.mT @ Z).flatten(-2).add(v, alpha=self.ridge)

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

    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """ridge, and ridge + lambda_max(Z'Z) / 2n."""
        largest = _largest_eigenvalue(Z) / (2 * y.shape[-1])
        return torch.full_like(largest, self.ridge), self.ridge + largest


@dataclass(frozen=True, kw_only=True)
class RidgeHead(Head):
    """g_i = |Z W' - Y|^2 / 2n + lambda/2 |W|^2;  f_i the mean cross entropy of scale W z + offset.

    lambda, scale and offset are tensors of phi: "head.log_ridge", "head.scale", "head.offset". theta* = W has the
    closed form W' = Z'(Z Z' + n lambda)^-1 Y. mu = lambda, L = lambda + lambda_max(Z'Z) / n.
    Source: Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019 (R2D2). Differs: g_i is a mean over the images.
    """

    way: int = 5
    ridge: float = 1.0
    scale: float = 10.0

    def __post_init__(self) -> None:
        for name in ("ridge", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} a finite number > 0, got {getattr(self, name)!r}")

    @property
    def closed_forms(self) -> frozenset[str]:
        """All."""
        return super().closed_forms | {"lower_inverse_hvp", "lower_argmin"}

    def parameters(self, features: int, rng: torch.Generator) -> Parameters:
        """Where lambda, scale and offset start."""
        return {
            "head.log_ridge": torch.tensor(math.log(self.ridge)),
            "head.scale": torch.tensor(self.scale),
            "head.offset": torch.tensor(0.0),
        }

    def logits(self, Z: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """scale W z + offset."""
        return own["head.scale"] * (Z @ self._matrix(theta).mT) + own["head.offset"]

    def lower(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """Mean squared error and ridge."""
        error = Z @ self._matrix(theta).mT - _units(y, self.way, Z)
        ridge = own["head.log_ridge"].exp()
        return error.square().sum((-2, -1)) / (2 * y.shape[-1]) + ridge / 2 * theta.square().sum(-1)

    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(Z W' - Y)'Z / n + lambda W."""
        error = (Z @ self._matrix(theta).mT - _units(y, self.way, Z)) / y.shape[-1]
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
        return (torch.linalg.solve(self._dual(Z, y, own), _units(y, self.way, Z)).mT @ Z).flatten(-2)

    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """lambda, and lambda + lambda_max(Z'Z) / n."""
        largest, ridge = _largest_eigenvalue(Z) / y.shape[-1], own["head.log_ridge"].exp()
        return ridge.expand_as(largest), ridge + largest

    def _dual(self, Z: Tensor, y: Tensor, own: Parameters) -> Tensor:
        n = y.shape[-1]
        return Z @ Z.mT + n * own["head.log_ridge"].exp() * torch.eye(n, dtype=Z.dtype, device=Z.device)


@dataclass(frozen=True, kw_only=True)
class PrototypeHead(Head):
    """g_i = mean |z_j - w_{y_j}|^2 / 2, a point w_c for each class;  f_i the mean cross entropy of -|z - w_c|^2.

    theta* are the class means. mu and L are the smallest and largest share of a class among the support images.
    Source: Snell, Swersky, Zemel, NeurIPS 2017 (ProtoNet).
    """

    way: int = 5

    @property
    def closed_forms(self) -> frozenset[str]:
        """All."""
        return super().closed_forms | {"lower_inverse_hvp", "lower_argmin"}

    def logits(self, Z: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """-|z - w_c|^2 + |z|^2: what all classes share is left out."""
        W = self._matrix(theta)
        return 2 * Z @ W.mT - W.square().sum(-1).unsqueeze(-2)

    def lower(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """Mean squared distance to the point of the class, halved."""
        return (Z - _units(y, self.way, Z) @ self._matrix(theta)).square().sum(-1).mean(-1) / 2

    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """share_c (w_c - mean of class c)."""
        Y = _units(y, self.way, Z) / y.shape[-1]
        return self.lower_hvp(Z, y, theta, theta, own) - (Y.mT @ Z).flatten(-2)

    def lower_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, v: Tensor, own: Parameters) -> Tensor:
        """share_c v_c."""
        return (self._shares(Z, y) * self._matrix(v)).flatten(-2)

    def upper_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """2 (R'Z - (sum R) W), R = (P - Y) / n."""
        R = self._residual(Z, y, theta, own)
        return 2 * (R.mT @ Z - R.sum(-2).unsqueeze(-1) * self._matrix(theta)).flatten(-2)

    def lower_inverse_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, b: Tensor, own: Parameters) -> Tensor:
        """b_c / share_c."""
        return (self._matrix(b) / self._shares(Z, y)).flatten(-2)

    def lower_argmin(self, Z: Tensor, y: Tensor, own: Parameters) -> Tensor:
        """The class means."""
        Y = _units(y, self.way, Z)
        return (Y.mT @ Z / Y.sum(-2).unsqueeze(-1)).flatten(-2)

    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """The smallest and the largest share of a class."""
        shares = self._shares(Z, y).squeeze(-1)
        return shares.amin(-1), shares.amax(-1)

    def _shares(self, Z: Tensor, y: Tensor) -> Tensor:
        return _units(y, self.way, Z).mean(-2).unsqueeze(-1)


def _units(y: Tensor, way: int, like: Tensor) -> Tensor:
    return F.one_hot(y, way).to(like.dtype)


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.logsumexp(-1) - logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)).mean(-1)


def _largest_eigenvalue(Z: Tensor) -> Tensor:
    gram = Z @ Z.mT
    finite = torch.isfinite(gram).all(-1).all(-1)  # the eigenvalues of anything else are refused, and stop all tasks
    largest = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0.0))[..., -1]
    return torch.where(finite, largest, math.nan)
