"""Real data that scikit-learn brings along: nothing is downloaded."""

from __future__ import annotations

import torch
from torch import Tensor


def bundled(name: str) -> tuple[Tensor, Tensor]:
    """Inputs (N, d), float64, and labels (N,), int64, of scikit-learn's data set `name`: digits, breast_cancer.

    Raises ModuleNotFoundError without scikit-learn.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"the data set {name} needs scikit-learn: install the extra data") from None
    inputs, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    return torch.from_numpy(inputs).double(), torch.from_numpy(labels).long()


def with_bias(inputs: Tensor) -> Tensor:
    """The inputs (..., d) with a last column of ones, (..., d + 1)."""
    return torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1)], -1)


def other_shares(examples: int, shares: int) -> Tensor:
    """Row i: the numbers of all examples but those of share i, (shares, examples - examples / shares), in order."""
    own = torch.arange(examples).unflatten(0, (shares, -1))
    return torch.stack([torch.cat([own[:i].flatten(), own[i + 1 :].flatten()]) for i in range(shares)])
