"""Bounds on one step with a curved lower level: logistic heads, all constants from the data of each instance."""

from __future__ import annotations

import numpy as np
import torch

from convergence import Certificate, MemoryReduced, Oracle, Step
from paper_checks.bounds.instances import numbers
from paper_checks.falsify import Bound, Cell, Method
from paper_checks.quadratic_theory import Array, apply
from problems import Constants, ProxLogistic

EXAMPLES, INPUTS = 2, 2
_STEP = 0.5  # alpha; inputs are scaled so that L < 3.9 < 2 / alpha
_ROUNDING = 1e-11  # of 1 + |grad Phi|: Newton's, at condition numbers up to 80
CELLS = tuple({"prox_percent": prox, "K": K, "N": N} for prox in (100, 5) for K, N in ((0, 1), (1, 2), (4, 2)))


class Heads:
    """n logistic heads, each the one task of a replica of its own; theta*, v*, grad Phi by damped Newton in numpy."""

    def __init__(self, cell: Cell, x: Array):
        arrays = decode(cell, x)
        self.phi = arrays.pop("phi")
        self._arrays, self._prox = arrays, cell["prox_percent"] / 100
        self.problem = ProxLogistic(
            *(torch.as_tensor(arrays[name]) for name in ("X", "y", "X_val", "y_val")), prox=self._prox, regulariser=0.0
        )
        self.theta = self._newton()
        self.v = np.linalg.solve(self._hessian(self.theta), self.upper_gradient(self.theta)[..., None])[..., 0]
        self.gradient = self._prox * self.v  # grad_phi f = 0, d2g/dphi dtheta = -prox

    def step(self, method: Method, cell: Cell) -> Step:
        """One cold step from theta_0 = 0."""
        oracle = Oracle(self.problem, replicas=len(self.phi))
        phi = {"centre": torch.as_tensor(self.phi)}
        solver: MemoryReduced = method(
            lower_steps=cell["K"],
            lower_step_size=_STEP,
            cg_steps=cell["N"],
            upper_step_size=1.0,
            warm_start=False,
        )
        tasks = self.problem.select(torch.arange(len(self.phi))[:, None])
        return solver.step(oracle, phi, tasks, solver.start(oracle, phi))

    @property
    def constants(self) -> list[Constants]:
        """Of each instance."""
        data = [self.problem.data[name].split(1) for name in ("X", "y", "X_val", "y_val")]
        return [ProxLogistic(*each, prox=self._prox, regulariser=0.0).constants for each in zip(*data, strict=True)]

    def lower_gradient(self, theta: Array) -> Array:
        """grad_theta g, (n, q)."""
        return self._loss_gradient("", theta) + self._prox * (theta - self.phi)

    def upper_gradient(self, theta: Array) -> Array:
        """grad_theta f, (n, q)."""
        return self._loss_gradient("_val", theta)

    def residual(self, theta: Array, v: Array) -> Array:
        """grad_theta f - H v, (n, q)."""
        return self.upper_gradient(theta) - apply(self._hessian(theta), v)

    def _loss_gradient(self, name: str, theta: Array) -> Array:
        X, y = self._arrays[f"X{name}"], self._arrays[f"y{name}"]
        share = 1 / (1 + np.exp(y * apply(X, theta)))
        return -np.asarray((X * (y * share)[..., None]).mean(1))

    def _hessian(self, theta: Array) -> Array:
        X = self._arrays["X"]
        share = 1 / (1 + np.exp(apply(X, theta)))
        curvature = np.einsum("nj,nja,njb->nab", share * (1 - share), X, X) / X.shape[1]
        return np.asarray(curvature + self._prox * np.eye(X.shape[-1]))

    def _newton(self) -> Array:
        """theta*, damped so that |grad g| falls in every step (g is convex: the direction descends on it)."""
        theta = self.phi.copy()
        for _ in range(40):
            slope = self.lower_gradient(theta)
            way = -np.linalg.solve(self._hessian(theta), slope[..., None])[..., 0]
            length = np.ones((len(theta), 1))
            for _ in range(20):
                longer = np.linalg.norm(self.lower_gradient(theta + length * way), axis=-1) > np.linalg.norm(
                    slope, axis=-1
                )
                length[longer] /= 2
            theta = theta + length * way
        return theta


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


def _theorem_1(method: Method, cell: Cell, x: Array) -> Array:
    """Lambda D_0 varrho^K + L_c |grad_theta f(theta_K)| / mu 2 sqrt(kappa) r^N."""
    heads = Heads(cell, x)
    step = heads.step(method, cell)
    error = np.linalg.norm(numbers(step.direction["centre"]) - heads.gradient, axis=-1)
    b = np.linalg.norm(heads.upper_gradient(numbers(step.theta)[:, 0]), axis=-1)
    bound = np.empty(len(x))
    for k, c in enumerate(heads.constants):
        root = c.kappa**0.5
        first = c.Lambda * np.linalg.norm(heads.theta[k]) * c.lower_contraction(_STEP) ** cell["K"]
        bound[k] = first + c.L_c * b[k] / c.mu * 2 * root * ((root - 1) / (root + 1)) ** cell["N"]
    return np.asarray(error / (bound + _rounding(heads)))


def _certificate(method: Method, cell: Cell, x: Array) -> Array:
    """The certificate at the theta and v of the step: rho_2 > 0, so that both of its splits take part."""
    heads = Heads(cell, x)
    step = heads.step(method, cell)
    error = np.linalg.norm(numbers(step.direction["centre"]) - heads.gradient, axis=-1)
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


def _rounding(heads: Heads) -> Array:
    return np.asarray(_ROUNDING * (1 + np.linalg.norm(heads.gradient, axis=-1)))


def _dimensions(cell: Cell) -> int:
    return 2 * EXAMPLES * (INPUTS + 1) + INPUTS


def _instance(cell: Cell, x: Array) -> dict[str, Array]:
    return {name: array[0] for name, array in decode(cell, x[None]).items()}


BOUNDS = {
    "hypergradient_error": (
        Bound("Theorem 1 on logistic heads: |d - grad Phi| over its bound", _dimensions, CELLS, _theorem_1, _instance),
    ),
    "certificate": (
        Bound("|d - grad Phi| over its certificate on logistic heads", _dimensions, CELLS, _certificate, _instance),
    ),
}
