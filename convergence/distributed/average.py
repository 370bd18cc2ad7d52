"""One all-reduce an iteration: d, and what else all ranks must know, of the tasks of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convergence.chunks import Direction
from convergence.distributed.ranks import Ranks
from convergence.oracle import Calls, Oracle
from convergence.oracle.parts import CALLS
from convergence.status import Status
from problems import Parameters

# mean f_i; tasks that failed, ranks that met BREAKDOWN and NON_FINITE; ranks that wish to stop; calls and examples
BESIDE = 5 + 2 * len(CALLS)


class Counted(NamedTuple):
    """Calls of an oracle, and the terms that they looked at."""

    calls: Calls
    examples: Calls

    @classmethod
    def by(cls, oracle: Oracle) -> Counted:
        """Those so far."""
        return cls(dict(oracle.calls), dict(oracle.examples))


class Average(NamedTuple):
    """What a batch has come to: `Direction`, its state that of this rank alone; whether some rank wishes to stop; the
    calls and examples of all ranks."""

    direction: Direction
    stop: bool
    counted: Counted


def average(
    ranks: Ranks, phi: Parameters, found: Direction | None, *, share: float, counted: Counted, stop: bool = False
) -> Average:
    """d of a batch from what each rank has found of its own tasks, in one all-reduce of p + BESIDE numbers.

    found     d, the mean of f_i and the failures of the tasks of this rank; None where it has none
    share     how large a part of the batch they are
    counted   oracle calls on them

    The numbers are of the dtype of phi (float32 where that is narrower): counts are exact up to 2^24 an iteration in
    float32, up to 2^53 in float64. Raises RankLost.
    """
    like = next(iter(phi.values()))
    dtype = torch.promote_types(like.dtype, torch.float32)
    p = sum(tensor.numel() for tensor in phi.values())
    message = torch.zeros(p + BESIDE, dtype=dtype, device=like.device)
    shapes = {name: (tensor.shape, tensor.numel()) for name, tensor in phi.items()}
    d = message[:p].split([size for _, size in shapes.values()])
    counts = [*counted.calls.values(), *counted.examples.values()]
    if found is not None:
        for name, part in zip(shapes, d, strict=True):
            torch.mul(found.direction[name].reshape(-1), share, out=part)
        worst = [found.failure == status for status in (Status.BREAKDOWN, Status.NON_FINITE)]
        message[p : p + 4] = torch.stack([x.to(message) for x in (found.upper * share, found.failed, *worst)])
    message[p + 4 :] = torch.tensor([stop, *counts], dtype=dtype)
    ranks.sum(message)
    direction = {
        name: part.view(shape).to(like.dtype) for (name, (shape, _)), part in zip(shapes.items(), d, strict=True)
    }
    upper, failed, broke, non_finite = message[p : p + 4]
    failure = torch.where(non_finite > 0, Status.NON_FINITE, torch.where(broke > 0, Status.BREAKDOWN, 0)).int()
    wished, *totals = message[p + 4 :].tolist()
    whole = [dict(zip(CALLS, map(int, some), strict=True)) for some in (totals[: len(CALLS)], totals[len(CALLS) :])]
    state = None if found is None else found.state
    return Average(Direction(direction, state, failure, failed.int(), upper), bool(wished), Counted(*whole))


def since(oracle: Oracle, before: Counted) -> Counted:
    """What an oracle has counted since."""
    pairs = zip(Counted.by(oracle), before, strict=True)
    return Counted(*({call: now[call] - then[call] for call in CALLS} for now, then in pairs))


def add(oracle: Oracle, more: Counted) -> None:
    """Let the oracle count these as well."""
    for counted, extra in zip((oracle.calls, oracle.examples), more, strict=True):
        for call, count in extra.items():
            counted[call] += count


def mean_upper(values: Tensor | None, like: Tensor) -> Tensor:
    """The mean of f_i over the tasks, NaN where no oracle has evaluated it."""
    return like.new_full((), torch.nan) if values is None else values.mean()
