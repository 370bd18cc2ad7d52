"""Problems whose lower level is solved to rounding error by damped Newton on dense Hessians."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from problems.base import Parameters, Problem, Tasks

_MAX_STEPS, _MAX_HALVINGS = 100, 40
_RESIDUAL = 1e-13  # of |grad g|, relative to 1 + |H| |theta|: docs/theory.md S7d
_DISTANCE = 1e-8  # of the last step, relative to 1 + |theta|
_ROUNDING = 1e-12  # of a fall of g, relative to 1 + |g|: below it the value no longer tells a good step from a bad one
_BLOCK = 2**24  # numbers in the Hessians that are held at a time


class Dense(ABC):
    """g and f of each task at one phi with their dense derivatives: the parts of a reference.

    theta is (..., B, q); leading axes are replicas. What is here must share no code with the oracle's calls.
    """

    @abstractmethod
    def lower(self, theta: Tensor) -> Tensor:
        """g_i, (..., B)."""

    @abstractmethod
    def lower_derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """grad_theta g_i (..., B, q) and d2g_i/dtheta2 (..., B, q, q)."""

    @abstractmethod
    def upper(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """f_i (..., B) and grad_theta f_i (..., B, q)."""

    @abstractmethod
    def phi_gradient(self, theta: Tensor, v: Tensor) -> Tensor:
        """mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ], (..., p)."""


class Exact(NamedTuple):
    """phi (..., p), and there theta* (..., M, q), Phi (...) and grad Phi (..., p)."""

    phi: Tensor
    theta: Tensor
    value: Tensor
    hypergradient: Tensor


class NewtonSolved(Problem):
    """A problem whose phi is one vector, with `lower_solution`, `value` and `hypergradient` by damped Newton.

    A subclass names the vector (`parameter`) and gives `dense`. All is computed in float64 whatever the dtype of phi.
    Newton begins where it ended at the phi before, if that had the same shape; Phi and grad Phi at one phi are
    computed once. Where it fails, Phi and grad Phi of that replica are not a number. Cost: one (q, q) Hessian and
    Cholesky factor a task and Newton step; three of them near the phi before.
    """

    parameter: str
    broadcasts_replicas = True
    _last: Exact | None = None

    @abstractmethod
    def dense(self, phi: Tensor, tasks: Tasks) -> Dense:
        """g and f at phi (..., p), in float64."""

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """Zeros."""
        vector = phi[self.parameter]
        lead = torch.broadcast_shapes(tasks.index.shape, (*vector.shape[:-1], 1))
        return vector.new_zeros(*lead, self.q)

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta_i*, (..., B, q), by Newton from theta0. Raises ArithmeticError where it does not reach 1e-13."""
        start = self.theta0(phi, tasks).double()
        theta = minimiser(self.dense(phi[self.parameter].detach().double(), tasks.to(dtype=torch.float64)), start)
        if not bool(torch.isfinite(theta).all()):
            raise ArithmeticError(
                f"expected a lower level of {type(self).__name__} that Newton solves to a residual of {_RESIDUAL:.0e}, "
                "got one that it does not: is phi too large?"
            )
        return theta.to(phi[self.parameter].dtype)

    def value(self, phi: Parameters) -> Tensor:
        """Phi(phi), (...)."""
        return self.exact(phi).value.to(phi[self.parameter].dtype)

    def hypergradient(self, phi: Parameters) -> Parameters:
        """- mean_i (d2g_i/dphi dtheta) H_i^-1 grad_theta f_i + grad_phi f_i, at theta*."""
        return {self.parameter: self.exact(phi).hypergradient.to(phi[self.parameter].dtype)}

    def exact(self, phi: Parameters) -> Exact:
        """theta*, Phi and grad Phi over all tasks, in float64."""
        x, last = phi[self.parameter].detach().double(), self._last
        near = last if last is not None and last.phi.shape == x.shape and last.phi.device == x.device else None
        if near is None or not torch.equal(near.phi, x):
            self._last = self._solved(x, None if near is None else near.theta)
        assert self._last is not None
        return self._last

    def _solved(self, x: Tensor, start: Tensor | None) -> Exact:
        pool = self.sample(None, torch.Generator()).to(dtype=torch.float64)
        shape = (*x.shape[:-1], len(pool), self.q)
        # A warm start that failed is no start.
        theta = x.new_zeros(shape) if start is None else start.nan_to_num(0.0, 0.0, 0.0)
        many = max(1, _BLOCK // (len(pool) * self.q**2))
        flat = zip(x.reshape(-1, x.shape[-1]).split(many), theta.reshape(-1, *shape[-2:]).split(many), strict=True)
        found = [_at(self.dense(phi, pool), phi, near) for phi, near in flat]
        parts = (torch.cat(part) for part in zip(*found, strict=True))
        return Exact(*(part.reshape((*x.shape[:-1], *part.shape[1:])) for part in parts))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NewtonSolved:
        """A copy on `device` in `dtype`; its reference is computed anew there."""
        moved = super().to(device, dtype)
        assert isinstance(moved, NewtonSolved)
        moved._last = None
        return moved


def _at(dense: Dense, phi: Tensor, start: Tensor) -> Exact:
    theta = minimiser(dense, start)
    value, slope = dense.upper(theta)
    v, _ = _solve(dense.lower_derivatives(theta)[1], slope)
    return Exact(phi, theta, value.mean(-1), dense.phi_gradient(theta, v))


def minimiser(dense: Dense, start: Tensor) -> Tensor:
    """argmin_theta g_i of each row by damped Newton from `start`, (..., B, q); not a number where it fails.

    Ends where |grad g_i| <= 1e-13 (1 + |H_i| |theta_i|) with one full step more: from the limit to rounding error.
    """
    theta, ended = start, torch.zeros(start.shape[:-1], dtype=torch.bool, device=start.device)
    for _ in range(_MAX_STEPS):
        slope, H = dense.lower_derivatives(theta)
        step, failed = _solve(H, -slope)
        size = theta.norm(dim=-1)
        stiffness = H.abs().sum(-1).amax(-1)  # >= |H|_2
        near = slope.norm(dim=-1) <= _RESIDUAL * (1 + stiffness * size)
        near &= step.norm(dim=-1) <= _DISTANCE * (1 + size)
        t = _damping(dense, theta, step, slope)
        t = torch.where(ended, 0.0, torch.where(near, 1.0, t))
        theta = torch.where(failed.unsqueeze(-1) & ~ended.unsqueeze(-1), math.nan, theta + t.unsqueeze(-1) * step)
        ended = ended | near | failed
        if bool(ended.all()):
            return theta
    return torch.where(ended.unsqueeze(-1), theta, math.nan)


def _solve(H: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """H^-1 right by Cholesky factors, and where H is not positive definite (there the first is zero)."""
    factor, info = torch.linalg.cholesky_ex(H)
    solution = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    failed = (info != 0) | ~torch.isfinite(solution).all(-1)
    return torch.where(failed.unsqueeze(-1), 0.0, solution), failed


def _damping(dense: Dense, theta: Tensor, step: Tensor, slope: Tensor) -> Tensor:
    """t = 1, 1/2, 1/4, ... of each row until g falls by 1e-4 of what the slope promises."""
    now, promised = dense.lower(theta), (slope * step).sum(-1)
    unseen = -promised <= _ROUNDING * (1 + now.abs())
    t = torch.ones_like(now)
    for _ in range(_MAX_HALVINGS):
        enough = dense.lower(theta + t.unsqueeze(-1) * step) <= now + 1e-4 * t * promised
        if bool((enough | unseen).all()):
            break
        t = torch.where(enough | unseen, t, t / 2)
    return t
