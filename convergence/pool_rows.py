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
    axis = tasks.index.dim() - 1

    def of_one(tensor: Tensor) -> Tensor:
        if tasks is oracle.pool:
            return tensor
        # As rows of one long table: whole rows are copied faster than entry by entry
        some = tensor.flatten(0, axis).index_select(0, _numbers(tasks.index, tensor.shape[axis]))
        return some.view(*tasks.index.shape, *tensor.shape[axis + 1 :])

    return cast(T, map_tensors(of_one, stored))


def with_rows(stored: T, new: T, tasks: Tasks, oracle: Oracle) -> T:
    """What is stored, with the rows of these tasks replaced by the new ones; None stays None.

    A task that is drawn twice brings the same row twice where the objectives are exact. Where they are not its two rows
    differ: the first is kept, so that a run does not depend on the order in which a device writes.
    """
    axis = tasks.index.dim() - 1

    def in_one(old: Tensor, row: Tensor) -> Tensor:
        if tasks is oracle.pool:
            return row
        if not oracle.exact:
            row = row.gather(axis, _wide(_first(tasks.index), row).expand_as(row))
        numbers = _numbers(tasks.index, old.shape[axis])
        return old.flatten(0, axis).index_copy(0, numbers, row.flatten(0, axis)).view_as(old)

    return cast(T, map_tensors(in_one, stored, new))


def _numbers(index: Tensor, M: int) -> Tensor:
    """Of these tasks in a table that holds the M tasks of one replica after those of the other."""
    if index.dim() == 1:
        return index
    return (index + M * torch.arange(len(index), device=index.device).unsqueeze(-1)).flatten()


def _first(index: Tensor) -> Tensor:
    """Where in the batch each task of it is drawn first, (..., B)."""
    return (index.unsqueeze(-1) == index.unsqueeze(-2)).to(index.dtype).argmax(-1)


def _wide(index: Tensor, stored: Tensor) -> Tensor:
    return index.reshape(*index.shape, *(1,) * (stored.dim() - index.dim()))
