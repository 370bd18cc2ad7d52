"""Fixed functions on which gradient descent is as slow for every horizon as an exponent says (docs/theory.md S6)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Parameters
from problems.embedded import Embedded


class Separable(Embedded):
    """h(x) = sum_j h_j(x_j) / L_j, with L_j the Lipschitz constant of h_j': one coordinate for each exponent.

    Every coordinate has smoothness 1, so one step size suits all. With A = I (kappa = 1) and K = N = alpha = 1 they
    evolve independently: one run measures all exponents. phi starts at 1 in each coordinate.
    """

    smoothness = 1.0

    @checked
    def __init__(self, exponents: Sequence[float], *, curvatures: Sequence[float], **embedding: Any):
        super().__init__(dimension=len(exponents), **embedding)
        self.exponents = torch.as_tensor(exponents, dtype=torch.float64)
        self.curvatures = torch.as_tensor(curvatures, dtype=torch.float64)  # L_j

    @abstractmethod
    def profiles(self, x: Tensor) -> Tensor:
        """h_j(x_j) of every coordinate, the shape of x."""

    @abstractmethod
    def profile_slopes(self, x: Tensor) -> Tensor:
        """h_j'(x_j) of every coordinate, the shape of x."""

    @property
    def start(self) -> Tensor:
        """Ones."""
        return torch.ones_like(self.exponents)

    @property
    def steepest(self) -> float:
        """|(h_j'(1) / L_j)_j|: no slope exceeds that at 1."""
        return float(self.objective_gradient(torch.ones_like(self.exponents)).norm())

    def objective(self, x: Tensor) -> Tensor:
        """sum_j h_j(x_j) / L_j."""
        return (self.profiles(x) / self.curvatures).sum(-1)

    def objective_gradient(self, x: Tensor) -> Tensor:
        """h_j'(x_j) / L_j."""
        return self.profile_slopes(x) / self.curvatures


class PowerTail(Separable):
    """h'(x) = -a x^(-a-1) (1 + c cos(omega ln x)) for x >= 1, constant below 1: an infimum that is not attained.

    exponents    a > 0
    ripples      0 <= c < 1: zero by default, then h = x^-a is convex. With c sqrt((a+1)^2 + omega^2) > a + 1 the
                 curvature changes sign on every scale, while h still decreases
    frequencies  omega of the ripple, in ln x

    h(x) = x^-a (1 + c a (a cos(omega l) - omega sin(omega l)) / (a^2 + omega^2)), l = ln x. L_j is exact.
    Raises ValueError on exponents <= 0, ripples outside [0, 1), or lists of different lengths.
    """

    @checked
    def __init__(
        self,
        exponents: Sequence[float],
        *,
        ripples: Sequence[float] | None = None,
        frequencies: Sequence[float] | None = None,
        **embedding: Any,
    ):
        ripples = [0.0] * len(exponents) if ripples is None else ripples
        frequencies = [1.0] * len(exponents) if frequencies is None else frequencies
        if not all(a > 0 for a in exponents):
            raise ValueError(f"expected exponents > 0, got {list(exponents)}")
        if not all(0 <= c < 1 for c in ripples):
            raise ValueError(f"expected ripples in [0, 1), got {list(ripples)}")
        if not len(exponents) == len(ripples) == len(frequencies):
            raise ValueError(
                "expected one ripple and one frequency for each exponent, "
                f"got {len(exponents)} exponents, {len(ripples)} ripples, {len(frequencies)} frequencies"
            )
        curvatures = [_largest_curvature(*each) for each in zip(exponents, ripples, frequencies, strict=True)]
        super().__init__(exponents, curvatures=curvatures, **embedding)
        self.ripples = torch.as_tensor(ripples, dtype=torch.float64)
        self.frequencies = torch.as_tensor(frequencies, dtype=torch.float64)

    def profiles(self, x: Tensor) -> Tensor:
        """h, continued linearly below 1."""
        a, c, omega = self.exponents, self.ripples, self.frequencies
        inside = x.clamp(min=1)
        log = inside.log()
        wave = a * (omega * log).cos() - omega * (omega * log).sin()
        value = (-a * log).exp() * (1 + c * a * wave / (a * a + omega * omega))
        return value + self.profile_slopes(inside) * (x - inside)

    def profile_slopes(self, x: Tensor) -> Tensor:
        """h', that at 1 below 1."""
        log = x.clamp(min=1).log()
        return (
            -self.exponents * ((-self.exponents - 1) * log).exp() * (1 + self.ripples * (self.frequencies * log).cos())
        )


class PowerWell(Separable):
    """h(x) = |x|^m for |x| <= 1, linear beyond: a minimum that is attained, with curvature zero.

    exponents    m > 2. L_j = m (m - 1). Raises ValueError on exponents <= 2.
    """

    @checked
    def __init__(self, exponents: Sequence[float], **embedding: Any):
        if not all(m > 2 for m in exponents):
            raise ValueError(f"expected exponents > 2, got {list(exponents)}")
        super().__init__(exponents, curvatures=[m * (m - 1) for m in exponents], **embedding)

    def profiles(self, x: Tensor) -> Tensor:
        """|x|^m, continued linearly beyond 1."""
        inside = x.clamp(-1, 1)
        return inside.abs() ** self.exponents + self.profile_slopes(inside) * (x - inside)

    def profile_slopes(self, x: Tensor) -> Tensor:
        """m x |x|^(m-2), that at 1 beyond 1."""
        inside = x.clamp(-1, 1)
        return self.exponents * inside * inside.abs() ** (self.exponents - 2)

    def upper_solution(self) -> Parameters:
        """The origin."""
        return {"phi": self.data["slope"].new_zeros(self.p)}


def _largest_curvature(a: float, c: float, omega: float) -> float:
    """max over x >= 1 of |h''| of a `PowerTail`: a e^(-(a+2) l) |a + 1 + R cos(omega l - psi)|, l = ln x.

    R = c sqrt((a+1)^2 + omega^2), psi = atan2(omega, a + 1). The extremes in l lie where the derivative vanishes:
    R S cos(omega l - psi - chi) = -(a+1)(a+2), S = sqrt((a+2)^2 + omega^2), chi = atan2(omega, a + 2); the largest is
    at l = 0 or within the first period.
    """
    R, psi = c * math.hypot(a + 1, omega), math.atan2(omega, a + 1)
    S, chi = math.hypot(a + 2, omega), math.atan2(omega, a + 2)
    places = [0.0]
    if (a + 1) * (a + 2) < R * S:
        turn = math.acos(-(a + 1) * (a + 2) / (R * S))
        places += [(psi + chi + sign * turn) % (2 * math.pi) / omega for sign in (1, -1)]
    return max(a * math.exp(-(a + 2) * log) * abs(a + 1 + R * math.cos(omega * log - psi)) for log in places)
