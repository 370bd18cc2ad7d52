"""How many replicas and tasks to compute at a time: as many as fit a memory budget, or the caches of a processor.

Measured, not modelled: a run of two iterations is followed byte by byte (`convergence.memory`) on one replica and one
task, then on more, and what is taken is affine in their number. Counted are tensors: the problem's data, phi, states,
traces, every intermediate result. Not counted are the interpreter with its libraries (about 300 MiB) and what an
operation of torch uses inside itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from convergence.arguments import integer
from convergence.chunks import OneBatch
from convergence.memory import peak_bytes
from convergence.result import Chunks, Result
from convergence.trees import tensors_of
from problems import Problem

# What a step may touch before replicas slow each other down: half of the last cache of the machine it was measured on.
# At once 256 to 4096 replicas of a quadratic took 1.0 to 1.3 times as long as in such chunks, 64 of a larger one 1.2
# times (python -m tests.benchmarks.throughput), and all their memory
CACHE = 2**24

_MEASUREMENTS = 4  # of a number, after that on one
_COPIES = 3  # of shared data for each replica that one step may hold at a time

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_LIMIT: ContextVar[int | None] = ContextVar("memory limit", default=None)


class TooLittleMemory(ValueError):
    """A budget that the smallest chunks exceed; the message names the least that is enough."""


def parse(memory: str | int) -> int:
    """Bytes of a budget such as "2GiB", "500 MB" or 10**9. Raises ValueError on anything else.

    >>> parse("1.5 GiB")
    1610612736
    """
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", memory)
        if found is None or found[2].upper() not in _UNITS:
            raise ValueError(f'expected memory in bytes or as "2GiB" or "500MB", got {memory!r}')
        size = float(found[1]) * _UNITS[found[2].upper()]
        memory = int(size) if math.isfinite(size) else 2**63  # as much as is refused below
    return integer("memory", memory, least=1)


def readable(count: int) -> str:
    """The bytes in a unit that leaves two digits or more, rounded up: a budget so large is enough.

    >>> readable(12_345), parse(readable(12_345))
    ('13KiB', 13312)
    """
    unit = next((name for name in ("TiB", "GiB", "MiB", "KiB") if count >= 10 * _UNITS[name.upper()]), "B")
    return f"{math.ceil(count / _UNITS[unit.upper()])}{unit}"


@contextmanager
def memory_limit(memory: str | int | None) -> Iterator[None]:
    """A budget for every `run` within that is given none of its own; None: no limit."""
    token = _LIMIT.set(None if memory is None else parse(memory))
    try:
        yield
    finally:
        _LIMIT.reset(token)


def limit(memory: str | int | None) -> int | None:
    """Bytes of the budget given, or of the `memory_limit` around; None where there is neither."""
    return _LIMIT.get() if memory is None else parse(memory)


def resident(*things: Any, device: torch.device) -> int:
    """Bytes of the tensors on this device that these things hold: problems, all they have in turn, trees of tensors."""
    storages = {}
    left = list(things)
    while left:
        thing = left.pop()
        left += vars(thing).values() if isinstance(thing, Problem) else ()
        for tensor in tensors_of(thing):
            if tensor.device.type == device.type:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        if isinstance(thing, dict):
            left += [value for value in thing.values() if isinstance(value, (Problem, dict))]
    return sum(storages.values())


# ---- what a run takes


@dataclass(frozen=True)
class Sizes:
    """What is to be cut into chunks: R replicas (1 where there are none), batches of so many tasks; what is kept.

    short   a run of two iterations on the first `replicas` and so many tasks at a time
    bare    the same without probes
    rows    values that each trace of the whole run will have
    shared  bytes of the data that all replicas see
    held    bytes that are there already, the data
    """

    short: Callable[[int, int], Result]
    bare: Callable[[int, int], Result]
    replicas: int
    batch: int
    rows: int
    shared: int
    held: Callable[[], int]
    device: torch.device

    def step(self, replicas: int, tasks: int) -> int:
        """Bytes of the short run without probes."""
        return peak_bytes(lambda: self.bare(replicas, tasks), device=self.device)

    def peak(self, replicas: int, tasks: int) -> _Peak:
        """Of the whole run with so many at a time, from the short one. Raises OneBatch where tasks do not separate."""
        found: list[Result] = []
        before = self.held()
        taken = peak_bytes(lambda: found.append(self.short(replicas, tasks)), device=self.device)
        (result,) = found
        numbers = 8 * self.rows * len(result.trace)  # of one replica's traces, held one by one and then in one piece
        kept = sum(tensor.nbytes for tensor in tensors_of((result.phi, result.state))) // replicas + numbers
        joined = 0 if replicas == self.replicas else self.replicas * kept
        ends = [
            float(end) for tensor in result.phi.values() for end in (tensor.sum(), torch.linalg.vector_norm(tensor))
        ]
        return _Peak(before, joined, taken + 2 * replicas * numbers, ends)


@dataclass(frozen=True)
class _Peak:
    """Bytes of the data, of the result of all replicas, and of what is computed at a time; numbers that tell phi."""

    data: int
    joined: int
    growing: int
    ends: list[float]

    @property
    def total(self) -> int:
        return self.data + self.joined + self.growing


# ---- what is chosen


def within(memory: int, sizes: Sizes, *, name: str) -> Chunks:
    """The largest chunks whose run stays within `memory` bytes: all tasks of as many replicas as fit, or one replica.

    `name` is the method's. Raises ValueError, with the least budget that is enough, where it is too small, and where a
    few tasks at a time turn out to be another method.
    """
    reason, least = "", 1
    try:
        first = sizes.peak(1, least)  # with what problems compute once
    except OneBatch as error:
        reason, least = f" ({error})", sizes.batch
    if reason:  # not above, where the error still holds what the step had made
        first = sizes.peak(1, least)
    one = sizes.peak(1, least)
    needed = max(first.data + first.growing, one.total)  # the first time nothing is joined
    if needed > memory:
        at_once = "one task" if least == 1 else f"{least} tasks"
        raise TooLittleMemory(
            f"expected memory of at least {readable(needed)} for {at_once} of one replica at a time, "
            f"got {readable(memory)}{reason}"
        )
    tasks = sizes.batch
    if least < sizes.batch:
        found = _largest(lambda count: sizes.peak(1, count), {1: one}, sizes.step(1, 1), sizes.batch, memory)
        for count, peak in found.items():
            _require_the_same(one, peak, count, name)
        tasks = max(found)
        one = found[tasks]
    if tasks < sizes.batch:
        return Chunks(1, even(tasks, sizes.batch), one.total)
    found = _replicas(sizes, one, tasks, memory)
    replicas = max(found)
    return Chunks(even(replicas, sizes.replicas), tasks, found[replicas].total)


def most_within(memory: int, taken: Callable[[int], int], most: int, *, held: int) -> int:
    """The largest number of tasks at a time, at most `most`, that takes no more than memory - held bytes; even chunks.

    Raises ValueError, with the least budget that is enough, where one task takes more.
    """
    one = _Peak(held, 0, taken(1), [])
    if one.total > memory:
        raise TooLittleMemory(
            f"expected memory of at least {readable(one.total)} for one task at a time, got {readable(memory)}"
        )
    found = _largest(lambda count: _Peak(held, 0, taken(count), []), {1: one}, one.growing, most, memory)
    return even(max(found), most)


def even(size: int, whole: int) -> int:
    """The smallest size that needs no more chunks than this one."""
    return math.ceil(whole / math.ceil(whole / size))


def _replicas(sizes: Sizes, one: _Peak, tasks: int, memory: int) -> dict[int, _Peak]:
    """Numbers of replicas whose peak was measured and fits.

    Two replicas can take more than twice as much as one: what they share is then copied for each, which an axis of
    length one does without.
    """
    if one.data + one.joined + 2 * (one.growing + _COPIES * sizes.shared) > memory or sizes.replicas == 1:
        return {1: one}
    two = sizes.peak(2, tasks)
    if two.total > memory:
        return {1: one}
    each = max(two.growing // 2, two.growing - one.growing)
    return _largest(lambda count: sizes.peak(count, tasks), {1: one, 2: two}, each, sizes.replicas, memory)


def _largest(
    peak: Callable[[int], _Peak], found: dict[int, _Peak], each: int, most: int, memory: int
) -> dict[int, _Peak]:
    """Numbers whose peak was measured and fits, those found among them; by the secant through the last two.

    `each` is at least what one more takes, so that the first guess is safe.
    """
    low = max(found)
    guess = min(most, low + (memory - found[low].total) // max(1, each))
    for _ in range(_MEASUREMENTS):
        if guess <= low:
            break
        there = peak(guess)
        slope = max(1, (there.total - found[low].total) // (guess - low))
        if there.total <= memory:
            found[guess], low = there, guess
        else:
            most = guess - 1
        guess = min(most, low + (memory - found[low].total) // slope)
    return found


def _require_the_same(one: _Peak, several: _Peak, count: int, name: str) -> None:
    """Raise ValueError where two iterations on one task at a time ended elsewhere than on several."""
    for a, b in zip(one.ends, several.ends, strict=True):
        if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) and not (math.isnan(a) and math.isnan(b)):
            raise ValueError(
                f"expected a method whose direction is a mean over tasks for a few of them at a time, got {name}, "
                f"which ends elsewhere on one at a time than on {count}"
            )


def within_caches(sizes: Sizes) -> int:
    """How many replicas at a time touch `CACHE` bytes, without probes; from short runs on one replica and on nine."""
    sizes.bare(1, sizes.batch)  # and what problems compute once
    one, nine = (sizes.step(count, sizes.batch) for count in (1, 9))
    return even(max(1, min(sizes.replicas, int(8 * CACHE / max(1, nine - one)))), sizes.replicas)
