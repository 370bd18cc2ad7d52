"""One upper iteration on the tasks of a batch a few at a time, at the memory of those few."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convergence.arguments import integer
from convergence.method import Method
from convergence.oracle import Oracle
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
