"""The upper step taken by an optimiser of torch.optim instead of a plain gradient step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from convergence.method import Method
from problems import Parameters

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Optimised:
    """phi moved along directions d, in place of -grad Phi, by any torch.optim.Optimizer.

    make   of the optimiser from the tensors of phi, say `functools.partial(torch.optim.Adam, lr=1e-3)`

    `phi` holds the tensors themselves, which change in place. Raises ValueError where the method takes the upper step
    as well, TypeError where `make` returns no optimiser.
    """

    def __init__(self, method: Method, phi: Parameters, make: MakeOptimizer):
        if (size := getattr(method, "upper_step_size", None)) is not None:
            raise ValueError(f"expected upper_step_size=None with an optimizer, got {size}: two upper steps")
        self.phi = {name: tensor.detach().clone() for name, tensor in phi.items()}
        self.optimizer = make(list(self.phi.values()))
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(f"expected optimizer to make a torch.optim.Optimizer, got {self.optimizer!r}")

    def step(self, direction: Parameters) -> None:
        """One step of the optimiser, `direction` standing for the gradient."""
        for name, tensor in self.phi.items():
            tensor.grad = direction[name]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def from_point(self, phi: Parameters, direction: Parameters) -> Parameters:
        """The step taken from `phi`, as tensors of their own."""
        for name, tensor in self.phi.items():
            tensor.copy_(phi[name])
        self.step(direction)
        return {name: tensor.clone() for name, tensor in self.phi.items()}


def require_upper_step(method: Method) -> None:
    """Raise ValueError where neither the method nor an optimiser would move phi."""
    if getattr(method, "upper_step_size", 1.0) is None:
        raise ValueError(f"expected upper_step_size or an optimizer, got neither: {type(method).__name__} moves no phi")
