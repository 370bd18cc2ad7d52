"""The oracle: the only caller of torch.autograd. It counts its calls and takes a closed form where there is one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convergence.oracle.each_task import EachTask
from convergence.oracle.parts import Features, LowerHessian
from convergence.oracle.through_steps import ThroughSteps
from convergence.trees import map_tensors, tensors_of
from problems import Parameters, Tasks


class Oracle(ThroughSteps, EachTask):
    """First- and second-order information on a problem, batched over tasks and replicas, counted.

    Derivatives with respect to theta are taken of the sum over tasks: tasks do not interact, so the gradient of
    the sum holds each task's own gradient in its row. `calls` counts evaluations of single tasks in one replica:
    lower_gradient, hvp (Hessian-vector products with d2g/dtheta2), cross_product (with d2g/dphi dtheta),
    upper_gradient (of f, in theta and phi together). `examples` counts the terms of the objectives that they looked
    at, one for each call where a task is no finite sum.

    Where the objectives are stochastic (`Problem.draw`), methods evaluate them on samples that `draw` makes, functions
    of (seed, iteration, how many came before).

    Where there are replicas and the problem is written without them, `lower`, `upper`, `embed`, `theta0` are
    mapped over the replica axis by torch.vmap; so are closed forms.
    """

    def lower_gradient(self, z: Features, theta: Tensor, tasks: Tasks, *, keep_graph: bool = False) -> Tensor:
        """grad_theta g_i(phi, theta_i), (..., B, q). One lower gradient a task.

        `keep_graph` makes it differentiable in phi and theta, for methods that unroll the lower steps.
        """
        self.count("lower_gradient", tasks)
        if not keep_graph and self.problem.has("lower_gradient"):
            with torch.no_grad():
                return self._closed_form("lower_gradient", theta, z.value, theta, tasks)
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
                return self._closed_form("lower_hvp", v, z.value, theta, v, tasks)
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
            self.count("hvp", tasks)
            with torch.no_grad():
                return product(v)

        def inverse(b: Tensor) -> Tensor:
            with torch.no_grad():
                return self._closed_form("lower_inverse_hvp", b, z.value, theta, b, tasks)

        known = self.problem.has("lower_inverse_hvp")
        return LowerHessian(counted, inverse if known else None, self.sampled)

    def fresh_hessian(self, z: Features, theta: Tensor, tasks: Tasks) -> LowerHessian:
        """As `lower_hessian`; where g is stochastic each product sees a fresh sample of it."""
        if self.exact:
            return self.lower_hessian(z, theta, tasks)

        def product(v: Tensor) -> Tensor:
            at, sample = self.draw(z, tasks)
            return self.lower_hessian(at, theta, sample)(v)

        return LowerHessian(product, sampled=self.sampled)

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
        self.count("upper_gradient", tasks)
        if self.problem.has("upper_gradient"):
            with torch.no_grad():
                return self._closed_form("upper_gradient", theta, z.value, theta, tasks)
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
        self.count("cross_product", tasks)
        if self.problem.has("surrogate_gradient"):
            self.upper_values = None
            with torch.no_grad():
                return self._over_replicas(self.problem.surrogate_gradient, z.phi, z.value, theta, v, tasks)
        if z.graph is None:
            return self._recomputed_gradient(z, theta, v, tasks)
        return self._phi_gradient(self._surrogate(z.graph, theta, v, tasks), z.phi)

    def penalty_gradient(
        self, z: Features, y: Tensor, theta: Tensor, multiplier: float | Tensor, tasks: Tasks
    ) -> Parameters:
        """d/dphi mean_i [ f_i(phi, y_i) + multiplier (g_i(phi, y_i) - g_i(phi, theta_i)) ], y and theta held fixed.

        Counts nothing: each part belongs to the gradient in theta that was counted at the same point.
        """
        with torch.enable_grad():
            upper = self._values(self.problem.upper, z.graph, y.detach(), tasks)
            self.upper_values = upper.detach()
            above = self._values(self.problem.lower, z.graph, y.detach(), tasks)
            below = self._values(self.problem.lower, z.graph, theta.detach(), tasks)
            return self._phi_gradient(upper + multiplier * (above - below), z.phi)

    def direct_gradient(self, z: Features, theta: Tensor, tasks: Tasks) -> Parameters:
        """grad_phi mean_i f_i(phi, theta_i), shapes of phi, theta held fixed; zeros where f does not see phi.

        Counts nothing: it belongs to the upper gradient that was counted at the same point.
        """
        with torch.enable_grad():
            upper = self._values(self.problem.upper, z.graph, theta.detach(), tasks)
            self.upper_values = upper.detach()
            return self._phi_gradient(upper, z.phi, refusal=None)

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


def _add(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total + more  # not in place: autograd may give one tensor as the gradient of two
