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
_PATIENCE = 10  # lower steps without a smaller gradient, after which theta stands still
_SLACK = 1.5  # by how much a pass may miss what was asked for: |v| in the certificate moves with v
_MARGIN = 0.9  # of the error that |d| allows: |d| moves when d is made more exact


@dataclass(frozen=True)
class Certified:
    """Implicit, with as few lower and CG steps as certify |d - grad Phi_B| <= accuracy |d|, at most the solvers' own.

    In passes: lower steps until their share of the error asked for is certified, CG steps until the whole is, then d;
    |d| says what the next pass asks for. For the same factor of error gradient descent needs sqrt(kappa) times the
    steps of CG, so sqrt(kappa) / (1 + sqrt(kappa)) of the error is left to theta. Since <d, grad Phi_B> >=
    (1 - accuracy) |d|^2, a step of size beta < 2 (1 - accuracy) / L_Phi descends.

    Ends without the certificate where a limit is reached, or theta or v stands still (theta at rounding, v at the
    tolerance of CG): watch the probe `certified_direction_error`. Cost a task: the steps taken, and each pass an upper
    gradient, a cross product, the HVP of a residual. Source: the certificate, docs/theory.md S1; relative inexactness,
    S6. Not in the paper.
    """

    lower_solver: GradientDescent
    linear_solver: ConjugateGradient
    accuracy: float

    def __post_init__(self) -> None:
        positive("accuracy", self.accuracy)

    def estimate(
        self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, start: Tensor | None = None
    ) -> Estimate:
        """d from theta and v (None: zero).

        Raises ValueError on replicas, on stochastic objectives, and where the constants certify nothing.
        """
        if oracle.replicas is not None:
            raise ValueError(
                f"expected replicas=None with accuracy={self.accuracy}, got {oracle.replicas}: "
                "K and N would differ between the replicas"
            )
        if oracle.problem.has("draw"):
            raise ValueError(
                f"expected exact objectives with accuracy={self.accuracy}, got {type(oracle.problem).__name__}, "
                "whose samples certify nothing of their mean"
            )
        error = _Error(Certificate.of(oracle.problem), self.lower_solver.one_step_size, theta)
        K, N, v, allowed = self.lower_solver.steps, self.linear_solver.steps, start, math.inf
        while True:
            error.ask(allowed, theta, v)
            if not error.of_theta_is_small():
                theta = replace(self.lower_solver, steps=K).solve(oracle, z, theta, tasks, enough=error.after_step)
            b = oracle.upper_gradient(z, theta, tasks)  # grad_theta f_i
            cg = replace(self.linear_solver, steps=N)
            v, residual, failure = cg.solve(oracle.lower_hessian(z, theta, tasks), b, v, enough=error.is_small)
            d = oracle.hypergradient(z, theta, v, tasks)
            K, N = K - error.lower_steps, N - error.cg_steps
            size = math.sqrt(sum(float(part.square().sum()) for part in d.values()))
            certified = error.of_direction(residual, v.norm(dim=-1))
            rounding = error.stands_still or certified > _SLACK * allowed  # theta or v got no better
            idle = error.lower_steps + error.cg_steps == 0  # theta is small, v frozen: the next pass would be this one
            if certified <= self.accuracy * size or K <= 0 or N <= 0 or rounding or idle:
                return Estimate(d, theta, v, failure)
            allowed = max(_MARGIN * self.accuracy * size, certified / _SHRINK)


class _Error:
    """What is certified of theta and v while a pass goes on, and the steps that the pass took."""

    def __init__(self, certificate: Certificate, step_size: float, theta: Tensor):
        self._certificate = certificate
        self._theta = theta.new_full(theta.shape[:-1], math.inf)  # bounds on |theta_i - theta_i*|
        self._contraction = certificate.constants.lower_contraction(step_size)
        # What rounding leaves of A x - b for an A of norm L: no gradient or residual is known better than that
        self._rounding = 4 * torch.finfo(theta.dtype).eps * certificate.constants.L
        self._smallest, self._since = math.inf, 0  # of the gradient's norms, and the steps since then
        root = math.sqrt(certificate.constants.kappa)
        self._share = root / (1 + root)

    def ask(self, allowed: float, theta: Tensor, v: Tensor | None) -> None:
        """A new pass: the error of d that it may leave, with theta and v as they are."""
        self.lower_steps = self.cg_steps = 0
        self._allowed = allowed
        self._floor = self._rounding * theta.norm(dim=-1)
        self._v_norm = torch.zeros_like(self._theta) if v is None else v.norm(dim=-1)

    def of_direction(self, residual_norm: Tensor, v_norm: Tensor) -> float:
        """The certified error of d."""
        residual = residual_norm + self._rounding * v_norm
        return float(self._certificate.direction_error(self._theta, residual, v_norm).mean())

    def of_theta_is_small(self) -> bool:
        """Whether the error of theta alone leaves no more than its share."""
        part = self.of_direction(torch.zeros_like(self._theta), self._v_norm)
        return part <= self._share * self._allowed < math.inf

    def after_step(self, gradient_norm: Tensor) -> bool:
        """A step from where the gradient had this norm: theta is nearer to theta* by the contraction factor."""
        self.lower_steps += 1
        self._theta = self._contraction * self._certificate.theta_error(gradient_norm + self._floor)
        # Every step makes the gradient smaller, as long as it is above rounding
        largest = float(gradient_norm.max())
        self._since = 0 if largest < self._smallest else self._since + 1
        self._smallest = min(largest, self._smallest)
        return self._allowed == math.inf or self.stands_still or self.of_theta_is_small()

    @property
    def stands_still(self) -> bool:
        """Whether theta has reached rounding."""
        return self._since >= _PATIENCE

    def is_small(self, residual_norm: Tensor) -> bool:
        """Whether theta and v leave no more than what is asked for; if not, a CG step follows."""
        small = self.of_direction(residual_norm, self._v_norm) <= self._allowed
        self.cg_steps += not small
        return small
