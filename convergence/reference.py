"""The true hypergradient of any problem, from code that shares nothing with the methods it judges.

Damped Newton on each task to rounding error, then a direct solve with the dense lower Hessian; derivatives by
torch.func, task by task under vmap (the oracle uses torch.autograd on batches). Cost: about ten dense (q, q)
Hessians and solves a task: for problems with q up to a few hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from problems import Parameters, Problem, Tasks

_MAX_NEWTON_STEPS = 100
_MAX_HALVINGS = 40
_RESIDUAL = 1e-13  # of |grad g|, relative to 1 + |H| |theta|: docs/theory.md S7d


_DISTANCE = 1e-8  # of the last step, relative to 1 + |theta|: a small residual alone would do at a flat minimum
_ROUNDING = 1e-14  # of a value of g, relative to 1 + |g| + |H| |theta|^2: a fall below it is not seen
_SINGULAR = 1e-12  # an eigenvalue of the Hessian at theta*, relative to the largest norm met, that counts as zero


class ReferenceFailed(RuntimeError):
    """The lower level could not be solved to rounding error: there is no true hypergradient to compare with."""


class Reference(NamedTuple):
    """grad Phi (shapes of phi), theta* and v* (..., M, q), Phi (...)."""

    hypergradient: Parameters
    theta: Tensor
    v: Tensor
    value: Tensor


def reference(problem: Problem, phi: Parameters, tasks: Tasks, *, start: Tensor | None = None) -> Reference:
    """theta*, v*, Phi and grad Phi at one phi (no replica axes), mean over `tasks`.

    `start` (B, q): where Newton begins, for example theta* at a phi nearby. Raises ReferenceFailed where a Hessian on
    the way is not positive definite, or Newton does not reach a residual of 1e-13. Computed in float64 whatever comes.
    """
    problem, tasks = problem.to(dtype=torch.float64), tasks.to(dtype=torch.float64)
    phi = {name: tensor.detach().double() for name, tensor in phi.items()}
    each = (tasks.index, tasks.tensors)
    per_task = (None, 0, 0, 0)

    g, f = of_one_task(problem, "lower"), of_one_task(problem, "upper")
    values = vmap(g, per_task)
    gradients = vmap(grad(g, argnums=1), per_task)
    hessians = vmap(jacrev(grad(g, argnums=1), argnums=1), per_task)

    theta = problem.theta0(phi, tasks).detach().clone() if start is None else start.double()
    if theta.dim() != 2 or len(theta) != len(tasks):
        raise ValueError(f"expected theta0 of shape ({len(tasks)}, q), one row a task, got {tuple(theta.shape)}")
    stiffest = theta.new_zeros(())
    for _ in range(_MAX_NEWTON_STEPS):
        slope, H = gradients(phi, theta, *each), hessians(phi, theta, *each)
        factor = _factor(problem, H)
        stiffest = torch.maximum(stiffest, torch.linalg.matrix_norm(H).max())
        limit = _RESIDUAL * (1 + torch.linalg.matrix_norm(H) * theta.norm(dim=-1))
        direction = -torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
        near = direction.norm(dim=-1) <= _DISTANCE * (1 + theta.norm(dim=-1))
        if bool((near & (slope.norm(dim=-1) <= limit)).all()):
            break
        terms = torch.linalg.matrix_norm(H) * theta.square().sum(-1)  # that g is made of, which may cancel
        theta = _damped(
            theta, direction, slope, lambda x: values(phi, x, *each), lambda x: gradients(phi, x, *each), terms
        )
    else:
        raise ReferenceFailed(
            f"expected damped Newton to reach a residual of {_RESIDUAL:.0e} on every task of "
            f"{type(problem).__name__}, got {float((slope.norm(dim=-1) / limit).max()) * _RESIDUAL:.1e} "
            f"after {_MAX_NEWTON_STEPS} steps: is the lower level strongly convex?"
        )
    theta = theta + direction  # one more full step: from the limit to rounding error
    H = hessians(phi, theta, *each)
    _factor(problem, H, least=_SINGULAR * stiffest)
    v = torch.linalg.solve(H, vmap(grad(f, argnums=1), per_task)(phi, theta, *each))

    def surrogate(phi: Parameters) -> Tensor:
        return (vmap(f, per_task)(phi, theta, *each) - (gradients(phi, theta, *each) * v).sum(-1)).mean()

    return Reference(grad(surrogate)(phi), theta, v, vmap(f, per_task)(phi, theta, *each).mean())


def of_one_task(problem: Problem, objective: str) -> Callable[[Parameters, Tensor, Tensor, dict[str, Tensor]], Tensor]:
    """g ("lower") or f ("upper") of one task, a scalar function of phi, theta (q,), its index and its tensors."""

    def value(phi: Parameters, theta: Tensor, index: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        task = Tasks(index.unsqueeze(0), **{key: tensor.unsqueeze(0) for key, tensor in tensors.items()})
        return getattr(problem, objective)(problem.embed(phi, task), theta.unsqueeze(0), task).squeeze(0)

    return value


def _factor(problem: Problem, H: Tensor, least: Tensor | None = None) -> Tensor:
    """The Cholesky factors of H (..., B, q, q). Raises ReferenceFailed on an eigenvalue <= least (None: 0)."""
    shifted = H if least is None else H - least * torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    factor, info = torch.linalg.cholesky_ex(shifted)
    if bool((info != 0).any()) or not bool(torch.isfinite(factor).all()):
        raise ReferenceFailed(
            f"expected the lower level of {type(problem).__name__} to be strongly convex, "
            "got a Hessian on the way to theta* that is not positive definite"
        )
    return factor


def _damped(theta: Tensor, direction: Tensor, slope: Tensor, value: Any, gradient: Any, terms: Tensor) -> Tensor:
    """theta + t direction, t = 1, 1/2, 1/4, ... for each row until the value falls enough.

    Near theta* the value no longer tells: there it may stay within rounding if the gradient falls. Where it rises
    by more, a smaller gradient is no progress: values and gradients that fall in turns are a cycle.
    """
    now, size = value(theta), slope.norm(dim=-1)
    level = now + _ROUNDING * (1 + now.abs() + terms)
    expected = (slope * direction).sum(-1)
    t = torch.ones_like(now)
    for _ in range(_MAX_HALVINGS):
        there = theta + t.unsqueeze(-1) * direction
        reached, smaller = value(there), gradient(there).norm(dim=-1) <= 0.9 * size
        good = (reached <= now + 1e-4 * t * expected) | ((reached <= level) & smaller)
        if bool(good.all()):
            break
        t = torch.where(good, t, t / 2)
    return theta + t.unsqueeze(-1) * direction
