"""Worst-case functions of gradient descent as bilevel problems: they attain the bounds (docs/theory.md S6)."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from problems.base import Constants, Parameters, Problem, Tasks, matvec


class Tight(Problem):
    """g_i = 1/2 (theta - phi)'A (theta - phi),  f_i = h(theta_1) + xi_i'theta,  sum_i xi_i = 0.

    theta*(phi) = phi, so Phi(phi) = h(phi_1) whatever the lower level is; A has eigenvalues log-spaced from
    1/kappa to 1 = L. With kappa = 1 and K = N = alpha = 1 the algorithm is gradient descent on h in exact
    arithmetic. `coupled` rotates A, so that every eigenvalue takes part in every task; without it theta_1 is the
    eigenvector of L. A cold lower level starts at theta = phi.

    Step size h / smoothness with relative_step = h. The start x_0 and h make the first `horizon` iterates of
    gradient descent all have |grad Phi| = gradient: no guarantee for the class can be better.

    horizon        T, the number of iterates (T - 1 steps)
    smoothness     Lipschitz constant of grad Phi
    gradient       the value of |grad Phi| on the first T iterates; `with_gap` chooses it from Phi(phi_0) - Phi*
    tasks          M; more than one adds slopes xi_i = +- gradient along the axes, in pairs that cancel
    """

    broadcasts_replicas = True

    def __init__(
        self,
        *,
        horizon: int,
        smoothness: float = 4.0,
        gradient: float = 1.0,
        relative_step: float = 1.0,
        kappa: float = 1.0,
        dimension: int = 1,
        coupled: bool = False,
        tasks: int = 1,
        seed: int = 0,
    ):
        for name, count in (("horizon", horizon), ("dimension", dimension), ("tasks", tasks)):
            if count < 1:
                raise ValueError(f"expected {name} >= 1, got {count}")
        if not (smoothness > 0 and gradient > 0 and 0 < relative_step <= 1):
            raise ValueError(
                "expected smoothness > 0, gradient > 0 and 0 < relative_step <= 1, "
                f"got {smoothness}, {gradient}, {relative_step}"
            )
        if not 1 <= kappa < math.inf or (dimension == 1 and kappa != 1):
            raise ValueError(
                f"expected kappa >= 1, and kappa = 1 in dimension 1, got kappa {kappa}, dimension {dimension}"
            )
        if tasks != 1 and tasks % 2:
            raise ValueError(f"expected one task or an even number (slopes cancel in pairs), got {tasks}")
        self.steps = horizon - 1
        self.horizon, self.smoothness, self.gradient, self.relative_step = (
            horizon,
            smoothness,
            gradient,
            relative_step,
        )
        self.upper_step_size = relative_step / smoothness
        self.p = self.q = dimension

        A = np.diag(np.geomspace(1.0, 1 / kappa, dimension))
        if coupled:
            rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))
            A = rotation @ A @ rotation.T
            A = (A + A.T) / 2
        slopes = np.zeros((tasks, dimension))
        for pair in range(tasks // 2):
            slopes[2 * pair, pair % dimension] = gradient
            slopes[2 * pair + 1, pair % dimension] = -gradient
        self.data = {"A": torch.as_tensor(np.tile(A, (tasks, 1, 1))), "slope": torch.as_tensor(slopes)}

    @classmethod
    def with_gap(cls, gap: float, *, horizon: int, smoothness: float = 4.0, **options: Any) -> Self:
        """The instance with Phi(phi_0) - Phi* = gap: its gradient follows from the exact law."""
        unit = cls(horizon=horizon, smoothness=smoothness, gradient=1.0, **options)
        return cls(horizon=horizon, smoothness=smoothness, gradient=math.sqrt(gap / unit.gap), **options)

    # ---- the profile h on the line: h'(x) odd, h'(x) = smoothness x near 0, minimum h(0) = 0

    @property
    @abstractmethod
    def x0(self) -> float:
        """Where the first coordinate of phi starts."""

    @abstractmethod
    def _dip(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """What h' falls short of `gradient` at distance y >= 0 beyond the quadratic part, and its integral from 0."""

    def profile(self, x: Tensor) -> Tensor:
        """h(x): quadratic up to |x| = gradient / smoothness, then linear less the integral of the dips."""
        edge = self.gradient / self.smoothness
        beyond = (x.abs() - edge).clamp(min=0)
        inside = x.clamp(-edge, edge)
        return 0.5 * self.smoothness * inside.square() + self.gradient * beyond - self._dip(beyond)[1]

    def profile_slope(self, x: Tensor) -> Tensor:
        """h'(x)."""
        edge = self.gradient / self.smoothness
        beyond = (x.abs() - edge).clamp(min=0)
        return self.smoothness * x.clamp(-edge, edge) - x.sign() * self._dip(beyond)[0]

    @property
    def gap(self) -> float:
        """Phi(phi_0) - Phi* = h(x_0)."""
        return float(self.profile(torch.tensor(self.x0, dtype=torch.float64)))

    @property
    @abstractmethod
    def law(self) -> float:
        """min over the first T iterates of |grad Phi|^2, divided by smoothness * gap: the exact law in T and h."""

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """x_0 in the first coordinate, zero in the others; not random."""
        start = self.data["slope"].new_zeros(self.p)
        start[0] = self.x0
        return {"phi": start}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi itself."""
        row = phi["phi"].unsqueeze(-2)
        return row.expand(*torch.broadcast_shapes(row.shape[:-1], tasks.index.shape), self.q)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 (theta - phi)'A (theta - phi)."""
        return 0.5 * ((theta - features["phi"].unsqueeze(-2)) * self.lower_gradient(features, theta, tasks)).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """h(theta_1) + xi'theta."""
        return self.profile(theta[..., 0]) + (tasks.slope * theta).sum(-1)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """A (theta - phi)."""
        return self.lower_hvp(features, theta, theta - features["phi"].unsqueeze(-2), tasks)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """A v."""
        return matvec(tasks.A, v)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """h'(theta_1) e_1 + xi."""
        first = torch.nn.functional.pad(self.profile_slope(theta[..., :1]), (0, self.q - 1))
        return first + tasks.slope

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i A v_i."""
        return {"phi": matvec(tasks.A, v).mean(-2)}

    # ---- exact solutions

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi for each task."""
        return self.theta0(phi, tasks)

    def value(self, phi: Parameters) -> Tensor:
        """h(phi_1)."""
        return self.profile(phi["phi"][..., 0])

    def hypergradient(self, phi: Parameters) -> Parameters:
        """h'(phi_1) e_1."""
        slope = torch.zeros_like(phi["phi"])
        slope[..., 0] = self.profile_slope(phi["phi"][..., 0])
        return {"phi": slope}

    def upper_solution(self) -> Parameters:
        """The origin."""
        return {"phi": self.data["slope"].new_zeros(self.p)}

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # from the eigenvalues of A
        """Exact; Lambda = smoothness since d2g/dphi dtheta (d2g/dtheta2)^-1 is the identity."""
        eigenvalues = torch.linalg.eigvalsh(self.data["A"][0].double())
        mu, L = float(eigenvalues[0]), float(eigenvalues[-1])
        slopes = self.data["slope"].double()
        return Constants(
            mu=mu,
            L=L,
            L_c=L,
            rho_1=0.0,
            rho_2=0.0,
            ell=self.smoothness,
            ell_1=0.0,
            B=self.gradient + float(slopes.norm(dim=-1).max()),
            Lambda=self.smoothness,
            tau=1.0,
            nu=self.smoothness / mu,
            L_Phi=self.smoothness,
            sigma_sq=float(slopes.square().sum(-1).mean()),
        )


