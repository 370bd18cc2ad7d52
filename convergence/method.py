"""What `run` asks of a method, and what a step of it returns."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from convergence.oracle import Calls, Oracle
from problems import Parameters, Tasks, map_parameters


class Step(NamedTuple):
    """One upper iteration: the new phi and state, and what was computed on the way at the old phi.

    phi, state   after the step; the state is the method's own
    direction    d, shapes of phi
    theta, v     (..., B, q), of the tasks of the batch
    failure      a Status code of each task, (..., B): 0, BREAKDOWN or NON_FINITE
    """

    phi: Parameters
    state: Any
    direction: Parameters
    theta: Tensor
    v: Tensor
    failure: Tensor


class Method(Protocol):
    """What `run` asks of a method: a frozen set of hyperparameters whose `step` returns the new state.

    It may have `needs`, a tuple of `Need`, which `run` holds against the problem, and `declared`, a `Declared`, which
    the tests and claims on all methods of `convergence.catalogue.METHODS` hold against measurements, and `all_tasks`,
    True where a step takes the whole pool alone, and `by_task`, True where d is the mean over the tasks of the batch of
    what each finds from phi and its own rows of the state, and phi moves by -upper_step_size d: then the tasks can be
    spread over ranks (`convergence.distributed`). Where the calls differ from iteration to iteration, `declared_calls`
    takes an `iteration` beside the batch.
    """

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        """The state before the first iteration."""

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        """One upper iteration."""

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica."""


def descend(phi: Parameters, direction: Parameters, step_size: float | None) -> Parameters:
    """phi - beta d; phi as it is where beta is None and an optimiser takes the step (`run(optimizer=)`, training)."""
    if step_size is None:
        return phi
    return map_parameters(lambda x, dx: torch.sub(x, dx, alpha=step_size), phi, direction)
