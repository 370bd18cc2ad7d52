"""Peak bytes of live tensors: exact on a CPU (every storage torch makes is followed), from the allocator on CUDA."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of every tensor storage made while active and still alive; `peak` is their largest sum.

    Exact and reproducible to the byte, where the resident size of the process is neither. Tensors made before
    are not counted; nor is the scratch space inside one operation.

    >>> with PeakBytes() as memory:
    ...     kept = torch.zeros(100, dtype=torch.float64)
    ...     passing = kept + 1
    ...     del passing
    >>> memory.peak, memory.live
    (1600, 800)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [tensor.untyped_storage() for tensor in _tensors((args, kwargs))]
        out = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in given}
        for storage in (*given, *(tensor.untyped_storage() for tensor in _tensors(out))):
            if storage._cdata in self._sizes:
                self._resize(storage)  # an operation may grow what it is given, as resize_ and out= do
            elif storage._cdata not in known:
                self._follow(storage)
        return out

    def _resize(self, storage: torch.UntypedStorage) -> None:
        self.live += storage.nbytes() - self._sizes[storage._cdata]
        self._sizes[storage._cdata] = storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        # torch keeps the Python object of a storage for as long as the storage lives, so this fires at its end
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


def peak_bytes(function: Callable[[], Any], *, device: torch.device | str = "cpu") -> int:
    """Peak bytes of tensors that `function` makes, above what was alive before; its result counts while it lives.

    CPU: exact, see `PeakBytes`. CUDA: torch.cuda.max_memory_allocated, which rounds each block to 512 bytes.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with PeakBytes() as memory:
        function()
    return memory.peak


def resident_bytes() -> int | None:
    """The largest resident size that this process has had, for where tensors cannot be followed; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def saved_bytes(function: Callable[[], Any]) -> int:
    """Bytes of the distinct storages that autograd saves for a backward pass while `function` runs: the tape.

    Measured by saved-tensor hooks, a path that shares nothing with `PeakBytes`.
    """
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(sizes.values())


def _tensors(tree: Any) -> list[Tensor]:
    """Of the arguments or the result of an operation. Not by torch's tree_leaves: twice as slow in all."""
    found, left = [], [tree]
    while left:
        branch = left.pop()
        if isinstance(branch, Tensor):
            if branch.layout == torch.strided:
                found.append(branch)
        elif isinstance(branch, (list, tuple)):
            left.extend(branch)
        elif isinstance(branch, dict):
            left.extend(branch.values())
    return found
