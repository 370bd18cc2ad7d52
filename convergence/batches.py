"""The tasks of each upper iteration: all of the pool, batches of it, or what a problem without end draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convergence.oracle import Oracle
from convergence.streams import TaskStream, generator
from problems import Tasks


class Batches:
    """The tasks of iteration t, a function of (seed, t) for each replica.

    `seen(t)` is what changes from iteration to iteration, a tree of tensors: None for all tasks of the pool, their
    numbers (..., B) for batches of it, the index and the tensors of tasks that a problem draws itself. `of` makes
    tasks of it.

    Raises ValueError on a batch that does not fit the problem.
    """

    def __init__(
        self,
        oracle: Oracle,
        seeds: Sequence[int],
        batch: int | None,
        *,
        replacement: bool,
        device: torch.device,
        dtype: torch.dtype,
    ):
        problem = oracle.problem
        self._oracle, self._seeds, self._batch = oracle, seeds, batch
        self._device, self._dtype = device, dtype
        self._own = batch is not None and problem.has("sample")
        self._stream: TaskStream | None = None
        if batch is None and problem.tasks is None:
            raise ValueError(f"expected a batch size: {type(problem).__name__} draws tasks without end, got batch=None")
        if self._own and replacement:
            raise ValueError(f"expected replacement=False: {type(problem).__name__} draws its own tasks, got True")
        if batch is not None and not self._own:
            single = seeds[0] if oracle.replicas is None else seeds
            self._stream = TaskStream(single, pool=len(oracle.pool), batch=batch, replacement=replacement)

    def __call__(self, t: int) -> Tasks:
        """The tasks of iteration t."""
        return self.of(self.seen(t))

    def seen(self, t: int) -> Any:
        """What is new in iteration t."""
        if self._stream is not None:
            return self._stream.index(t).to(self._device)
        if not self._own:
            return None
        problem = self._oracle.problem
        rngs = [generator(seed, "tasks", t) for seed in self._seeds]
        drawn = [problem.sample(self._batch, rng).to(self._device, self._dtype) for rng in rngs]
        tasks = drawn[0] if self._oracle.replicas is None else _stack(drawn)
        return tasks.index, tasks.tensors

    def of(self, seen: Any) -> Tasks:
        """The tasks that these are."""
        if seen is None:
            return self._oracle.pool
        if isinstance(seen, Tensor):
            return self._oracle.problem.select(seen)
        index, tensors = seen
        return Tasks(index, **tensors)


def _stack(drawn: Sequence[Tasks]) -> Tasks:
    index = torch.stack([tasks.index for tasks in drawn])
    return Tasks(index, **{name: torch.stack([tasks.tensors[name] for tasks in drawn]) for name in drawn[0].tensors})
