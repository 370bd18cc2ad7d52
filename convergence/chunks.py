"""Upper iterations on a few tasks of a batch at a time, runs on a few replicas at a time: at the memory of those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convergence.arguments import integer
from convergence.batches import Batches
from convergence.method import Method, Step
from convergence.oracle import Oracle
from convergence.pool_rows import put, take
from convergence.result import Chunks, Result
from convergence.trees import map_tensors
from problems import Parameters, Tasks


class Direction(NamedTuple):
    """d of a whole batch, shapes of phi; the method's state after it; the worst Status code of its tasks; how many of
    them had one; the mean of f_i where d was taken (NaN where a closed form took it)."""

    direction: Parameters
    state: Any
    failure: Tensor
    failed: Tensor
    upper: Tensor


def direction_in_chunks(
    method: Method, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any, *, chunk: int
) -> Direction:
    """d of the batch from steps on `chunk` tasks at a time, whose d are averaged; they are all taken at phi.

    Peak memory is that of one chunk and of d, whatever the number of tasks. What a method draws it draws for each chunk
    anew; a method whose state counts iterations would count chunks. Theta and v of the tasks are not kept,
    except by the method's own state. Raises ValueError on a chunk below 1, a method that takes the upper step, or
    replicas.
    """
    chunk = integer("chunk", chunk, least=1)
    if oracle.replicas is not None:
        raise ValueError(f"expected replicas=None with chunks of tasks, got {oracle.replicas}")
    total: Parameters = {}
    failure = failed = torch.zeros((), dtype=torch.int32, device=tasks.index.device)
    upper = torch.zeros((), device=tasks.index.device)
    for first in range(0, len(tasks), chunk):
        some = tasks[first : first + chunk]
        step = method.step(oracle, phi, some, state)
        if step.phi is not phi:
            raise ValueError(f"expected upper_step_size=None with chunks of tasks, got a {type(method).__name__} with")
        share, d, codes, state = len(some) / len(tasks), step.direction, step.failure, step.state
        values = oracle.upper_values
        upper = upper + share * (values.mean() if values is not None else torch.nan)
        del step, some  # so that nothing of this chunk is held during the next
        if total:
            for name, tensor in total.items():
                tensor.add_(d[name], alpha=share)
        else:
            total = {name: tensor * share for name, tensor in d.items()}
        del d
        failure, failed = torch.maximum(failure, codes.amax()), failed + (codes > 0).sum()
    return Direction(total, state, failure, failed, upper)


# ---- the tasks of an iteration, for `run`


class OneBatch(ValueError):
    """A method that takes the tasks of an iteration at once: a few at a time it would be another one."""


def require_separate(method: Method, oracle: Oracle) -> None:
    """Raise OneBatch where a method says that it takes tasks together (`by_task`), and on stochastic objectives."""
    name = type(method).__name__
    if getattr(method, "all_tasks", False) or not getattr(method, "by_task", True):
        raise OneBatch(f"expected all tasks at once for {name}, which decides on them together")
    if not oracle.exact:
        raise OneBatch(
            f"expected all tasks at once for {type(oracle.problem).__name__}, whose samples are drawn for all together"
        )


def pieces(batches: Batches, seen: Any, size: int) -> Iterator[Tasks]:
    """The tasks of an iteration, `size` at a time; what is seen of it is that of `Batches.seen`."""
    if isinstance(seen, Tensor):
        yield from (batches.of(part) for part in seen.split(size, -1))
        return
    whole = batches.of(seen)
    axis = whole.index.dim() - 1
    for first in range(0, len(whole), size):
        count = min(size, len(whole) - first)
        some = {name: tensor.narrow(axis, first, count) for name, tensor in whole.tensors.items()}
        yield Tasks(whole.index.narrow(axis, first, count), **some)


def step_in_chunks(method: Method, oracle: Oracle, phi: Parameters, parts: Iterable[Tasks], state: Any) -> Step:
    """The step of the method on all these tasks from its steps on each part, every one from the same phi and state.

    Since d is a mean over tasks, and phi' - phi linear in d, both are means of those of the parts. A part sees the rows
    of the state that are its tasks' as the whole pool: nothing but one new state is held for M tasks.

    Raises OneBatch (a ValueError) where a few tasks at a time would be another method: see `require_separate`, and
    where it drew numbers, or keeps a state without a row for each task of the pool.
    """
    require_separate(method, oracle)
    new, after, steps = map_tensors(Tensor.clone, state), state, []
    moved: Parameters = phi
    total: Parameters = {}
    count = 0
    for some in parts:
        own = oracle.of_pool(some)
        step = method.step(own, phi, some, map_tensors(lambda x, some=some: _rows(x, some, oracle, method), state))
        if own.drew:
            raise OneBatch(f"expected all tasks at once for {type(method).__name__}, which draws numbers for them all")
        map_tensors(lambda x, row, some=some: put(x, row, some, oracle), new, step.state)
        after = step.state
        if step.phi is not phi:
            moved = _averaged({} if moved is phi else moved, step.phi, count, len(some))
        total = _averaged(total, step.direction, count, len(some))
        count += len(some)
        steps.append((step.theta, step.v, step.failure))
        del step  # so that its d and phi are not held during the next part
    theta, v, failure = zip(*steps, strict=True)
    kept = map_tensors(lambda _, whole: whole, after, new)  # numbers that are no tensors are those after the step
    return Step(moved, kept, total, torch.cat(theta, -2), torch.cat(v, -2), torch.cat(failure, -1))


def _averaged(mean: Parameters, more: Parameters, before: int, count: int) -> Parameters:
    """The mean over before + count tasks, of that over the tasks before (changed in place) and that over the others."""
    if not before:
        return {name: tensor.clone() for name, tensor in more.items()}
    for name, tensor in mean.items():
        tensor.lerp_(more[name], count / (before + count))
    return mean


def _rows(stored: Tensor, tasks: Tasks, oracle: Oracle, method: Method) -> Tensor:
    """The rows of these tasks, (..., B, *), of what is kept for the pool, (..., M, *)."""
    axis = 0 if oracle.replicas is None else 1
    if stored.dim() <= axis or stored.shape[axis] != oracle.problem.tasks:
        raise OneBatch(
            f"expected all tasks at once for {type(method).__name__}, whose state holds a tensor of shape "
            f"{tuple(stored.shape)}: no row for each of {oracle.problem.tasks} tasks"
        )
    return take(stored, tasks, oracle)


# ---- the replicas of a run


class Joined:
    """The result of a run of `replicas`, put together from those of consecutive replicas.

    `rows` is how many values a trace has at most; the memory is that of the result and of one part at a time.
    """

    def __init__(self, replicas: int, rows: int):
        self._replicas, self._rows = replicas, rows
        self._parts: list[Result] = []  # without their tensors
        self._phi: Parameters = {}
        self._trace: dict[str, Tensor] = {}
        self._state: Any = None

    def add(self, part: Result) -> None:
        """The replicas after those that were added."""
        first = sum(len(each.seeds) for each in self._parts)
        if not self._parts:
            self._phi, self._state = map_tensors(self._whole, (part.phi, part.state))
            missing = (self._rows, self._replicas)
            self._trace = {name: torch.full(missing, torch.nan, dtype=x.dtype) for name, x in part.trace.items()}

        def put(whole: Tensor, some: Tensor) -> Tensor:
            return whole.narrow(0, first, len(some)).copy_(some)

        map_tensors(put, (self._phi, self._state), (part.phi, part.state))
        for name, trace in part.trace.items():
            self._trace[name][: len(trace), first : first + trace.shape[1]] = trace
        if all(part.iterations > each.iterations for each in self._parts):  # numbers that are no tensors
            self._state = map_tensors(lambda _, whole: whole, part.state, self._state)
        self._parts.append(replace(part, phi={}, state=None, trace={}))

    def result(self, chunks: Chunks) -> Result:
        """All replicas, as if they had run at once."""
        parts = self._parts
        probed_at = max((part.probed_at for part in parts), key=len)
        return Result(
            phi=self._phi,
            trace={name: trace[: len(probed_at)] for name, trace in self._trace.items()},
            calls=_largest([part.calls for part in parts]),
            examples=_largest([part.examples for part in parts]),
            status=max(part.status for part in parts),
            iterations=max(part.iterations for part in parts),
            statuses=tuple(status for part in parts for status in part.statuses),
            iterations_of=tuple(count for part in parts for count in part.iterations_of),
            state=self._state,
            seeds=tuple(seed for part in parts for seed in part.seeds),
            seconds=sum(part.seconds for part in parts),
            compile_seconds=sum(part.compile_seconds for part in parts),
            probed_at=probed_at,
            chunks=chunks,
        )

    def _whole(self, some: Tensor) -> Tensor:
        return some.new_empty(self._replicas, *some.shape[1:])


def _largest(counts: list[dict[str, int]]) -> dict[str, int]:
    return {name: max(each[name] for each in counts) for name in counts[0]}
