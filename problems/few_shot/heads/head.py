"""What a head is: a lower and an upper level on features, with whatever closed forms there are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from problems.arguments import integer
from problems.base import Parameters

CLOSED_FORMS = ("lower_gradient", "lower_hvp", "lower_inverse_hvp", "lower_argmin", "upper_gradient", "curvature")


class Head(ABC):
    """The lower objective g_i on the support images, the upper objective f_i on the query images, given features.

    A subclass gives `way`, `lower` and `logits`; nothing else is needed. Closed forms are used where it overrides them
    (`closed_forms`), automatic differentiation elsewhere; without `curvature` the lower step size must be given.

    `own` are the tensors of phi that belong to the head. Losses are (B,), one value a task; theta, v, b and gradients
    (B, q).
    """

    way: int

    def __post_init__(self) -> None:
        """Raise ValueError on fewer than two classes (heads are dataclasses)."""
        integer("way", self.way, least=2)

    @property
    def closed_forms(self) -> frozenset[str]:
        """Names of those of `CLOSED_FORMS` that the class overrides; less those that its fields rule out."""
        return frozenset(name for name in CLOSED_FORMS if getattr(type(self), name) is not getattr(Head, name))

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
        return cross_entropy(self.logits(Z, theta, own), y)

    # ---- closed forms a subclass may give

    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """grad_theta g_i."""
        raise self._no_closed_form("lower_gradient")

    def lower_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, v: Tensor, own: Parameters) -> Tensor:
        """(d2g_i / dtheta2) v_i."""
        raise self._no_closed_form("lower_hvp")

    def lower_inverse_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, b: Tensor, own: Parameters) -> Tensor:
        """(d2g_i / dtheta2)^-1 b_i."""
        raise self._no_closed_form("lower_inverse_hvp")

    def lower_argmin(self, Z: Tensor, y: Tensor, own: Parameters) -> Tensor:
        """theta_i*."""
        raise self._no_closed_form("lower_argmin")

    def upper_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """grad_theta f_i."""
        raise self._no_closed_form("upper_gradient")

    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """mu and L (B,): every eigenvalue of d2g_i/dtheta2 lies between them, whatever theta."""
        raise self._no_closed_form("curvature")

    def _no_closed_form(self, name: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no closed form {name}: expected it to override {name}")

    # ---- for subclasses

    def _matrix(self, theta: Tensor) -> Tensor:
        return theta.unflatten(-1, (self.way, -1))

    def _residual(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """(softmax(logits) - Y) / n."""
        return (self.logits(Z, theta, own).softmax(-1) - units(y, self.way, Z)) / y.shape[-1]


def units(y: Tensor, way: int, like: Tensor) -> Tensor:
    """Y (..., n, way), the classes y (..., n) as unit vectors of the dtype of `like`."""
    return (y.unsqueeze(-1) == torch.arange(way, device=y.device)).to(like.dtype)  # F.one_hot waits for the device


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Its mean over the images, (...,), of logits (..., n, way) and classes y (..., n)."""
    return (logits.logsumexp(-1) - logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)).mean(-1)


def largest_eigenvalue(Z: Tensor) -> Tensor:
    """lambda_max(Z'Z), (...,), of Z (..., n, d); nan where Z is not finite."""
    gram = Z @ Z.mT
    finite = torch.isfinite(gram).all(-1).all(-1)  # the eigenvalues of anything else are refused, and stop all tasks
    largest = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0.0))[..., -1]
    return torch.where(finite, largest, math.nan)
