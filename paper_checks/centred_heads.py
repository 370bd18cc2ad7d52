"""Logistic heads that start where they are pulled to, with an exact reference that is fast enough to watch a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from problems import Parameters, ProxLogistic, Tasks
from problems.newton import Dense, NewtonSolved


class CentredHeads(NewtonSolved, ProxLogistic):
    """`ProxLogistic` with theta_0 = phi, so that methods that meta-learn an initialisation can be given to it as well.

    Phi and grad Phi by damped Newton over all replicas at once; the oracle's calls still go through automatic
    differentiation, without torch.vmap.
    """

    parameter = "centre"

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """The centre, for each task."""
        row = phi["centre"].unsqueeze(-2)
        return row.expand(*torch.broadcast_shapes(row.shape[:-1], tasks.index.shape), -1)

    def embed(self, phi: Parameters, tasks: Tasks) -> dict[str, Tensor]:
        """The centre as one row for all tasks."""
        return {"centre": phi["centre"].unsqueeze(-2)}

    def dense(self, phi: Tensor, tasks: Tasks) -> DenseHeads:
        """g and f with Hessians written out: no code shared with the objectives above."""
        return DenseHeads(phi, tasks, self.prox, self.regulariser)


@dataclass(frozen=True)
class DenseHeads(Dense):
    """The two levels of `CentredHeads` at phi (..., q), from the rows y_j x_j."""

    phi: Tensor
    tasks: Tasks
    prox: float
    regulariser: float

    def lower(self, theta: Tensor) -> Tensor:
        """g_i."""
        pull = theta - self.phi.unsqueeze(-2)
        return _losses(self._train, theta).mean(-1) + self.prox / 2 * (pull * pull).sum(-1)

    def lower_derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """A'(p - 1) / n + prox (theta - phi), A'diag(p (1 - p)) A / n + prox I; A_j = y_j x_j, p = sigmoid(A theta)."""
        A = self._train
        p = _probabilities(A, theta)
        slope = _mean_row(A, p - 1) + self.prox * (theta - self.phi.unsqueeze(-2))
        H = A.mT @ ((p * (1 - p)).unsqueeze(-1) * A) / A.shape[-2]
        return slope, H + self.prox * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)

    def upper(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """f_i and its gradient."""
        A = self.tasks.X_val * self.tasks.y_val.unsqueeze(-1)
        values = _losses(A, theta).mean(-1) + (self.regulariser / 2 * (self.phi * self.phi).sum(-1)).unsqueeze(-1)
        return values, _mean_row(A, _probabilities(A, theta) - 1)

    def phi_gradient(self, theta: Tensor, v: Tensor) -> Tensor:
        """reg phi + prox mean_i v_i."""
        return self.regulariser * self.phi + self.prox * v.sum(-2) / v.shape[-2]

    @property
    def _train(self) -> Tensor:
        return self.tasks.X * self.tasks.y.unsqueeze(-1)


def _margins(A: Tensor, theta: Tensor) -> Tensor:
    return torch.einsum("...mnd,...md->...mn", A, theta)


def _losses(A: Tensor, theta: Tensor) -> Tensor:
    return torch.logaddexp(A.new_zeros(()), -_margins(A, theta))


def _probabilities(A: Tensor, theta: Tensor) -> Tensor:
    return 1 / (1 + (-_margins(A, theta)).exp())


def _mean_row(A: Tensor, weights: Any) -> Tensor:
    return torch.einsum("...mn,...mnd->...md", weights, A) / A.shape[-2]
