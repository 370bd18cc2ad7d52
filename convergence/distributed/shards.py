"""Tasks spread over ranks: each holds some of the pool, with what a method keeps of them, and works on those."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from convergence.chunks import Direction
from convergence.distributed.average import Counted, add, average, mean_upper, since
from convergence.distributed.ranks import Ranks
from convergence.method import Method, Step, descend, require_step
from convergence.needs import Need
from convergence.oracle import Calls, Oracle
from convergence.trees import map_tensors, tensors_of
from problems import Parameters, Problem, Tasks
from problems.base import Constants
from problems.wrapper import Wrapper


class OwnTasks(Wrapper):
    """The problem on these tasks of its pool alone, with the constants of all; its data are views."""

    def __init__(self, problem: Problem, rows: slice):
        super().__init__(_cut(problem, rows))
        self._whole = problem

    @property
    def constants(self) -> Constants | None:  # type: ignore[override]  # may be computed on demand
        """Those of all tasks: step sizes do not depend on the number of ranks."""
        return self._whole.constants


class Numbered(Wrapper):
    """The problem with batches that are numbers of tasks, without their data.

    It is what the loop of a sharded run sees, of which every rank draws the numbers of the whole batch. `moved`
    whether the data goes to the device of the run (for probes, which look at all tasks) or stays where it is.
    """

    def __init__(self, problem: Problem, *, moved: bool):
        super().__init__(problem)
        self._moved = moved

    def select(self, index: Tensor) -> Tasks:
        """Tasks of these numbers, without tensors."""
        return Tasks(index)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Numbered:
        """The same, moved where `moved` says so."""
        return super().to(device, dtype) if self._moved else self


class Sharded:
    """A method whose tasks are spread over ranks: d of the batch is averaged over them before the upper step.

    A rank owns a stretch of the pool (`Ranks.part`): the method's state there has rows of those tasks only, and of a
    batch it works on those that it owns; where tasks are drawn without end it takes a stretch of the batch. Step for
    step the method itself on one rank, the sums over tasks in another order. One all-reduce of p + 13 numbers an
    iteration.

    method    one whose d is the mean over the tasks of the batch of what each finds alone (`Method.by_task`)
    problem   the whole problem
    rows      of the state that is gone on from, as `start` returned it or a later step; None: it starts anew

    `Step.theta` and `Step.v` are those of this rank's tasks, and `failure` one code for all; calls are counted for all
    ranks. Raises ValueError on other methods, on replicas, stochastic objectives, and methods that draw numbers: what
    is drawn would depend on the number of ranks.
    """

    def __init__(
        self,
        method: Method,
        problem: Problem,
        ranks: Ranks,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        rows: Any = None,
    ):
        if not getattr(method, "by_task", False):
            raise ValueError(
                "expected a method whose direction is a mean over single tasks (MemoryReduced without accuracy, or one "
                f"made of parts) where tasks are spread over ranks, got {type(method).__name__}"
            )
        if problem.has("draw"):
            raise ValueError(
                "expected exact objectives where tasks are spread over ranks, "
                f"got {type(problem).__name__}, which draws samples"
            )
        self.of_a_share = True
        self.upper_step_size: float | None = getattr(method, "upper_step_size", None)
        self.needs: tuple[Need, ...] = getattr(method, "needs", ())
        self._whole, self._ranks = method, ranks
        self._method: Method = replace(method, upper_step_size=None)  # type: ignore[type-var]  # all are dataclasses
        self.owned = slice(0, 0) if problem.tasks is None else ranks.part(problem.tasks)
        self._endless = problem.tasks is None
        own = problem if self._endless else OwnTasks(problem, self.owned)
        empty = not self._endless and self.owned.start == self.owned.stop
        self._oracle = None if empty else Oracle(own.to(device, dtype))
        self._rows = rows

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        """The state before the first iteration, of this rank's tasks; None where it has none."""
        if oracle.replicas is not None:
            raise ValueError(f"expected replicas=None where tasks are spread over ranks, got {oracle.replicas}")
        if self._oracle is None:
            return None
        fresh = self._method.start(self._oracle, phi)
        return fresh if self._rows is None else refilled(fresh, self._rows)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t, the same on every rank."""
        own = self._own(oracle, tasks)
        step, found, counted = None, None, Counted(*(dict.fromkeys(calls, 0) for calls in Counted.by(oracle)))
        if own is not None and len(own):
            assert self._oracle is not None
            step, counted = self._local(self._oracle, phi, own, state)
            upper = mean_upper(self._oracle.upper_values, step.theta)
            found = Direction(step.direction, None, step.failure.amax(), (step.failure > 0).sum(), upper)
        share = 0.0 if step is None else step.failure.shape[-1] / len(tasks)
        whole = average(self._ranks, phi, found, share=share, counted=counted)
        add(oracle, whole.counted)
        d, failure = whole.direction.direction, whole.direction.failure
        if step is None:
            none = failure.new_zeros(0, 0)
            step = Step(phi, state, d, none, none, failure)
        return step._replace(phi=descend(phi, d, self.upper_step_size), direction=d, failure=failure[None])

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, of all ranks."""
        return self._whole.declared_calls(batch)

    def _local(self, oracle: Oracle, phi: Parameters, own: Tasks, state: Any) -> tuple[Step, Counted]:
        before = Counted.by(oracle)
        oracle.begin(0)
        step = self._method.step(oracle, phi, own, state)
        require_step(step, self._method, phi, (len(own),))
        if oracle.drew:
            raise ValueError(
                "expected a method that draws no numbers where tasks are spread over ranks, "
                f"got {type(self._method).__name__}"
            )
        return step, since(oracle, before)

    def _own(self, oracle: Oracle, tasks: Tasks) -> Tasks | None:
        """Those of the tasks that are this rank's, numbered as in its pool; None where it has no pool at all."""
        if self._endless:
            return tasks[self._ranks.part(len(tasks))]
        if self._oracle is None:
            return None
        if tasks is oracle.pool:
            return self._oracle.pool
        mine = (tasks.index >= self.owned.start) & (tasks.index < self.owned.stop)
        return self._oracle.problem.select(tasks.index[mine] - self.owned.start)


def refilled(state: Any, rows: list[Tensor]) -> Any:
    """The state with these tensors in place of its own. Raises ValueError where they are not of its shapes."""
    expected = tensors_of(state)
    if [x.shape for x in expected] != [x.shape for x in rows]:
        shapes = [[tuple(x.shape) for x in some] for some in (expected, rows)]
        raise ValueError(f"expected stored rows of shapes {shapes[0]}, got {shapes[1]}")
    left = iter(rows)
    return map_tensors(lambda tensor: next(left).to(tensor).clone(), state)


def _cut(problem: Problem, rows: slice) -> Problem:
    """A copy whose pool is these rows of the data."""
    cut = copy.copy(problem)
    if isinstance(problem, Wrapper):
        cut.problem = _cut(problem.problem, rows)  # type: ignore[attr-defined]
    else:
        cut.data = {name: tensor[rows] for name, tensor in problem.data.items()}
    vars(cut).pop("tasks", None)  # cached: how many there are
    return cut
