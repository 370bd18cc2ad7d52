"""Worst-case functions behind a lower level that shortens every truncated hypergradient by an exact factor (S6)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Constants, Parameters, Problem, Tasks, matvec
from problems.tight import Tight


class Shortened(Problem):
    """g = 1/2 theta'A theta - phi c'theta,  f = h(c'theta / gamma),  gamma = c'A^-1 c, h the profile of a `Tight`.

    p = 1, q = N + 1; A = diag(lambda_j), lambda_j = (kappa + 1)/2 + (kappa - 1)/2 cos(j pi / N), c = (1/sqrt 2, 1, ..,
    1, 1/sqrt 2). theta*(phi) = phi A^-1 c, so that Phi = h; a cold lower level starts there. grad_theta f keeps the
    direction of c, on which N CG steps from v = 0 reach c'v_N = (1 - chi_N^2) c'v* (Galerkin; Greenbaum 1979), hence

        d = (1 - chi_N^2) grad Phi    for every phi:

    a relative error of exactly `relative_error` = chi_N^2, and gradient descent on h with a step as much shorter.
    With a profile made for relative_step (1 - chi_N^2) h it attains, at beta = h / L, the worst case of gradient
    descent with that relative error. docs/theory.md S6. Raises ValueError unless cg_steps >= 1 and kappa > 1.
    """

    broadcasts_replicas = True

    @checked
    def __init__(self, tight: Tight, *, cg_steps: int, kappa: float):
        if not kappa > 1:
            raise ValueError(f"expected kappa > 1, got {kappa}")
        self.tight, self.cg_steps, self.kappa = tight, cg_steps, kappa
        self.p, self.q = 1, cg_steps + 1
        cosines = torch.cos(torch.arange(self.q, dtype=torch.float64) * math.pi / cg_steps)
        eigenvalues = (kappa + 1) / 2 + (kappa - 1) / 2 * cosines
        c = torch.ones(self.q, dtype=torch.float64)
        c[0] = c[-1] = math.sqrt(0.5)
        # c / gamma is stored beside c: what f sees of theta
        self.data = {"A": eigenvalues.diag()[None], "c": c[None], "sees": (c / (c * c / eigenvalues).sum())[None]}

    @property
    def relative_error(self) -> float:
        """chi_N^2 = 1 / T_N((kappa + 1) / (kappa - 1))^2."""
        return math.cosh(self.cg_steps * math.acosh((self.kappa + 1) / (self.kappa - 1))) ** -2

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """x_0 of the profile; not random."""
        return {"phi": self.data["c"].new_full((1,), self.tight.x0)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta*(phi) itself."""
        return phi["phi"].unsqueeze(-2) * tasks.c / tasks.A.diagonal(dim1=-2, dim2=-1)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 theta'A theta - phi c'theta."""
        product = matvec(tasks.A, theta, symmetric=True)
        return (theta * (0.5 * product - features["phi"].unsqueeze(-2) * tasks.c)).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """h(c'theta / gamma)."""
        return self.tight.profile((tasks.sees * theta).sum(-1))

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """A theta - phi c."""
        return matvec(tasks.A, theta, symmetric=True) - features["phi"].unsqueeze(-2) * tasks.c

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """A v."""
        return matvec(tasks.A, v, symmetric=True)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """h'(c'theta / gamma) c / gamma."""
        return self.tight.profile_slope((tasks.sees * theta).sum(-1, keepdim=True)) * tasks.sees

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """c'v."""
        return {"phi": (tasks.c * v).sum(-1)}

    # ---- exact solutions

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi A^-1 c."""
        return self.theta0(phi, tasks)

    def value(self, phi: Parameters) -> Tensor:
        """h(phi)."""
        return self.tight.profile(phi["phi"][..., 0])

    def hypergradient(self, phi: Parameters) -> Parameters:
        """h'(phi)."""
        return {"phi": self.tight.profile_slope(phi["phi"])}

    def upper_solution(self) -> Parameters:
        """The origin."""
        return {"phi": self.data["c"].new_zeros(1)}

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # from the spectrum
        """Exact: with J = A^-1 c, d grad_theta f / d theta = h'' cc' / gamma^2 and h'' <= L_Phi."""
        eigenvalues, c = self.data["A"][0].diagonal().double(), self.data["c"][0].double()
        size, inner = float(c.norm()), float((c * c / eigenvalues).sum())
        slope = float((c / eigenvalues).norm())
        smoothness = self.tight.smoothness
        return Constants(
            mu=float(eigenvalues.min()),
            L=float(eigenvalues.max()),
            L_c=size,
            rho_1=0.0,
            rho_2=0.0,
            ell=smoothness * (size / inner) ** 2,
            ell_1=0.0,
            B=self.tight.steepest * size / inner,
            Lambda=smoothness * size / inner,
            tau=slope,
            nu=smoothness * slope * size / inner**2,
            L_Phi=smoothness,
            sigma_sq=0.0,
        )
