"""K and N chosen in each iteration, as small as a certificate of the hypergradient allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convergence.arguments import positive
from convergence.certificates import Certificate
from convergence.hypergradients import Estimate
from convergence.linear_solvers import ConjugateGradient
from convergence.lower_solvers import GradientDescent
from convergence.oracle import Features, Oracle
from problems import Tasks

_SHRINK = 4.0  # by how much a pass may tighten the error asked for: |d| of a coarse pass is not to be relied on
_MARGIN = 0.9  # of the error that |d| allows: |d| moves when d is made more exact


@dataclass(frozen=True)
class Certified:
    """Implicit, with as few lower and CG steps as certify |d - grad Phi_B| <= accuracy |d|, at most the solvers' own.

    In passes: lower steps, then CG steps, each until its share of the error asked for is certified, then d; |d| says
    what the next pass asks for. For the same factor of error gradient descent needs sqrt(kappa) times the steps of CG,
    so sqrt(kappa) / (1 + sqrt(kappa)) of the error is left to theta. With accuracy < 1 every step on phi descends:
    <d, grad Phi_B> >= (1 - accuracy) |d|^2.

    Cost a task: the steps taken, and each pass an upper gradient, a cross product, the HVP of a residual.
    Source: the certificate, docs/theory.md S1; relative inexactness, S6. Not in the paper.
    """

    lower_solver: GradientDescent
    linear_solver: ConjugateGradient
    accuracy: float

    def __post_init__(self) -> None:
        positive("accuracy", self.accuracy)

    def estimate(
        self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, start: Tensor | None = None
    ) -> Estimate:
        """d from theta and v (None: zero). Raises ValueError on replicas, and where the constants certify nothing."""
        if oracle.replicas is not None:
            raise ValueError(
                f"expected replicas=None with accuracy={self.accuracy}, got {oracle.replicas}: "
                "K and N would differ between the replicas"
            )
        error = _Error(Certificate.of(oracle.problem), self.lower_solver.step_size, theta)
        K, N, v, allowed = self.lower_solver.steps, self.linear_solver.steps, start, math.inf
        while True:
            error.ask(allowed, v)
            if not error.of_theta_is_small():
                theta = replace(self.lower_solver, steps=K).solve(oracle, z, theta, tasks, enough=error.after_step)
            b = oracle.upper_gradient(z, theta, tasks)  # grad_theta f_i
            cg = replace(self.linear_solver, steps=N)
            v, residual, failure = cg.solve(oracle.lower_hessian(z, theta, tasks), b, v, enough=error.of_v_is_small)
            d = oracle.hypergradient(z, theta, v, tasks)
            K, N = K - error.lower_steps, N - error.cg_steps
            size = math.sqrt(sum(float(part.square().sum()) for part in d.values()))
            certified = float(error.certificate.direction_error(error.theta, residual, v.norm(dim=-1)).mean())
            if certified <= self.accuracy * size or K <= 0 or N <= 0:
                return Estimate(d, theta, v, failure)
            allowed = max(_MARGIN * self.accuracy * size, certified / _SHRINK)


class _Error:
    """What is certified of theta and v while a pass goes on, and the steps that the pass took."""

    def __init__(self, certificate: Certificate, step_size: float, theta: Tensor):
        self.certificate = certificate
        self.theta = theta.new_full(theta.shape[:-1], math.inf)  # bounds on |theta_i - theta_i*|
        self._contraction = certificate.constants.lower_contraction(step_size)
        root = math.sqrt(certificate.constants.kappa)
        self._share = root / (1 + root)

    def ask(self, allowed: float, v: Tensor | None) -> None:
        """A new pass: the error of d that it may leave, with v as it is."""
        self.lower_steps = self.cg_steps = 0
        self._allowed = allowed
        self._v_norm = torch.zeros_like(self.theta) if v is None else v.norm(dim=-1)

    def of_theta_is_small(self) -> bool:
        """Whether the error of theta leaves no more than its share."""
        part = self.certificate.direction_error(self.theta, torch.zeros_like(self.theta), self._v_norm).mean()
        return float(part) <= self._share * self._allowed < math.inf

    def after_step(self, gradient_norm: Tensor) -> bool:
        """A step from where the gradient had this norm: theta is nearer by the contraction factor."""
        self.lower_steps += 1
        self.theta = self._contraction * torch.minimum(self.theta, self.certificate.theta_error(gradient_norm))
        return self._allowed == math.inf or self.of_theta_is_small()

    def of_v_is_small(self, residual_norm: Tensor) -> bool:
        """Whether the residual leaves no more than its share; if not, a CG step follows."""
        part = self.certificate.direction_error(torch.zeros_like(residual_norm), residual_norm, self._v_norm).mean()
        small = float(part) <= (1 - self._share) * self._allowed
        self.cg_steps += not small
        return small
