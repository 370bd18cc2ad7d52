"""Forward mode: tangents of theta_k are carried along with it, so that the memory does not grow with K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from convergence.arguments import integer
from convergence.hypergradients.estimate import Estimate
from convergence.lower_solvers import LowerSolver
from convergence.needs import TWICE_DIFFERENTIABLE, Need
from convergence.oracle import Calls, Features, Oracle, per_task
from problems import Parameters, Tasks


@dataclass(frozen=True)
class ForwardMode:
    """d of the K-step objective by the derivative of theta_k along every coordinate of phi.

    With theta'_k = (d theta_{i,k} / dphi) u, gradient steps of size alpha, for all unit vectors u of R^p at once,

        theta'_{k+1} = theta'_k - alpha [ (d2g_i/dtheta2) theta'_k + (d2g_i/dtheta dphi) u ],   theta'_0 of the start,
        <d, u> = mean_i [ <grad_theta f_i, theta'_K> + <grad_phi f_i, u> ],

    with momentum by the same recursion as theta itself. d is that of `Unrolled()`.

    size   p, the entries of phi: what `calls` needs; None leaves that unknown

    Memory: p q numbers a task, whatever K. Cost a task: K lower gradients, K p HVPs, K p cross products, one upper
    gradient. For small p. Raises ValueError on a phi of another size than the one given.
    Source: Franceschi, Donini, Frasconi, Pontil, ICML 2017, section 3.2.
    """

    size: int | None = None
    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)

    def __post_init__(self) -> None:
        if self.size is not None:
            integer("size", self.size, least=1, otherwise="None or ")

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d of the K-step objective from the start theta, which is taken as it is: its dependence on phi counts."""
        p = _entries(oracle, z.phi)
        if self.size not in (None, p):
            raise ValueError(f"expected a phi of {self.size} entries, which is ForwardMode's size, got {p}")
        some = next(iter(z.phi.values()))
        units = torch.eye(p, dtype=some.dtype, device=some.device)
        if oracle.replicas is not None:
            units = units.unsqueeze(1).expand(p, oracle.replicas, p)
        slopes, end = _along(oracle, z, theta, tasks, units, lower=lower)
        d = _cut(oracle, slopes.movedim(0, -1), z.phi)
        return Estimate.of_steps(d, end)

    def calls(self, lower: LowerSolver) -> Calls:
        """K lower gradients, K p HVPs and cross products, one upper gradient. Raises ValueError without a size."""
        if self.size is None:
            raise ValueError("expected ForwardMode with the size of phi, which its calls depend on, got size=None")
        products = lower.steps * self.size
        return per_task(lower_gradient=lower.gradients, hvp=products, cross_product=products, upper_gradient=1)


@dataclass(frozen=True)
class ForwardGradient:
    """d = 1/b sum_u <grad Phi_K, u> u over b random directions u, each with entries +1 or -1: (FG)^2U.

    directions   b

    Phi_K is the K-step objective; <grad Phi_K, u> is found as in `ForwardMode`. As E uu' = I, d is unbiased for
    grad Phi_K given the steps. As |u|^2 = p, E |<g, u> u|^2 = p |g|^2, so that

        E |d|^2 = (1 + (p - 1) / b) |grad Phi_K|^2,

    which no other distribution of independent entries with mean 0 and variance 1 improves on: a fourth moment of
    kappa adds (kappa - 1) / b (normal entries: p + 1 in place of p - 1).

    Each replica draws its own directions, which all tasks share. Memory: b (p + q) numbers, whatever K. Cost a task:
    K lower gradients, K b HVPs, K b cross products, one upper gradient.
    Source: Shen, Wang, Yang, Li, Wang, Zhang, Scarlett, Zhu, Kawaguchi, NeurIPS 2024.
    """

    directions: int = 1
    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)

    def __post_init__(self) -> None:
        integer("directions", self.directions, least=1)

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d of the K-step objective from the start theta, which is taken as it is: its dependence on phi counts."""
        shape = (self.directions, _entries(oracle, z.phi))
        signs = oracle.sampled(lambda rng: 2 * torch.randint(2, shape, generator=rng) - 1)
        u = signs.to(next(iter(z.phi.values()))).movedim(-2, 0)
        slopes, end = _along(oracle, z, theta, tasks, u, lower=lower)
        d = _cut(oracle, (slopes.unsqueeze(-1) * u).mean(0), z.phi)
        return Estimate.of_steps(d, end)

    def calls(self, lower: LowerSolver) -> Calls:
        """K lower gradients, K b HVPs and cross products, one upper gradient."""
        products = lower.steps * self.directions
        return per_task(lower_gradient=lower.gradients, hvp=products, cross_product=products, upper_gradient=1)


def _along(
    oracle: Oracle, z: Features, start: Tensor, tasks: Tasks, directions: Tensor, *, lower: LowerSolver
) -> tuple[Tensor, Tensor]:
    """<grad Phi_K, u> for each of P directions u, the leading axis of (P, ..., p), as (P, ...); and theta_K."""
    recursion, phi_tangents = lower.recursion, _cut(oracle, directions, z.phi)
    z_tangents, tangent = oracle.feature_tangents(z, start, phi_tangents)

    def seen() -> tuple[Features, Tasks, list[Tensor]]:
        at, sample = oracle.draw(z, tasks)
        return at, sample, z_tangents if at is z else oracle.feature_tangents(at, start, phi_tangents)[0]

    theta, m, m_tangent = start.detach(), None, None
    for _ in range(lower.steps):
        at, sample, moved = seen()
        slope = oracle.lower_tangents(at, theta, moved, tangent, sample)
        theta, m = recursion.step(theta, m, oracle.lower_gradient(at, theta, sample))
        tangent, m_tangent = recursion.step(tangent, m_tangent, slope)
    at, sample, moved = seen()
    return oracle.upper_tangents(at, theta, moved, tangent, sample), theta


def _entries(oracle: Oracle, phi: Parameters) -> int:
    """p, of one replica."""
    return sum(tensor.numel() for tensor in phi.values()) // (oracle.replicas or 1)


def _cut(oracle: Oracle, vectors: Tensor, phi: Parameters) -> Parameters:
    """Vectors (..., p) as the named tensors of phi, each with the leading axes of `vectors`."""
    shapes = [tensor.shape if oracle.replicas is None else tensor.shape[1:] for tensor in phi.values()]
    pieces = vectors.split([shape.numel() for shape in shapes], -1)
    named = zip(phi, shapes, pieces, strict=True)
    return {name: piece.reshape(*piece.shape[:-1], *shape) for name, shape, piece in named}
