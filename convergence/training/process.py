"""What a command that trains sets for its whole process: the threads of torch, and where freed memory goes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from convergence.arguments import integer

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 2**30


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next tensor, instead of handing it back to the operating system.

    A step of a network frees and takes the same tensors of megabytes again and again. By default glibc unmaps them, and
    the kernel clears every page anew when it is touched: up to a fifth of a few-shot step on a CPU. The process then
    stays as large as it once was. Returns whether the C library is one that can be told (glibc).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(option, _LARGE) == 1 for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD)])


def use_threads(threads: int | None) -> int:
    """So many threads for each operation of torch. Returns how many there are.

    None: as many as torch chooses, the cores of the machine, but no more than the processors that the process may use
    at a time where it is in a container with less (cgroup v2), where more would wait for each other.
    Raises ValueError on fewer than one.
    """
    if threads is None:
        threads = min(torch.get_num_threads(), processors(Path("/sys/fs/cgroup/cpu.max")) or torch.get_num_threads())
    torch.set_num_threads(integer("threads", threads, least=1, otherwise="None or "))
    return torch.get_num_threads()


def processors(quota: Path) -> int | None:
    """What a file cpu.max of a cgroup grants, rounded up: "150000 100000" is 2. None without such a file or limit."""
    try:
        granted, period = quota.read_text().split()
    except (OSError, ValueError):
        return None
    return None if granted == "max" else -(-int(granted) // int(period))
