"""Arrays that problems are made of: checked where they are given, drawn where they are random."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def floating(name: str, value: ArrayLike | Tensor) -> Tensor:
    """A copy of the value as a floating-point tensor of its own dtype (integers become float64).

    Raises TypeError on what is no array of real numbers.
    """
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected {name} an array of numbers, got {type(value).__name__}") from error
    if tensor.is_complex():
        raise TypeError(f"expected {name} an array of real numbers, got {tensor.dtype}")
    return tensor.detach().clone() if tensor.is_floating_point() else tensor.double()


def require_values(what: str, tensor: object) -> None:
    """Raise TypeError unless it is a tensor with values, one for each entry: not sparse, not of the meta device."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected {what} to be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise TypeError(f"expected {what} to be a dense tensor with values, got {tensor.layout} on {tensor.device}")


def random_symmetric(rng: np.random.Generator, count: int, eigenvalues: np.ndarray) -> np.ndarray:
    """`count` symmetric matrices with these eigenvalues and random eigenvectors, (count, n, n)."""
    n = len(eigenvalues)
    vectors, _ = np.linalg.qr(rng.standard_normal((count, n, n)))
    matrices = (vectors * eigenvalues) @ np.swapaxes(vectors, -1, -2)
    return (matrices + np.swapaxes(matrices, -1, -2)) / 2


def largest_eigenvalue(left: Tensor, right: Tensor) -> float:
    """lambda_max(1/n sum_j left_j right_j') over the tasks, arrays (M, n, d), for products that are symmetric."""
    return float(torch.linalg.eigvalsh(left.mT @ right / right.shape[-2])[..., -1].max())
