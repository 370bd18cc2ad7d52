"""Logistic heads: `ProxHeads` with labels of +-1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from problems.arguments import checked
from problems.heads import ProxHeads, halves

_LINEAR = 40.0  # from where log(1 + exp(x)) is x: exp(-40) is below rounding, exp(-20), torch's default, is not


class ProxLogistic(ProxHeads):
    """g_i = 1/n sum_j log(1 + exp(-y_j x_j'theta)) + lambda/2 |theta - phi|^2,  f_i = validation loss + reg/2 |phi|^2.

    Labels are +-1, theta has the size of an input: q = d. The logits of an example are 0 and -y x'theta.
    """

    outputs = 1
    spread = 1.0

    @classmethod
    @checked
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
        return cls(*halves(X, y), prox=prox, regulariser=regulariser)

    def _require_labels(self, name: str, labels: Tensor) -> None:
        if bool((labels.abs() != 1).any()):
            raise ValueError(f"expected labels of {name} to be -1 or +1")

    def mean_loss(self, X: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """1/n sum_j log(1 + exp(-y_j x_j'theta))."""
        margin = y * (X @ theta.unsqueeze(-1)).squeeze(-1)
        return softplus(-margin, threshold=_LINEAR).mean(-1)
