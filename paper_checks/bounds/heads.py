"""Bounds with a curved lower level: logistic heads, all constants from the data of each instance.

One cold step: Theorem 1, its certificate, the unrolled direction. Warm runs: Theorem 2, step by step.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convergence import Certificate, ITDBiO, MemoryReduced, Oracle, Step
from paper_checks.bounds.instances import numbers
from paper_checks.falsify import Bound, Cell, Method
from paper_checks.lyapunov import Lyapunov
from paper_checks.quadratic_theory import Array, apply
from problems import Constants, Parameters, ProxLogistic, Tasks

EXAMPLES, INPUTS = 2, 2
_STEP = 0.5  # alpha; inputs are scaled so that L < 3.9 < 2 / alpha
_ROUNDING = 1e-11  # of 1 + |grad Phi|: Newton's, at condition numbers up to 80
CELLS = tuple({"prox_percent": prox, "K": K, "N": N} for prox in (100, 5) for K, N in ((0, 1), (1, 2), (4, 2)))
WARM = tuple({"prox_percent": prox, "K": K, "N": N} for prox in (100, 30) for K, N in ((1, 1), (3, 1), (1, 2)))
ITERATIONS = 6
UNROLLED = tuple({"prox_percent": prox, "K": K} for prox in (100, 5) for K in (1, 3))


class Weighted(ProxLogistic):
    """Logistic heads with f times the weight of its task, so that beta = 1 is any beta; theta starts at `start`."""

    def __init__(self, arrays: dict[str, Array], *, prox: float):
        data = {name: torch.as_tensor(array) for name, array in arrays.items() if name != "phi"}
        super().__init__(*(data[name] for name in ("X", "y", "X_val", "y_val")), prox=prox, regulariser=0.0)
        self.data = data

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """weight f."""
        return tasks.weight * super().upper(features, theta, tasks)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """`start`."""
        return tasks.start

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # bounds from the data
        """Those of the heads, with the largest weight where they are of f."""
        heads, weight = super().constants, float(self.data["weight"].max())
        return replace(heads, **{name: weight * getattr(heads, name) for name in ("ell", "B", "Lambda", "nu", "L_Phi")})


class Heads:
    """n logistic heads, each the one task of a replica of its own; theta*, v*, Phi, grad Phi in numpy."""

    def __init__(self, cell: Cell, arrays: dict[str, Array]):
        n = len(arrays["phi"])
        self.arrays = {"start": np.zeros((n, INPUTS)), "weight": np.ones(n)} | arrays
        self.phi, self._cell, self._prox = arrays["phi"], cell, cell["prox_percent"] / 100
        self.problem = Weighted(self.arrays, prox=self._prox)

    def run(self, solver: MemoryReduced | ITDBiO, iterations: int) -> list[tuple[Array, Step]]:
        """phi_t (n, q) and the step from there, for t = 0, 1, ..."""
        oracle, phi = Oracle(self.problem, replicas=len(self.phi)), {"centre": torch.as_tensor(self.phi)}
        tasks, state, found = self.problem.select(torch.arange(len(self.phi))[:, None]), solver.start(oracle, phi), []
        for _ in range(iterations):
            step = solver.step(oracle, phi, tasks, state)
            found.append((numbers(phi["centre"]), step))
            phi, state = step.phi, step.state
        return found

    @cached_property
    def constants(self) -> list[Constants]:
        """Of each instance."""
        alone = ({name: array[k : k + 1] for name, array in self.arrays.items()} for k in range(len(self.phi)))
        return [Weighted(arrays, prox=self._prox).constants for arrays in alone]

    def scaled(self, weight: Array) -> Heads:
        """f times weight (n,)."""
        return Heads(self._cell, self.arrays | {"weight": weight})

    def at(self, phi: Array) -> Heads:
        """Each instance at so many phi, (T, n, q), one time after the other."""
        repeated = {name: np.concatenate([array] * len(phi)) for name, array in self.arrays.items()}
        return Heads(self._cell, repeated | {"phi": np.concatenate(phi)})

    @cached_property
    def theta(self) -> Array:
        """theta*, (n, q), by Newton, damped so that |grad g| falls in every step (g is convex: it descends on it)."""
        theta = self.phi.copy()
        for _ in range(40):
            slope = self.lower_gradient(theta)
            way = -np.linalg.solve(self.hessian(theta), slope[..., None])[..., 0]
            length = np.ones((len(theta), 1))
            for _ in range(20):
                after = np.linalg.norm(self.lower_gradient(theta + length * way), axis=-1)
                longer = after > np.linalg.norm(slope, axis=-1)
                if not longer.any():
                    break
                length[longer] /= 2
            theta = theta + length * way
        return theta

    @cached_property
    def gradient(self) -> Array:
        """grad Phi, (n, q): grad_phi f = 0, d2g/dphi dtheta = -prox."""
        return self._prox * self.v(self.theta)

    @property
    def value(self) -> Array:
        """Phi, (n,)."""
        X, y = self.arrays["X_val"], self.arrays["y_val"]
        return np.asarray(self.arrays["weight"] * np.logaddexp(0, -y * apply(X, self.theta)).mean(1))

    def v(self, theta: Array) -> Array:
        """v*(theta), (n, q)."""
        return np.asarray(np.linalg.solve(self.hessian(theta), self.upper_gradient(theta)[..., None])[..., 0])

    def lower_gradient(self, theta: Array) -> Array:
        """grad_theta g, (n, q)."""
        return self._loss_gradient("", theta) + self._prox * (theta - self.phi)

    def upper_gradient(self, theta: Array) -> Array:
        """grad_theta f, (n, q)."""
        return self.arrays["weight"][:, None] * self._loss_gradient("_val", theta)

    def residual(self, theta: Array, v: Array) -> Array:
        """grad_theta f - H v, (n, q)."""
        return self.upper_gradient(theta) - apply(self.hessian(theta), v)

    def _loss_gradient(self, name: str, theta: Array) -> Array:
        X, y = self.arrays[f"X{name}"], self.arrays[f"y{name}"]
        share = 1 / (1 + np.exp(y * apply(X, theta)))
        return -np.asarray((X * (y * share)[..., None]).mean(1))

    def hessian(self, theta: Array) -> Array:
        """d2g/dtheta2, (n, q, q)."""
        X = self.arrays["X"]
        share = 1 / (1 + np.exp(apply(X, theta)))
        curvature = np.einsum("nj,nja,njb->nab", share * (1 - share), X, X) / X.shape[1]
        return np.asarray(curvature + self._prox * np.eye(X.shape[-1]))


def decode(cell: Cell, x: Array) -> dict[str, Array]:
    """Inputs up to 3, scaled to lambda_max(X'X/n) / 4 + prox < 3.9; labels by sign; phi up to 6."""
    n, size = len(x), EXAMPLES * INPUTS
    parts = np.split(x, np.cumsum([size, EXAMPLES, size, EXAMPLES]), -1)
    X, X_val = (3 * (2 * part - 1).reshape(n, EXAMPLES, INPUTS) for part in (parts[0], parts[2]))
    y, y_val = (np.where(part >= 0.5, 1.0, -1.0) for part in (parts[1], parts[3]))
    largest = np.linalg.norm(X, 2, axis=(1, 2)) ** 2 / (4 * EXAMPLES)
    room = 3.9 - cell["prox_percent"] / 100
    X *= np.minimum(1, np.sqrt(room / largest))[:, None, None]
    return {"X": X, "y": y, "X_val": X_val, "y_val": y_val, "phi": 6 * (2 * parts[4] - 1)}


def _solver(method: Method, cell: Cell, *, warm: bool) -> MemoryReduced:
    return method(
        lower_steps=cell["K"], lower_step_size=_STEP, cg_steps=cell["N"], upper_step_size=1.0, warm_start=warm
    )


def _one_step(heads: Heads, solver: MemoryReduced | ITDBiO) -> tuple[Step, Array]:
    """One step of all instances, and |d - grad Phi| (n,)."""
    ((_, step),) = heads.run(solver, 1)
    return step, np.linalg.norm(numbers(step.direction["centre"]) - heads.gradient, axis=-1)


def _theorem_1(method: Method, cell: Cell, x: Array) -> Array:
    """Lambda D_0 varrho^K + L_c |grad_theta f(theta_K)| / mu 2 sqrt(kappa) r^N."""
    heads = Heads(cell, decode(cell, x))
    step, error = _one_step(heads, _solver(method, cell, warm=False))
    b = np.linalg.norm(heads.upper_gradient(numbers(step.theta)[:, 0]), axis=-1)
    bound = np.empty(len(x))
    for k, c in enumerate(heads.constants):
        root = c.kappa**0.5
        first = c.Lambda * np.linalg.norm(heads.theta[k]) * c.lower_contraction(_STEP) ** cell["K"]
        bound[k] = first + c.L_c * b[k] / c.mu * 2 * root * ((root - 1) / (root + 1)) ** cell["N"]
    return np.asarray(error / (bound + _rounding(heads)))


def _certificate(method: Method, cell: Cell, x: Array) -> Array:
    """The certificate at the theta and v of the step: rho_2 > 0, so that both of its splits take part."""
    heads = Heads(cell, decode(cell, x))
    step, error = _one_step(heads, _solver(method, cell, warm=False))
    theta, v = numbers(step.theta)[:, 0], numbers(step.v)[:, 0]
    norms = [
        torch.as_tensor(np.linalg.norm(each, axis=-1))
        for each in (heads.lower_gradient(theta), heads.residual(theta, v), v)
    ]
    bound = np.empty(len(x))
    for k, constants in enumerate(heads.constants):
        certificate = Certificate(constants)
        bound[k] = float(certificate.direction_error(certificate.theta_error(norms[0][k]), norms[1][k], norms[2][k]))
    return np.asarray(error / (bound + _rounding(heads)))


def _started(cell: Cell, x: Array) -> dict[str, Array]:
    """The same with a theta_0 up to 6."""
    return decode(cell, x[:, :-INPUTS]) | {"start": 6 * (2 * x[:, -INPUTS:] - 1)}


def _unrolled(method: Method, cell: Cell, x: Array) -> Array:
    """varrho^K (tau ell D_0 + B tau) + alpha B rho_2 tau D_0 K varrho^(K - 1), ell_1 = rho_1 = 0."""
    heads, K = Heads(cell, _started(cell, x)), cell["K"]
    solver = (ITDBiO if method is MemoryReduced else method)(lower_steps=K, lower_step_size=_STEP, upper_step_size=1.0)
    _, error = _one_step(heads, solver)
    away = np.linalg.norm(heads.arrays["start"] - heads.theta, axis=-1)  # D_0
    bound = np.empty(len(x))
    for k, c in enumerate(heads.constants):
        varrho = c.lower_contraction(_STEP)
        first = varrho**K * (c.tau * c.ell * away[k] + c.B * c.tau)
        bound[k] = first + _STEP * c.B * c.rho_2 * c.tau * away[k] * K * varrho ** (K - 1)
    return np.asarray(error / (bound + _rounding(heads)))


def _decrease(method: Method, cell: Cell, x: Array) -> Array:
    """max_t beta/2 |grad Phi_t|^2 over V_t - V_{t+1} at the largest beta, over the steps whose drift is <= s_bar.

    V is taken without Phi*, which the difference does not see; Phi >= 0, so that rounding is relative to it.
    """
    heads = Heads(cell, _started(cell, x))
    steps = {"lower_steps": cell["K"], "cg_steps": cell["N"], "exact_v": cell["N"] >= INPUTS}
    first = [Lyapunov.of(c, lower_step_size=_STEP, **steps).largest_step for c in heads.constants]
    heads = heads.scaled(np.array(first))
    found = [Lyapunov.of(c, lower_step_size=_STEP, **steps) for c in heads.constants]
    P, Q, allowed = (np.array([getattr(each, name) for each in found]) for name in ("P", "Q", "drift"))
    run = heads.run(_solver(method, cell, warm=True), ITERATIONS)
    phi = np.stack([phi for phi, _ in run])
    theta, v = (np.concatenate([numbers(getattr(step, name))[:, 0] for _, step in run]) for name in ("theta", "v"))
    at = heads.at(phi)
    e = v - at.v(theta)
    a, b = np.square(theta - at.theta).sum(-1), np.einsum("ni,nij,nj->n", e, at.hessian(theta), e)
    shape = phi.shape[:2]
    V = at.value.reshape(shape) + P * a.reshape(shape) + Q * b.reshape(shape)
    squares = np.square(at.gradient).sum(-1).reshape(shape)
    drift = sum(np.linalg.norm(np.diff(each.reshape(phi.shape), axis=0), axis=-1) for each in (phi, theta))
    fall = V[:-1] - V[1:] + 1e-12 * V[:-1]
    ratio = np.where(fall > 0, squares[:-1] / (2 * fall), np.inf)
    return np.asarray(np.where(drift <= allowed, ratio, 0).max(0))


def _rounding(heads: Heads) -> Array:
    return np.asarray(_ROUNDING * (1 + np.linalg.norm(heads.gradient, axis=-1)))


def _dimensions(cell: Cell) -> int:
    return 2 * EXAMPLES * (INPUTS + 1) + INPUTS


def _instance(cell: Cell, x: Array) -> dict[str, Array]:
    return {name: array[0] for name, array in decode(cell, x[None]).items()}


def _started_instance(cell: Cell, x: Array) -> dict[str, Array]:
    return {name: array[0] for name, array in _started(cell, x[None]).items()}


BOUNDS = {
    "lyapunov_decrease": (
        Bound(
            "Theorem 2 on logistic heads: beta/2 |grad Phi_t|^2 over V_t - V_{t+1}",
            lambda cell: _dimensions(cell) + INPUTS,
            WARM,
            _decrease,
            _started_instance,
        ),
    ),
    "itd_floor": (
        Bound(
            "|d - grad Phi| over its bound, K unrolled steps on logistic heads",
            lambda cell: _dimensions(cell) + INPUTS,
            UNROLLED,
            _unrolled,
            _started_instance,
        ),
    ),
    "hypergradient_error": (
        Bound("Theorem 1 on logistic heads: |d - grad Phi| over its bound", _dimensions, CELLS, _theorem_1, _instance),
    ),
    "certificate": (
        Bound("|d - grad Phi| over its certificate on logistic heads", _dimensions, CELLS, _certificate, _instance),
    ),
}
