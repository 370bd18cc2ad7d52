"""Derivatives of single tasks, each at a phi of its own: what methods keep for every task of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacrev

from convergence.oracle.evaluations import Evaluations
from convergence.trees import map_tensors
from problems import Parameters, Tasks


class EachTask(Evaluations):
    """Derivatives that are not averaged over the tasks. Here phi has a row for each task: (..., B, *) its tensors.

    By torch.func, mapped over tasks and replicas by torch.vmap, whatever closed forms the problem has.
    """

    def at_each(self, phi: Parameters, tasks: Tasks) -> Parameters:
        """The same phi for each of the tasks, as views."""
        axis = 0 if self.replicas is None else 1
        return {name: x.unsqueeze(axis).expand(*x.shape[:axis], len(tasks), *x.shape[axis:]) for name, x in phi.items()}

    def each_direction(self, phi: Parameters, theta: Tensor, v: Tensor, tasks: Tasks) -> tuple[Parameters, Parameters]:
        """grad_phi f_i and (d2g_i/dphi dtheta) v_i, tensors (..., B, *) of phi. One cross product a task."""
        self.count("cross_product", tasks)

        def upper(phi: Parameters, theta: Tensor, v: Tensor, task: Tasks) -> Tensor:
            return self.problem.upper(self.problem.embed(phi, task), theta[None], task).squeeze(0)

        def slope_along(phi: Parameters, theta: Tensor, v: Tensor, task: Tasks) -> Tensor:
            return torch.dot(self._slope(phi, theta, task), v)

        return (
            self._mapped(grad(upper), phi, theta, v, tasks=tasks),
            self._mapped(grad(slope_along), phi, theta, v, tasks=tasks),
        )

    def each_second_derivatives(self, phi: Parameters, theta: Tensor, tasks: Tasks) -> tuple[Tensor, Parameters]:
        """d2g_i/dtheta2, (..., B, q, q), and d2g_i/dtheta dphi, tensors (..., B, q, *) of phi.

        Row by row: q HVPs and q cross products a task.
        """
        for name in ("hvp", "cross_product"):
            self.count(name, tasks, times=theta.shape[-1])

        def rows(theta: Tensor, phi: Parameters, task: Tasks) -> Tensor:
            return self._slope(phi, theta, task)

        return self._mapped(jacrev(rows, argnums=(0, 1)), theta, phi, tasks=tasks)

    def _slope(self, phi: Parameters, theta: Tensor, task: Tasks) -> Tensor:
        """grad_theta g of one task, (q,)."""

        def lower(theta: Tensor) -> Tensor:
            return self.problem.lower(self.problem.embed(phi, task), theta[None], task).squeeze(0)

        slope: Tensor = grad(lower)(theta)
        return slope

    def _mapped(self, function: Callable[..., Any], *arguments: Any, tasks: Tasks) -> Any:
        """function(*arguments, task) of each task of each replica, the tensors in what it returns detached."""

        def of_one(each: tuple[Any, ...], index: Tensor, data: dict[str, Tensor]) -> Any:
            return function(*each, Tasks(index[None], **{name: x[None] for name, x in data.items()}))

        mapped = torch.vmap(of_one)
        if self.replicas is not None:
            own = 0 if tasks.index.dim() == 2 else None  # do the replicas see different tasks?
            mapped = torch.vmap(mapped, in_dims=(0, own, own))
        detached = map_tensors(Tensor.detach, arguments)
        return map_tensors(Tensor.detach, mapped(detached, tasks.index, tasks.tensors))
