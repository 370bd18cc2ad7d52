"""Worst-case functions of gradient descent as bilevel problems: they attain the bounds (docs/theory.md S6)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Parameters
from problems.embedded import Embedded


class Tight(Embedded):
    """h(theta_1) embedded in `dimension` coordinates, a profile h on the line that attains a bound.

    Phi(phi) = h(phi_1); see `Embedded` for the lower level, and for `kappa`, `coupled` and `tasks`.

    Step size h / smoothness with relative_step = h. The start x_0 and h make the first `horizon` iterates of
    gradient descent all have |grad Phi| = gradient: no guarantee for the class can be better.

    horizon        T, the number of iterates (T - 1 steps)
    smoothness     Lipschitz constant of grad Phi
    gradient       the value of |grad Phi| on the first T iterates; `with_gap` chooses it from Phi(phi_0) - Phi*
    """

    @checked
    def __init__(
        self,
        *,
        horizon: int,
        smoothness: float = 4.0,
        gradient: float = 1.0,
        relative_step: float = 1.0,
        dimension: int = 1,
        **embedding: Any,
    ):
        if not (smoothness > 0 and gradient > 0 and 0 < relative_step <= 1):
            raise ValueError(
                "expected smoothness > 0, gradient > 0 and 0 < relative_step <= 1, "
                f"got {smoothness}, {gradient}, {relative_step}"
            )
        super().__init__(dimension=dimension, slope=gradient, **embedding)
        self.steps = horizon - 1
        self.horizon, self.smoothness, self.gradient, self.relative_step = (
            horizon,
            smoothness,
            gradient,
            relative_step,
        )
        self.upper_step_size = relative_step / smoothness
        if not math.isfinite(self.upper_step_size * gradient):
            raise ValueError(f"expected a larger smoothness, got {smoothness}: a step is no finite number")

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

    # ---- the profile along the first coordinate

    @property
    def start(self) -> Tensor:
        """x_0 in the first coordinate, zero in the others."""
        start = torch.zeros(self.p, dtype=torch.float64)
        start[0] = self.x0
        return start

    @property
    def steepest(self) -> float:
        """`gradient`."""
        return self.gradient

    def objective(self, x: Tensor) -> Tensor:
        """h(x_1)."""
        return self.profile(x[..., 0])

    def objective_gradient(self, x: Tensor) -> Tensor:
        """h'(x_1) e_1."""
        return torch.nn.functional.pad(self.profile_slope(x[..., :1]), (0, self.p - 1))

    def upper_solution(self) -> Parameters:
        """The origin."""
        return {"phi": self.data["slope"].new_zeros(self.p)}


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

    @checked
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

    @checked
    def __init__(self, *, horizon: int, **options: Any):
        super().__init__(horizon=horizon, omega=0.0, **options)
