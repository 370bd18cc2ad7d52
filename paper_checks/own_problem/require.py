"""What makes a problem one that can be judged, said in a sentence before any claim is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from convergence.imported import said
from convergence.reference import of_one_task
from paper_checks.own_problem.some_tasks import SomeTasks, points
from problems import Parameters, Problem, Tasks

# The closed forms a problem may give, and the arguments they take: phi, z (features), theta, v, tasks
CLOSED_FORMS = {
    "lower_gradient": "z theta tasks",
    "lower_hvp": "z theta v tasks",
    "lower_inverse_hvp": "z theta v tasks",
    "upper_gradient": "z theta tasks",
    "surrogate_gradient": "phi z theta v tasks",
    "lower_argmin": "z tasks",
    "curvature": "z tasks",
    "lower_solution": "phi tasks",
    "value": "phi",
    "hypergradient": "phi",
}


def require(problem: Problem) -> None:
    """Raise ValueError, in one sentence, where the problem is none that can be run at its start.

    Asked for: tasks with finite data; phi_0 a dict of finite tensors; theta_0 (B, q); g and f, which give one finite
    value a task; that torch.func differentiates them and torch.vmap maps them over tasks; closed forms of the shapes
    of what they stand for. Cost: a few evaluations on two tasks. What is wrong and yet runs is left to `contract`.
    """
    name = type(problem).__name__
    try:
        problem.check()
        _ = problem.tasks
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    two = _attempt(f"{name} to give two of its tasks", lambda: SomeTasks.of(problem, 2))
    two = two.to(dtype=torch.float64)
    phi = _start(name, problem, two)
    tasks = two.select(torch.arange(two.tasks))
    theta = _theta0(name, two, phi, tasks)
    z = _attempt(f"{name}.embed to take phi and a batch of {len(tasks)} tasks", lambda: two.embed(phi, tasks))
    for level in ("lower", "upper"):
        _require_objective(name, two, level, (phi, z, theta, tasks))
    for form, arguments in CLOSED_FORMS.items():
        if problem.has(form):
            given = {"phi": phi, "z": z, "theta": theta, "v": torch.ones_like(theta), "tasks": tasks}
            inside = problem.to(dtype=torch.float64)
            call = partial(getattr(inside, form), *(given[each] for each in arguments.split()))
            _require_shape(f"{name}.{form}", _attempt(f"{name}.{form} to be evaluated", call), form, phi, theta)


def call(problem: Problem, form: str, given: dict[str, Any]) -> Any:
    """The closed form of this name, with the arguments it takes of those given."""
    return getattr(problem, form)(*(given[each] for each in CLOSED_FORMS[form].split()))


def _attempt(what: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"expected {what}, got {said(error)}") from error


def _start(name: str, problem: Problem, two: SomeTasks) -> Parameters:
    phi = _attempt(f"{name}.phi0 to draw a start from a torch.Generator", lambda: problem.phi0(torch.Generator()))
    if not (isinstance(phi, dict) and phi and all(isinstance(x, Tensor) for x in phi.values())):
        raise ValueError(f"expected {name}.phi0 to return a dict of named tensors, got {type(phi).__name__}")
    (phi,) = _attempt(f"{name}.phi0 to return floating-point tensors", lambda: points(two, 0, 1))
    for key, tensor in phi.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"expected {name}.phi0 to return finite tensors, got {key!r} with values that are not")
    return phi


def _theta0(name: str, two: SomeTasks, phi: Parameters, tasks: Tasks) -> Tensor:
    theta = _attempt(f"a start of theta for {name}", lambda: two.theta0(phi, tasks))
    if not isinstance(theta, Tensor) or theta.dim() != 2 or len(theta) != len(tasks):
        got = tuple(theta.shape) if isinstance(theta, Tensor) else type(theta).__name__
        raise ValueError(f"expected theta0 of {name} of shape ({len(tasks)}, q), one row a task, got {got}")
    if not bool(torch.isfinite(theta).all()):
        raise ValueError(f"expected theta0 of {name} to be finite, got values that are not")
    return theta.detach()


def _require_objective(name: str, problem: Problem, level: str, at: tuple[Parameters, Any, Tensor, Tasks]) -> None:
    """One finite value a task, with derivatives in theta, also task by task under torch.vmap."""
    phi, z, theta, tasks = at
    what = f"{name}.{level}"
    values = _attempt(
        f"{what} to take features, theta of shape {tuple(theta.shape)} and a batch of {len(tasks)} tasks",
        lambda: getattr(problem, level)(z, theta, tasks),
    )
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != (len(tasks),):
        raise ValueError(f"expected {what} to return one value a task, shape ({len(tasks)},), got {shape}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"expected {what} to be finite at phi_0 and theta_0, got {values.detach().tolist()}")
    each = vmap(grad(of_one_task(problem, level), argnums=1), (None, 0, 0, 0))
    slopes = _attempt(
        f"{what} to be differentiated by torch.func, mapped over tasks by torch.vmap",
        lambda: each(phi, theta, tasks.index, tasks.tensors),
    )
    if not bool(torch.isfinite(slopes).all()):
        raise ValueError(f"expected the derivative of {what} in theta to be finite, got values that are not")


def _require_shape(what: str, found: Any, form: str, phi: Parameters, theta: Tensor) -> None:
    if form in ("surrogate_gradient", "hypergradient"):
        right = isinstance(found, dict) and {k: x.shape for k, x in found.items()} == {
            k: x.shape for k, x in phi.items()
        }
        expected = "a dict of tensors with the shapes of phi"
    elif form == "curvature":
        right = isinstance(found, tuple) and all(tuple(x.shape) == tuple(theta.shape[:1]) for x in found)
        expected = f"a pair of tensors of shape ({len(theta)},)"
    else:
        wanted = () if form == "value" else tuple(theta.shape)
        right = isinstance(found, Tensor) and tuple(found.shape) == wanted
        expected = f"a tensor of shape {wanted}"
    if not right:
        got = (
            {k: tuple(x.shape) for k, x in found.items()} if isinstance(found, dict) else getattr(found, "shape", found)
        )
        raise ValueError(f"expected {what} to return {expected}, got {got}")


def _shapes(phi: Parameters) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in phi.items()}
