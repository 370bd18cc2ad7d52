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


def random_symmetric(rng: np.random.Generator, count: int, eigenvalues: np.ndarray) -> np.ndarray:
    """`count` symmetric matrices with these eigenvalues and random eigenvectors, (count, n, n)."""
    n = len(eigenvalues)
    vectors, _ = np.linalg.qr(rng.standard_normal((count, n, n)))
    matrices = (vectors * eigenvalues) @ np.swapaxes(vectors, -1, -2)
    return (matrices + np.swapaxes(matrices, -1, -2)) / 2


def largest_eigenvalue(left: Tensor, right: Tensor) -> float:
    """lambda_max(1/n sum_j left_j right_j') over the tasks, arrays (M, n, d), for products that are symmetric."""
    return float(torch.linalg.eigvalsh(left.mT @ right / right.shape[-2])[..., -1].max())
