"""Class means."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from problems.base import Parameters
from problems.few_shot.heads.head import Head, units


@dataclass(frozen=True, kw_only=True)
class PrototypeHead(Head):
    """g_i = mean |z_j - w_{y_j}|^2 / 2, a point w_c for each class;  f_i the mean cross entropy of -|z - w_c|^2.

    theta* are the class means. mu and L are the smallest and largest share of a class among the support images.
    Raises ValueError on fewer than two classes.
    Source: Snell, Swersky, Zemel, NeurIPS 2017 (ProtoNet).
    """

    way: int = 5

    def logits(self, Z: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """-|z - w_c|^2 + |z|^2: what all classes share is left out."""
        W = self._matrix(theta)
        return 2 * Z @ W.mT - W.square().sum(-1).unsqueeze(-2)

    def lower(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """Mean squared distance to the point of the class, halved."""
        return (Z - units(y, self.way, Z) @ self._matrix(theta)).square().sum(-1).mean(-1) / 2

    def lower_gradient(self, Z: Tensor, y: Tensor, theta: Tensor, own: Parameters) -> Tensor:
        """share_c (w_c - mean of class c)."""
        Y = units(y, self.way, Z) / y.shape[-1]
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
        Y = units(y, self.way, Z)
        return (Y.mT @ Z / Y.sum(-2).unsqueeze(-1)).flatten(-2)

    def curvature(self, Z: Tensor, y: Tensor, own: Parameters) -> tuple[Tensor, Tensor]:
        """The smallest and the largest share of a class."""
        shares = self._shares(Z, y).squeeze(-1)
        return shares.amin(-1), shares.amax(-1)

    def _shares(self, Z: Tensor, y: Tensor) -> Tensor:
        return units(y, self.way, Z).mean(-2).unsqueeze(-1)
