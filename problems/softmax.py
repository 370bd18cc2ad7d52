"""Softmax heads: `ProxHeads` for any number of classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from problems.arguments import checked
from problems.heads import ProxHeads, halves


class ProxSoftmax(ProxHeads):
    """g_i = 1/n sum_j [log sum_k exp(z_jk) - z_jy] + lambda/2 |theta - phi|^2,  z_j = W x_j,  f_i with X_val, y_val.

    Labels are integers from 0 to classes - 1; theta is W, (classes, d), row after row: q = classes d. Two entries of
    U x differ by at most sqrt 2 |U x|.
    """

    spread = math.sqrt(2)

    @checked
    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        X_val: Tensor,
        y_val: Tensor,
        *,
        classes: int,
        prox: float = 1.0,
        regulariser: float = 0.1,
    ):
        if classes < 2:
            raise ValueError(f"expected classes an integer >= 2, got {classes!r}")
        self.outputs = classes
        super().__init__(X, y, X_val, y_val, prox=prox, regulariser=regulariser)

    @classmethod
    @checked
    def random(
        cls,
        *,
        tasks: int,
        classes: int,
        features: int,
        examples: int,
        prox: float = 1.0,
        regulariser: float = 0.1,
        seed: int = 0,
    ) -> ProxSoftmax:
        """Gaussian inputs; labels from a task's own W near a common one, a tenth of them drawn anew."""
        rng = torch.Generator().manual_seed(seed)
        X = torch.randn(tasks, 2 * examples, features, generator=rng, dtype=torch.float64)
        common = torch.randn(classes, features, generator=rng, dtype=torch.float64)
        own = common + 0.5 * torch.randn(tasks, classes, features, generator=rng, dtype=torch.float64)
        y = (X @ own.mT).argmax(-1)
        anew = torch.randint(classes, y.shape, generator=rng)
        y = torch.where(torch.rand(y.shape, generator=rng) < 0.1, anew, y)
        return cls(*halves(X, y), classes=classes, prox=prox, regulariser=regulariser)

    def _require_labels(self, name: str, labels: Tensor) -> None:
        if labels.dtype != torch.int64 or bool(((labels < 0) | (labels >= self.outputs)).any()):
            raise ValueError(f"expected labels of {name} to be int64 from 0 to {self.outputs - 1}")

    def mean_loss(self, X: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """1/n sum_j [log sum_k exp(z_jk) - z_jy], z_j = W x_j."""
        logits = X @ theta.unflatten(-1, (self.outputs, -1)).mT
        return (logits.logsumexp(-1) - logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)).mean(-1)