class Huber(Tight):
    """Convex worst case: h'(x) = smoothness clip(x, +- eta), x_0 = eta (1 + N h), eta = gradient / smoothness.

    Exact law: min over T = N + 1 iterates of |grad Phi|^2 = 2 L Delta / (2 N h + 1).
    Source: Drori and Teboulle 2014; Kim and Fessler 2021. h(x_0) = L eta^2 (1/2 + N h).

    >>> problem = Huber(horizon=10)
    >>> abs(problem.gradient**2 / (problem.smoothness * problem.gap) - problem.law) < 1e-15
    True
    """

    @property
    def x0(self) -> float:
        """eta (1 + N h)."""
        return self.gradient / self.smoothness * (1 + self.steps * self.relative_step)

    def _dip(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(y), torch.zeros_like(y)

    @property
    def law(self) -> float:
        """2 / (2 N h + 1)."""
        return 2 / (2 * self.steps * self.relative_step + 1)


class Plateau(Tight):
    """Nonconvex, robust: h' = gradient on plateaus around each iterate, dipping with slope +- L in between.

    Plateaus have half-width omega s around x_k = eta + omega s + (N - k) s, s = h eta the length of a step.
    Exact law: min |grad Phi|^2 = L Delta / (N (h - (1 - 2 omega)^2 h^2 / 4) + 1/2 + omega h), within 6 % of the
    nonconvex worst case at omega = 0.05, h = 1. Iterates may be off by omega s: the orbit is stable, unlike `Zigzag`.
    """

    def __init__(self, *, horizon: int, omega: float = 0.05, **options: Any):
        if not 0 <= omega <= 0.5:
            raise ValueError(f"expected 0 <= omega <= 1/2, got {omega}")
        self.omega = omega
        super().__init__(horizon=horizon, **options)

    @property
    def _step(self) -> float:
        return self.relative_step * self.gradient / self.smoothness

    @property
    def x0(self) -> float:
        """eta + omega s + N s."""
        return self.gradient / self.smoothness + self.omega * self._step + self.steps * self._step

    def _dip(self, y: Tensor) -> tuple[Tensor, Tensor]:
        s, L = self._step, self.smoothness
        width = (1 - 2 * self.omega) * s  # of the base of a dip; one lies between each two plateaus
        y = (y - 2 * self.omega * s).clamp(min=0)  # distance beyond the start of the first dip
        y = torch.minimum(y, torch.full_like(y, self.steps * s))  # constant slope beyond x_0
        cell = torch.floor(y / s)
        r = (y - cell * s).clamp(max=width)
        depth = torch.minimum(r, width - r)
        area = torch.where(r <= width / 2, r.square() / 2, width**2 / 4 - (width - r).square() / 2)
        return L * depth, L * (cell * width**2 / 4 + area)

    @property
    def law(self) -> float:
        """1 / (N (h - (1 - 2 omega)^2 h^2 / 4) + 1/2 + omega h)."""
        h, omega = self.relative_step, self.omega
        return 1 / (self.steps * (h - (1 - 2 * omega) ** 2 * h**2 / 4) + 0.5 + omega * h)


class Zigzag(Plateau):
    """Nonconvex worst case: `Plateau` with omega = 0.

    Exact law: min |grad Phi|^2 = 4 L Delta / (N (4 h - h^2) + 2), h <= 1.
    The orbit is unstable (an error beyond x_k doubles with every step): keep smoothness, gradient and
    relative_step powers of two and A diagonal, so that floating-point arithmetic is exact.
    Source: Abbaszadehpeivasti, de Klerk, Zamani, Optimization Letters 2022.
    """

    def __init__(self, *, horizon: int, **options: Any):
        super().__init__(horizon=horizon, omega=0.0, **options)
