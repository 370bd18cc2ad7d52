"""Derivatives through lower steps: on the tape, or step by step, backwards and forwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convergence.oracle.evaluations import Evaluations
from convergence.oracle.parts import Features
from convergence.trees import map_tensors, tensors_of
from problems import Parameters, Tasks

_REACHES_NO_END = (
    "expected phi to reach the upper objective of {}, itself or through theta, got neither: "
    "f does not see phi, nor does the start of theta or a step that is differentiated"
)


class ThroughSteps(Evaluations):
    """What estimators that differentiate through the lower steps ask of an oracle."""

    def total_gradient(self, z: Features, theta: Tensor, tasks: Tasks) -> Parameters:
        """d/dphi mean_i f_i(phi, theta_i) through the graph that theta itself carries (unrolled lower steps).

        One upper gradient a task; the products of the backward pass are counted by the caller, who knows K. Raises
        ValueError where phi reaches f neither itself nor through theta.
        """
        self.count("upper_gradient", tasks)
        with torch.enable_grad():
            values = self._values(self.problem.upper, z.graph, theta, tasks)
            self.upper_values = values.detach()
            return self._phi_gradient(values, z.phi, refusal=_REACHES_NO_END)

    def start_gradient(self, z: Features, start: Tensor, w: Tensor, tasks: Tasks) -> Parameters:
        """mean_i (d theta_{i,0} / dphi)' w_i, shapes of phi: through the graph that the start theta_0 carries."""
        with torch.enable_grad():
            return self._phi_gradient((start * w.detach()).sum(-1), z.phi)

    def adjoint(self, z: Features, theta: Tensor, w: Tensor, tasks: Tasks) -> tuple[Tensor, list[Tensor]]:
        """(d2g_i/dtheta2) w_i, (..., B, q), and (d2g_i/dz dtheta)' w_i summed over the tasks that share z, as z.

        One HVP and one cross product a task. `collect` takes the second to phi.
        """
        self.count("hvp", tasks)
        self.count("cross_product", tasks)
        gradient, inputs = self._lower_slope(z, theta, tasks)
        if not gradient.requires_grad:  # g is linear in theta, and does not see phi
            return torch.zeros_like(w), [torch.zeros_like(x) for x in inputs[1:]]
        Hw, *slopes = torch.autograd.grad(gradient, inputs, w, allow_unused=True, materialize_grads=True)
        return Hw, slopes

    def finite_adjoint(
        self, z: Features, theta: Tensor, w: Tensor, tasks: Tasks, *, radius: float
    ) -> tuple[Tensor, list[Tensor]]:
        """`adjoint` by central differences of the gradients of g at theta_i +- radius w_i / |w_i|, task by task.

        Off by radius^2 / 6 times |w_i| and a bound on the third derivatives of those gradients between the two points;
        0 for w_i = 0. Two lower gradients a task, no product.
        """
        size = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
        step = radius * w / size.clamp(min=torch.finfo(w.dtype).tiny)
        ends = []
        for sign in (1, -1):
            self.count("lower_gradient", tasks)
            value, point = self._leaves(z.value), (theta + sign * step).detach().requires_grad_()
            with torch.enable_grad():
                values = self._values(self.problem.lower, value, point, tasks)
                total = (values * size.squeeze(-1)).sum() / (2 * radius)
            inputs = [point, *_floating(value)]
            ends.append(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))
        Hw, *slopes = (up - down for up, down in zip(*ends, strict=True))
        return Hw, slopes

    def collect(
        self,
        z: Features,
        theta: Tensor,
        pulled: list[tuple[Features, list[Tensor]]],
        start: Tensor,
        w: Tensor,
        tasks: Tasks,
    ) -> Parameters:
        """mean_i [ grad_phi f_i(phi, theta_i) + sum_k (dz_k/dphi)' slopes_k,i + (d theta_{i,0} / dphi)' w_i ].

        Where a reverse sweep ends, shapes of phi: theta is held fixed in f; `pulled` holds features of phi with sums of
        what `adjoint` gives there, one pair where the objectives are exact, one for each sample where they are not;
        `start` is theta_0 with its graph. Counts nothing: f's part belongs to the upper gradient that the sweep began
        with.
        """
        with torch.enable_grad():
            values = self._values(self.problem.upper, z.graph, theta.detach(), tasks)
            self.upper_values = values.detach()
            total = values + (start * w.detach()).sum(-1)
            for features, slopes in pulled:
                for feature, slope in zip(_floating(features.graph), slopes, strict=True):
                    # a sum over tasks and replicas already: spread over both, which are summed again
                    total = total + (feature * slope).sum() / values.numel()
            return self._phi_gradient(total, z.phi)

    def feature_tangents(self, z: Features, start: Tensor, phi_tangents: Parameters) -> tuple[list[Tensor], Tensor]:
        """(dz/dphi) u and (d theta_0 / dphi) u for each of P directions u, the leading axis of `phi_tangents`.

        As tensors of z and (P, ..., B, q). Needs the graphs of z and of the start; not counted.
        """
        outputs = [*_floating(z.graph), start]
        *tangents, of_start = self._forward(outputs, list(z.phi.values()), [phi_tangents[name] for name in z.phi])
        return tangents, of_start

    def lower_tangents(
        self, z: Features, theta: Tensor, z_tangents: list[Tensor], theta_tangents: Tensor, tasks: Tasks
    ) -> Tensor:
        """(d2g_i/dtheta2) theta'_i + (d2g_i/dtheta dz) z'_i for each of P directions, (P, ..., B, q).

        How grad_theta g moves along them: one HVP and one cross product a task and direction.
        """
        for name in ("hvp", "cross_product"):
            self.count(name, tasks, times=len(theta_tangents))
        gradient, inputs = self._lower_slope(z, theta, tasks)
        (moved,) = self._forward([gradient], inputs, [theta_tangents, *z_tangents])
        return moved

    def upper_tangents(
        self, z: Features, theta: Tensor, z_tangents: list[Tensor], theta_tangents: Tensor, tasks: Tasks
    ) -> Tensor:
        """mean_i d/ds f_i along each of P directions, (P, ...): one upper gradient a task, whatever P."""
        self.count("upper_gradient", tasks)
        value, point = self._leaves(z.value), theta.detach().requires_grad_()
        with torch.enable_grad():
            values = self._values(self.problem.upper, value, point, tasks)
        self.upper_values = values.detach()
        (moved,) = self._forward([values], [point, *_floating(value)], [theta_tangents, *z_tangents])
        return moved.mean(-1)

    def _lower_slope(self, z: Features, theta: Tensor, tasks: Tasks) -> tuple[Tensor, list[Tensor]]:
        """grad_theta g as a function of theta and the features, and those: leaves of its graph."""
        value, point = self._leaves(z.value), theta.detach().requires_grad_()
        with torch.enable_grad():
            lower = self._values(self.problem.lower, value, point, tasks)
            return self._theta_gradient(lower, point, create_graph=True), [point, *_floating(value)]

    def _leaves(self, value: Any) -> Any:
        return map_tensors(lambda x: x.detach().requires_grad_(x.is_floating_point()), value)

    @staticmethod
    def _forward(outputs: list[Tensor], inputs: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
        """Directional derivatives by differentiating a reverse pass, which is linear in its weights; P at a time."""
        weights = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        live = [k for k, output in enumerate(outputs) if output.requires_grad]
        count = tangents[0].shape[0]
        found = [output.new_zeros(count, *output.shape) for output in outputs]
        if not live:
            return found
        with torch.enable_grad():
            reverse = torch.autograd.grad(
                [outputs[k] for k in live],
                inputs,
                [weights[k] for k in live],
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        pairs = [(back, along) for back, along in zip(reverse, tangents, strict=True) if back.requires_grad]

        def push(tangents: list[Tensor], *, batched: bool) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                [back for back, _ in pairs],
                [weights[k] for k in live],
                tangents,
                allow_unused=True,
                materialize_grads=True,
                is_grads_batched=batched,
                retain_graph=True,
            )

        along = [tangent for _, tangent in pairs]
        try:
            moved = push(along, batched=True)
        except RuntimeError:  # no rule for a batch, as for convolutions whose channels are stored last: one by one
            each = [push([tangent[k] for tangent in along], batched=False) for k in range(count)]
            moved = tuple(torch.stack(same) for same in zip(*each, strict=True))
        for k, tensor in zip(live, moved, strict=True):
            found[k] = tensor
        return found


def _floating(tree: Any) -> list[Tensor]:
    """The tensors of features that have derivatives: not labels or masks."""
    return [tensor for tensor in tensors_of(tree) if tensor.is_floating_point()]
