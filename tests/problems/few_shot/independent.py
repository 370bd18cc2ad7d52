"""Few-shot hypergradients of one task at a time, written in torch.nn.functional and torch.func in float64.

No code is shared with problems.few_shot or convergence: batch norm is written out, max-pooling comes after ReLU, theta*
is found by Newton's method with a dense Hessian, v by a dense solve, the cross product by a dense Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacrev

Phi = dict[str, Tensor]
Objective = Callable[[Phi, Tensor], Tensor]  # g or f of one task at (phi, theta)
Moments = dict[str, tuple[Tensor, Tensor]]


def batch_norm(x: Tensor, phi: Phi, layer: str, moments: Moments, given: Moments | None) -> Tensor:
    """Normalised by the statistics of x, which are noted in `moments`, or by those given."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    moments[layer] = (mean, variance)
    if given is not None:
        mean, variance = given[layer]
    weight, bias = phi[f"{layer}.weight"].view(1, -1, 1, 1), phi[f"{layer}.bias"].view(1, -1, 1, 1)
    return (x - mean) / (variance + 1e-5) ** 0.5 * weight + bias


def conv4(phi: Phi, images: Tensor, given: Moments | None = None) -> tuple[Tensor, Moments]:
    """Features (n, d) of uint8 images (n, C, H, W), and the statistics of each layer."""
    x, moments = images.double() / 255, {}
    for k in (1, 2, 3, 4):
        name = f"block{k}"
        x = F.conv2d(x, phi[f"{name}.conv.weight"], phi[f"{name}.conv.bias"], padding=1)
        x = F.max_pool2d(F.relu(batch_norm(x, phi, f"{name}.norm", moments, given)), 2)
    return x.reshape(len(x), -1), moments


def features(phi: Phi, support: Tensor, query: Tensor, *, bn: str = "task", centred: bool) -> tuple[Tensor, Tensor]:
    """Features of the support and query images of one task."""
    S, moments = conv4(phi, support)
    Q, _ = conv4(phi, query, moments if bn == "support" else None)
    mean = S.mean(0) if centred else torch.zeros_like(S[0])
    return S - mean, Q - mean


# ---- the heads, as functions of features Z (n, d), labels y (n,), theta as one vector


def softmax_lower(phi: Phi, Z: Tensor, y: Tensor, theta: Tensor, *, way: int, ridge: float, lasso: float) -> Tensor:
    return softmax_upper(phi, Z, y, theta, way=way) + ridge / 2 * (theta**2).sum() + lasso * theta.abs().sum()


def softmax_upper(phi: Phi, Z: Tensor, y: Tensor, theta: Tensor, *, way: int) -> Tensor:
    W = theta.reshape(way, -1)
    return F.cross_entropy(F.linear(Z, W[:, :-1], W[:, -1]), y)


def ridge_lower(phi: Phi, Z: Tensor, y: Tensor, theta: Tensor, *, way: int) -> Tensor:
    error = F.linear(Z, theta.reshape(way, -1)) - torch.eye(way, dtype=Z.dtype)[y]
    return (error**2).sum(1).mean() / 2 + phi["head.log_ridge"].exp() / 2 * (theta**2).sum()


def ridge_upper(phi: Phi, Z: Tensor, y: Tensor, theta: Tensor, *, way: int) -> Tensor:
    return F.cross_entropy(phi["head.scale"] * F.linear(Z, theta.reshape(way, -1)), y)


def prototype_lower(phi: Phi, Z: Tensor, y: Tensor, theta: Tensor, *, way: int) -> Tensor:
    return ((Z - theta.reshape(way, -1)[y]) ** 2).sum(1).mean() / 2


def prototype_upper(phi: Phi, Z: Tensor, y: Tensor, theta: Tensor, *, way: int) -> Tensor:
    distances = ((Z[:, None, :] - theta.reshape(way, -1)[None]) ** 2).sum(-1)
    return F.cross_entropy(-distances, y)


def objectives(head: str, *, way: int, ridge: float = 0.0, lasso: float = 0.0) -> tuple[Callable, Callable]:
    """g and f of a head by name, of (phi, Z, y, theta)."""
    if head == "softmax":
        return partial(softmax_lower, way=way, ridge=ridge, lasso=lasso), partial(softmax_upper, way=way)
    lower, upper = {"ridge": (ridge_lower, ridge_upper), "prototype": (prototype_lower, prototype_upper)}[head]
    return partial(lower, way=way), partial(upper, way=way)


# ---- derivatives


def minimiser(objective: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """By Newton's method from theta, each step halved until the objective falls."""
    for _ in range(100):
        slope = grad(objective)(theta)
        step = torch.linalg.solve(jacrev(grad(objective))(theta), slope)
        size = 1.0
        while size > 1e-6 and objective(theta - size * step) > objective(theta):
            size /= 2
        theta = theta - size * step
        if float(step.norm()) <= 1e-11 * (1 + float(theta.norm())):  # the next one would be of 1e-22
            return theta
    raise AssertionError(f"Newton's method ended with a gradient of {float(slope.norm()):.1e}")


def hypergradient(g: Objective, f: Objective, phi: Phi, theta: Tensor) -> Phi:
    """grad_phi f - (d2g/dphi dtheta) (d2g/dtheta2)^-1 grad_theta f at theta, which is theta*(phi) or any other."""
    H = jacrev(grad(g, argnums=1), argnums=1)(phi, theta)
    v = torch.linalg.solve(H, grad(f, argnums=1)(phi, theta))
    crosses = jacrev(grad(g, argnums=1), argnums=0)(phi, theta)  # of each tensor (q, *shape)
    return {name: slope - torch.tensordot(v, crosses[name], 1) for name, slope in grad(f)(phi, theta).items()}


def descended(g: Objective, phi: Phi, theta: Tensor, *, steps: int, step_size: float) -> Tensor:
    """theta after so many gradient steps: differentiate it in phi and theta."""
    for _ in range(steps):
        theta = theta - step_size * grad(g, argnums=1)(phi, theta)
    return theta


def mean_over(directions: list[Phi]) -> Phi:
    return {name: torch.stack([d[name] for d in directions]).mean(0) for name in directions[0]}
