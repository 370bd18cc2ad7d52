"""A-posteriori certificates: upper bounds on |d - grad Phi| from what a run knows, without theta* or v*."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convergence.oracle import Oracle
from problems import Constants, Parameters, Problem, Tasks


@dataclass(frozen=True)
class Certificate:
    """For each task |d_i - grad Phi_i| <= a e_i + c |r_i|, where e_i >= |theta_i - theta_i*| and r_i = b_i - H_i v_i.

    e_i = |grad_theta g_i| / mu by strong convexity. The error can be split at two places; the smaller bound counts:

    at v*(phi, theta), Lemma 1     a = Lambda,                                          c = L_c / mu
    at theta*(phi)                 a = ell_1 + rho_1 |v| + tau (ell + rho_2 |v|),        c = tau

    The second needs no bound on grad_theta f. Where the second derivatives of g are constant (rho_1 = rho_2 = 0) tau
    stands for L_c / mu in the first as well. Attained on the tight instance of docs/theory.md S1.
    Raises ValueError where the constants of neither split are known.
    """

    constants: Constants

    @classmethod
    def of(cls, problem: Problem) -> Certificate:
        """The certificate that this problem's constants give."""
        if problem.constants is None:
            raise ValueError(f"expected a problem with constants to certify with, got {type(problem).__name__}")
        return cls(problem.constants)

    def __post_init__(self) -> None:
        if not self._splits:
            raise ValueError(
                "expected Lambda and L_c, or tau, ell, ell_1, rho_1 and rho_2, to certify a hypergradient with; "
                f"got {self.constants}"
            )

    @cached_property
    def _splits(self) -> list[tuple[float, float, float]]:
        """(a_0, a_1, c) of each split that the constants allow: a = a_0 + a_1 |v|."""
        k = self.constants
        splits = []
        constant_curvature = k.rho_1 == k.rho_2 == 0 and k.tau is not None
        of_residual = k.tau if constant_curvature else k.L_c and k.L_c / k.mu
        if k.Lambda is not None and of_residual is not None:
            splits.append((k.Lambda, 0.0, of_residual))
        if not (k.tau is None or k.ell is None or k.ell_1 is None or k.rho_1 is None or k.rho_2 is None):
            splits.append((k.ell_1 + k.tau * k.ell, k.rho_1 + k.tau * k.rho_2, k.tau))
        return splits

    def theta_error(self, lower_gradient_norm: Tensor) -> Tensor:
        """A bound on |theta - theta*|: |grad_theta g| / mu."""
        return lower_gradient_norm / self.constants.mu

    def direction_error(self, theta_error: Tensor, residual_norm: Tensor, v_norm: Tensor) -> Tensor:
        """The bound on |d_i - grad Phi_i| of each task, (..., B) as the arguments."""
        bounds = [(a_0 + a_1 * v_norm) * theta_error + c * residual_norm for a_0, a_1, c in self._splits]
        return torch.stack(bounds).amin(0)


def certified_error(oracle: Oracle, phi: Parameters, tasks: Tasks, theta: Tensor, v: Tensor) -> Tensor:
    """A bound on |d - mean_i grad Phi_i(phi)| over these tasks, d the hypergradient at (phi, theta, v); replica axes.

    Cost a task: one lower gradient, one upper gradient, one HVP. Raises ValueError where constants are missing.
    """
    certificate = Certificate.of(oracle.problem)
    z = oracle.embed(phi, tasks)
    error = certificate.theta_error(oracle.lower_gradient(z, theta, tasks).norm(dim=-1))
    residual = oracle.upper_gradient(z, theta, tasks) - oracle.lower_hessian(z, theta, tasks)(v)
    return certificate.direction_error(error, residual.norm(dim=-1), v.norm(dim=-1)).mean(-1)
