"""What a method keeps for every task of the pool, (..., M, *), and the rows of it that a batch sees and replaces."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor

from convergence.oracle import Oracle
from convergence.trees import map_tensors
from problems import Problem, Tasks

T = TypeVar("T")


def require_pool(problem: Problem, why: str) -> None:
    """Raise ValueError where tasks are drawn without end, so that nothing can be kept for each of them."""
    if problem.tasks is None:
        raise ValueError(
            f"expected a finite pool of tasks for {why}, "
            f"got {type(problem).__name__}, which draws tasks without end: use warm_start=False"
        )


def rows(stored: T, tasks: Tasks, oracle: Oracle) -> T:
    """The rows of these tasks, (..., B, *), of what is stored for the pool: a tensor (..., M, *), a tree, or None."""
    return cast(T, map_tensors(lambda x: x if tasks is oracle.pool else take(x, tasks, oracle), stored))


def with_rows(stored: T, new: T, tasks: Tasks, oracle: Oracle) -> T:
    """What is stored, with the rows of these tasks replaced by the new ones; None stays None.

    A task that is drawn twice brings the same row twice where the objectives are exact. Where they are not its two rows
    differ: the first is kept, so that a run does not depend on the order in which a device writes.
    """

    def in_one(old: Tensor, row: Tensor) -> Tensor:
        if tasks is oracle.pool:
            return row
        if not oracle.exact:
            row = row.gather(tasks.index.dim() - 1, _wide(_first(tasks.index), row).expand_as(row))
        return put(old.clone(memory_format=torch.contiguous_format), row, tasks, oracle)

    return cast(T, map_tensors(in_one, stored, new))


def take(stored: Tensor, tasks: Tasks, oracle: Oracle) -> Tensor:
    """The rows of these tasks, (..., B, *), of (..., M, *)."""
    axis = 0 if oracle.replicas is None else 1
    if tasks.index.dim() == 1:
        return stored.index_select(axis, tasks.index)
    # As rows of one long table: whole rows are copied faster than entry by entry
    some = stored.flatten(0, 1).index_select(0, _numbers(tasks.index, stored.shape[1]))
    return some.view(*tasks.index.shape, *stored.shape[2:])


def put(stored: Tensor, row: Tensor, tasks: Tasks, oracle: Oracle) -> Tensor:
    """What is stored, contiguous, with the rows of these tasks in it, in place."""
    axis = 0 if oracle.replicas is None else 1
    if tasks.index.dim() == 1:
        return stored.index_copy_(axis, tasks.index, row)
    stored.view(-1, *stored.shape[2:]).index_copy_(0, _numbers(tasks.index, stored.shape[1]), row.flatten(0, 1))
    return stored


def _numbers(index: Tensor, M: int) -> Tensor:
    """Of these tasks, (R, B), in a table that holds the M tasks of one replica after those of the other."""
    return (index + M * torch.arange(len(index), device=index.device).unsqueeze(-1)).flatten()


def _first(index: Tensor) -> Tensor:
    """Where in the batch each task of it is drawn first, (..., B)."""
    return (index.unsqueeze(-1) == index.unsqueeze(-2)).to(index.dtype).argmax(-1)


def _wide(index: Tensor, stored: Tensor) -> Tensor:
    return index.reshape(*index.shape, *(1,) * (stored.dim() - index.dim()))
