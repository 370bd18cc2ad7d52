"""What `run` asks of a method, and what a step of it returns."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from convergence.arguments import capable, shown
from convergence.oracle import Calls, Oracle
from problems import Parameters, Tasks, map_parameters

_CODES = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)  # dtypes of a Status


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


# ---- methods of one's own


def require_method(method: Any) -> None:
    """Raise TypeError unless it has `start` and `step`, which take what `run` gives them."""
    capable("a method,", method, "start", "step")
    for name, given in (("start", ("oracle", "phi")), ("step", ("oracle", "phi", "tasks", "state"))):
        try:
            inspect.signature(getattr(method, name)).bind(*given)
        except (TypeError, ValueError) as error:  # a function of nothing has no signature as a method
            raise TypeError(
                f"expected {name} of {type(method).__name__} to take ({', '.join(given)}), "
                f"got one that does not: {error}"
            ) from error


def require_step(step: Any, method: Method, phi: Parameters, rows: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError unless it is a Step from this phi, with `rows` (..., B) of theta, v and codes.

    No values are looked at: nothing waits for a GPU, and what is not finite ends as NON_FINITE. Cost: some
    microseconds.
    """
    name = type(method).__name__
    if not isinstance(step, Step):
        raise TypeError(f"expected step of {name} to return a Step, got {shown(step)}")
    for field, tree in (("phi", step.phi), ("direction", step.direction)):
        if not isinstance(tree, dict) or tree.keys() != phi.keys():
            held = sorted(map(str, tree)) if isinstance(tree, dict) else shown(tree)
            raise TypeError(f"expected {field} of a step of {name} with the tensors {sorted(phi)}, got {held}")
        for key, like in phi.items():
            if not _is_like(tree[key], like, like.shape):
                raise _unlike(f"{field}[{key!r}] of a step of {name}", tree[key], like, like.shape)
    like = next(iter(phi.values()))
    shape = (*rows, *step.theta.shape[-1:]) if isinstance(step.theta, Tensor) and step.theta.dim() else rows
    for field, tensor in (("theta", step.theta), ("v", step.v)):
        if len(shape) != len(rows) + 1 or not _is_like(tensor, like, shape):
            raise _unlike(f"{field} of a step of {name}", tensor, like, (*rows, *shape[len(rows) :]))
    codes = step.failure
    if not isinstance(codes, Tensor) or codes.dtype not in _CODES or not _is_like(codes, like, rows, codes.dtype):
        raise _unlike(f"failure of a step of {name}", codes, like, rows, "integers")


def _is_like(found: Any, like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> bool:
    return (
        isinstance(found, Tensor)
        and found.shape == shape
        and found.dtype is (dtype or like.dtype)
        and found.device == like.device
        and found.layout is torch.strided
        and not found.requires_grad
    )


def _unlike(what: str, found: Any, like: Tensor, shape: tuple[int, ...], kind: object = None) -> Exception:
    if not isinstance(found, Tensor) or found.layout is not torch.strided:
        return TypeError(f"expected {what} to be a dense tensor, got {shown(found)}")
    if found.requires_grad:
        return ValueError(f"expected {what} without a graph, which would grow from step to step: detach it; got one")
    return ValueError(
        f"expected {what} of shape {tuple(shape)} and {kind or like.dtype} on {like.device}, "
        f"got {tuple(found.shape)} of {found.dtype} on {found.device}"
    )
