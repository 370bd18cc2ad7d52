"""How much a claim can afford on a problem: about the seconds of a computation, from a count of what it does.

A count and not a clock, so that the sizes of a claim, and with them its evidence, are a function of the problem alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

# Of one core of a plain machine: seconds for an operation of torch, a number it writes, a floating-point operation
_OPERATION, _NUMBER, _FLOP = 1e-5, 1e-9, 1e-10


class _Writes(TorchDispatchMode):
    """Counts operations and the numbers in what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += sum(
            x.numel() for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, Tensor)
        )
        return out


def seconds(function: Callable[[], object]) -> float:
    """About how long the function takes; it is called once."""
    with FlopCounterMode(display=False) as flops, _Writes() as writes:
        function()
    return _OPERATION * writes.operations + _NUMBER * writes.numbers + _FLOP * flops.get_total_flops()


def affordable(each: float, budget: float, *, least: int, most: int) -> int:
    """How many computations of so many seconds fit a budget, within these limits.

    >>> affordable(0.1, 2.0, least=1, most=100)
    20
    """
    return max(least, min(most, round(budget / each)))
