"""The upper step taken by an optimiser of torch.optim instead of a plain gradient step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from convergence.method import Method
from problems import Parameters

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]

# Each entry of a tensor moves by its own gradients alone, so that replicas stacked in one tensor do not meet.
ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Rprop,
    torch.optim.ASGD,
)


class Optimised:
    """phi moved along directions d, in place of grad Phi, by a torch.optim.Optimizer whose step needs no closure.

    make       of the optimiser from the tensors of phi, say `functools.partial(torch.optim.Adam, lr=1e-3)`
    replicas   phi holds several runs, which only elementwise optimisers (`ELEMENTWISE`) keep apart

    `phi` holds the tensors themselves, which change in place. Raises ValueError where the method takes the upper step
    as well, on an optimiser that needs a closure (LBFGS), and on one that is not elementwise with replicas; TypeError
    where `make` returns no optimiser.
    """

    def __init__(self, method: Method, phi: Parameters, make: MakeOptimizer, *, replicas: bool = False):
        if (size := getattr(method, "upper_step_size", None)) is not None:
            raise ValueError(f"expected upper_step_size=None with an optimizer, got {size}: two upper steps")
        self.phi = {name: tensor.detach().clone() for name, tensor in phi.items()}
        self.optimizer = make(list(self.phi.values()))
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(f"expected optimizer to make a torch.optim.Optimizer, got {self.optimizer!r}")
        name = type(self.optimizer).__name__
        if _needs_closure(self.optimizer):
            raise ValueError(f"expected an optimizer that steps along d alone, got {name}, whose step needs a closure")
        if replicas and type(self.optimizer) not in ELEMENTWISE:
            known = ", ".join(kind.__name__ for kind in ELEMENTWISE)
            raise ValueError(f"expected an elementwise optimizer with replicas, one of {known}, got {name}")

    def step(self, direction: Parameters) -> None:
        """One step of the optimiser, `direction` standing for the gradient."""
        for name, tensor in self.phi.items():
            tensor.grad = direction[name].clone()  # optimisers may write into it
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def from_point(self, phi: Parameters, direction: Parameters) -> Parameters:
        """The step taken from `phi`, as tensors of their own."""
        for name, tensor in self.phi.items():
            tensor.copy_(phi[name])
        self.step(direction)
        return {name: tensor.clone() for name, tensor in self.phi.items()}


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    arguments = inspect.signature(optimizer.step).parameters.values()
    return any(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in arguments)


def require_upper_step(method: Method) -> None:
    """Raise ValueError where neither the method nor an optimiser would move phi."""
    if getattr(method, "upper_step_size", 1.0) is None:
        raise ValueError(f"expected upper_step_size or an optimizer, got neither: {type(method).__name__} moves no phi")
