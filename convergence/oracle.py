"""The oracle: the only caller of torch.autograd. It counts its calls and takes a closed form where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convergence.trees import map_tensors, tensors_of
from problems import Parameters, Problem, Tasks

Calls = dict[str, int]


class Features(NamedTuple):
    """What `Oracle.embed` returns: phi as leaves of a graph, the features with that graph, and without it.

    `graph` is None where the features are to be computed again for the last line; `pieces` are then what is joined.
    """

    phi: Parameters
    graph: Any
    value: Any
    pieces: tuple[Any, ...] = ()


@dataclass(frozen=True)
class LowerHessian:
    """The map v -> (d2g_i/dtheta2) v_i at some theta, one HVP a task and product.

    `inverse` maps b to (d2g_i/dtheta2)^-1 b_i where the problem has that closed form, and counts no product.
    """

    product: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None

    def __call__(self, v: Tensor) -> Tensor:
        """(d2g_i/dtheta2) v_i, (..., B, q)."""
        return self.product(v)


class Oracle:
    """First- and second-order information on a problem, batched over tasks and replicas, counted.

    Derivatives with respect to theta are taken of the sum over tasks: tasks do not interact, so the gradient of
    the sum holds each task's own gradient in its row. `calls` counts evaluations of single tasks in one replica:
    lower_gradient, hvp (Hessian-vector products with d2g/dtheta2), cross_product (with d2g/dphi dtheta),
    upper_gradient (of f, in theta and phi together).

    Where there are replicas and the problem is written without them, `lower`, `upper`, `embed`, `theta0` are
    mapped over the replica axis by torch.vmap; so are closed forms.
    """

    def __init__(self, problem: Problem, *, replicas: int | None = None):
        self.problem = problem
        self.replicas = replicas
        self.calls: Calls = {"lower_gradient": 0, "hvp": 0, "cross_product": 0, "upper_gradient": 0}
        # f_i of the batch, (..., B), from the last line of the last iteration; None where a closed form took it
        self.upper_values: Tensor | None = None
        self._map = replicas is not None and not problem.broadcasts_replicas
        self._pool: Tasks | None = None

    @property
    def pool(self) -> Tasks:
        """All tasks of a finite pool, in order; the same object each time."""
        if self._pool is None:
            if self.problem.tasks is None:
                raise ValueError(f"expected a finite pool of tasks, got {type(self.problem).__name__}, which has none")
            self._pool = self.problem.sample(None, torch.Generator())
        return self._pool

    def theta0(self, phi: Parameters, tasks: Tasks, *, keep_graph: bool = False) -> Tensor:
        """Where a cold lower level starts, (..., B, q). Not counted.

        `keep_graph` keeps its dependence on phi, the leaves `Features.phi`, for methods that unroll the lower steps.
        """
        with torch.set_grad_enabled(keep_graph):
            theta = self._over_replicas(self.problem.theta0, phi, tasks)
        theta = theta if keep_graph else theta.detach()
        lead = () if self.replicas is None else (self.replicas,)
        if theta.shape[-2:-1] != (len(tasks),):
            raise ValueError(f"expected theta0 of shape ({len(tasks)}, q), one row a task, got {tuple(theta.shape)}")
        return theta.expand(*lead, *theta.shape[-2:])

    def embed(self, phi: Parameters, tasks: Tasks, *, keep_graph: bool = False, recompute: bool = False) -> Features:
        """Features of phi for these tasks; their graph is kept for `hypergradient` alone. Not counted.

        Where the problem has a closed form of that last line no graph is kept, unless `keep_graph` asks for it
        (methods that unroll the lower steps do). With `recompute` none is kept either: the last line computes the
        features again, part by part (`Problem.embed_parts`).
        """
        if self.problem.has("surrogate_gradient") and not keep_graph:
            return self.features(phi, tasks)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in phi.items()}
        if recompute:
            functions, join = self.problem.embed_parts()
            with torch.no_grad():
                pieces = tuple(self._over_replicas(part, phi, tasks) for part in functions)
                return Features(leaves, None, join(*pieces), pieces)
        with torch.enable_grad():
            graph = self._over_replicas(self.problem.embed, leaves, tasks)
        return Features(leaves, graph, map_tensors(Tensor.detach, graph))

    def features(self, phi: Parameters, tasks: Tasks) -> Features:
        """Features of phi without any graph, to evaluate the lower level alone. Not counted."""
        with torch.no_grad():
            value = self._over_replicas(self.problem.embed, phi, tasks)
        return Features(phi, value, value)

    def curvature(self, z: Features, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """mu_i and L_i at these features, (..., B) each, by the problem's closed form. Not counted."""
        with torch.no_grad():
            return self._over_replicas(self.problem.curvature, z.value, tasks)

    def lower_gradient(self, z: Features, theta: Tensor, tasks: Tasks, *, keep_graph: bool = False) -> Tensor:
        """grad_theta g_i(phi, theta_i), (..., B, q). One lower gradient a task.

        `keep_graph` makes it differentiable in phi and theta, for methods that unroll the lower steps.
        """
        self.calls["lower_gradient"] += len(tasks)
        if not keep_graph and self.problem.has("lower_gradient"):
            with torch.no_grad():
                return self._over_replicas(self.problem.lower_gradient, z.value, theta, tasks)
        point = theta if keep_graph and theta.requires_grad else theta.detach().requires_grad_()
        with torch.enable_grad():
            values = self._values(self.problem.lower, z.graph if keep_graph else z.value, point, tasks)
        return self._theta_gradient(values, point, create_graph=keep_graph)

    def lower_hessian(self, z: Features, theta: Tensor, tasks: Tasks) -> LowerHessian:
        """The map v -> (d2g_i/dtheta2) v_i at theta, (..., B, q). One HVP a task and product.

        Without a closed form the graph of one lower gradient is built here and differentiated by each product:
        its memory does not depend on how many products follow.
        """
        if self.problem.has("lower_hvp"):

            def product(v: Tensor) -> Tensor:
                return self._over_replicas(self.problem.lower_hvp, z.value, theta, v, tasks)
        else:
            point = theta.detach().requires_grad_()
            with torch.enable_grad():
                values = self._values(self.problem.lower, z.value, point, tasks)
                gradient = self._theta_gradient(values, point, create_graph=True)

            def product(v: Tensor) -> Tensor:
                if not gradient.requires_grad:  # g is linear in theta
                    return torch.zeros_like(v)
                (hv,) = torch.autograd.grad(gradient, point, v, retain_graph=True, allow_unused=True)
                return torch.zeros_like(v) if hv is None else hv

        def counted(v: Tensor) -> Tensor:
            self.calls["hvp"] += len(tasks)
            with torch.no_grad():
                return product(v)

        def inverse(b: Tensor) -> Tensor:
            with torch.no_grad():
                return self._over_replicas(self.problem.lower_inverse_hvp, z.value, theta, b, tasks)

        return LowerHessian(counted, inverse if self.problem.has("lower_inverse_hvp") else None)

    def lower_argmin(self, z: Features, tasks: Tasks) -> Tensor:
        """theta_i*, (..., B, q), with its graph where the features have one. Not counted.

        Raises ValueError where the problem has no such closed form.
        """
        if not self.problem.has("lower_argmin"):
            raise ValueError(
                f"expected a problem with the closed form lower_argmin, got {type(self.problem).__name__} without it"
            )
        return self._over_replicas(self.problem.lower_argmin, z.graph, tasks)

    def upper_gradient(self, z: Features, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta f_i(phi, theta_i), (..., B, q). One upper gradient a task, shared with `hypergradient`."""
        self.calls["upper_gradient"] += len(tasks)
        if self.problem.has("upper_gradient"):
            with torch.no_grad():
                return self._over_replicas(self.problem.upper_gradient, z.value, theta, tasks)
        point = theta.detach().requires_grad_()
        with torch.enable_grad():
            values = self._values(self.problem.upper, z.value, point, tasks)
        if not values.requires_grad:  # f does not see theta
            return torch.zeros_like(theta)
        (gradient,) = torch.autograd.grad(values.sum(), point, allow_unused=True)
        return torch.zeros_like(theta) if gradient is None else gradient

    def hypergradient(self, z: Features, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ], shapes of phi. One cross product a task.

        ONE backward pass, through the features, of the surrogate mean_i [ f_i - <grad_theta g_i, v_i> ] with
        theta and v held fixed. Raises ValueError where phi reaches neither objective.
        """
        self.calls["cross_product"] += len(tasks)
        if self.problem.has("surrogate_gradient"):
            self.upper_values = None
            with torch.no_grad():
                return self._over_replicas(self.problem.surrogate_gradient, z.phi, z.value, theta, v, tasks)
        if z.graph is None:
            return self._recomputed_gradient(z, theta, v, tasks)
        return self._phi_gradient(self._surrogate(z.graph, theta, v, tasks), z.phi)

    def total_gradient(self, z: Features, theta: Tensor, tasks: Tasks) -> Parameters:
        """d/dphi mean_i f_i(phi, theta_i) through the graph that theta itself carries (unrolled lower steps).

        One upper gradient a task; the products of the backward pass are counted by the caller, who knows K.
        """
        self.calls["upper_gradient"] += len(tasks)
        with torch.enable_grad():
            values = self._values(self.problem.upper, z.graph, theta, tasks)
            self.upper_values = values.detach()
            return self._phi_gradient(values, z.phi)

    # ---- the last line

    def _surrogate(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """f_i - <grad_theta g_i, v_i>, (..., B), theta and v held fixed."""
        point = theta.detach().requires_grad_()
        with torch.enable_grad():
            lower = self._values(self.problem.lower, features, point, tasks)
            gradient = self._theta_gradient(lower, point, create_graph=True)
            upper = self._values(self.problem.upper, features, theta.detach(), tasks)
            self.upper_values = upper.detach()
            return upper - (gradient * v.detach()).sum(-1)

    def _recomputed_gradient(self, z: Features, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """The slope of the surrogate in the pieces of the features, then through each of them, computed again."""
        functions, join = self.problem.embed_parts()
        pieces = map_tensors(lambda x: x.detach().requires_grad_(), z.pieces)
        with torch.enable_grad():
            surrogate = self._surrogate(join(*pieces), theta, v, tasks).mean(-1).sum()
        slopes = iter(torch.autograd.grad(surrogate, tensors_of(pieces), materialize_grads=True))
        gradients: list[Tensor | None] = [None] * len(z.phi)
        for part in functions:
            with torch.enable_grad():
                again = tensors_of(self._over_replicas(part, z.phi, tasks))
                if not again:
                    continue
                along = torch.stack([(x * next(slopes)).sum() for x in again]).sum()
            del again
            gradients = [_add(*pair) for pair in zip(gradients, self._gradients(along, z.phi), strict=True)]
        return self._named(gradients, z.phi)

    # ---- the derivatives themselves

    def _theta_gradient(self, values: Tensor, theta: Tensor, *, create_graph: bool) -> Tensor:
        gradient = None
        if values.requires_grad:
            with torch.enable_grad():  # also where the caller evaluates without a graph
                total = values.sum()
            (gradient,) = torch.autograd.grad(total, theta, create_graph=create_graph, allow_unused=True)
        if gradient is None:
            raise ValueError(
                f"expected the lower objective of {type(self.problem).__name__} to depend on theta, "
                "got one that does not (or a graph cut by detach)"
            )
        return gradient

    def _phi_gradient(self, values: Tensor, phi: Parameters) -> Parameters:
        if not all(tensor.requires_grad for tensor in phi.values()):
            raise ValueError("expected features embedded with keep_graph=True, got features without a graph")
        total = values.mean(-1).sum()  # mean over the tasks; replicas do not interact
        return self._named(self._gradients(total, phi), phi)

    def _gradients(self, total: Tensor, phi: Parameters) -> list[Tensor | None]:
        if not total.requires_grad:
            return [None] * len(phi)
        return list(torch.autograd.grad(total, list(phi.values()), allow_unused=True))

    def _named(self, gradients: list[Tensor | None], phi: Parameters) -> Parameters:
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f"expected phi to reach an objective of {type(self.problem).__name__}, got none that depends on it: "
                "where phi is only the start of theta, the implicit gradient is zero; add a proximal term"
            )
        return {
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(phi.items(), gradients, strict=True)
        }

    def _values(self, objective: Callable[..., Tensor], features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        values = self._over_replicas(objective, features, theta, tasks)
        if values.shape != theta.shape[:-1]:
            raise ValueError(
                f"expected {objective.__name__} to return one value a task, shape {tuple(theta.shape[:-1])}, "
                f"got {tuple(values.shape)}"
            )
        return values

    def _over_replicas(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments), the last of them the tasks; mapped over the replicas where it knows none."""
        if not self._map:
            return function(*arguments)
        *tensors, tasks = arguments
        own = 0 if tasks.index.dim() == 2 else None  # do the replicas see different tasks?
        mapped = torch.vmap(lambda each, index, data: function(*each, Tasks(index, **data)), in_dims=(0, own, own))
        return mapped(tensors, tasks.index, tasks.tensors)


def _add(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total + more  # not in place: autograd may give one tensor as the gradient of two
