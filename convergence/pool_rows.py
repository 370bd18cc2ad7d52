"""What a method keeps for every task of the pool, (..., M, q), and the rows of it that a batch sees and replaces."""

from __future__ import annotations

from torch import Tensor

from convergence.oracle import Oracle
from problems import Problem, Tasks


def require_pool(problem: Problem, why: str) -> None:
    """Raise ValueError where tasks are drawn without end, so that nothing can be kept for each of them."""
    if problem.tasks is None:
        raise ValueError(
            f"expected a finite pool of tasks for {why}, "
            f"got {type(problem).__name__}, which draws tasks without end: use warm_start=False"
        )


def rows(stored: Tensor | None, tasks: Tasks, oracle: Oracle) -> Tensor | None:
    """The rows of these tasks, (..., B, ...), of what is stored for the pool, (..., M, ...)."""
    if stored is None or tasks is oracle.pool:
        return stored
    index = _wide(tasks.index, stored)
    return stored.gather(tasks.index.dim() - 1, index.expand(*tasks.index.shape, *stored.shape[tasks.index.dim() :]))


def with_rows(stored: Tensor | None, new: Tensor, tasks: Tasks, oracle: Oracle) -> Tensor | None:
    """What is stored, with the rows of these tasks replaced. A task drawn twice brings the same row twice."""
    if stored is None or tasks is oracle.pool:
        return None if stored is None else new
    return stored.scatter(tasks.index.dim() - 1, _wide(tasks.index, stored).expand_as(new), new)


def _wide(index: Tensor, stored: Tensor) -> Tensor:
    return index.reshape(*index.shape, *(1,) * (stored.dim() - index.dim()))
