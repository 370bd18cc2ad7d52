"""Bounds of S6, the smallest gradient on the way, over functions of one variable with a piecewise linear derivative."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convergence import Oracle
from paper_checks.bounds.instances import numbers, parameters
from paper_checks.falsify import Bound, Cell, Method
from paper_checks.quadratic_theory import Array
from paper_checks.worst_case_sdp import KINDS
from paper_checks.worst_case_sdp import Cell as WorstCase
from problems import Embedded

_KNOTS = 12
_SLOPES = {"convex": (0.0, 1.0), "nonconvex": (-1.0, 1.0)}


class _Piece(NamedTuple):
    """Value and slope at its knot, curvature, and the way from the knot."""

    value: Tensor
    slope: Tensor
    curvature: Tensor
    away: Tensor


class Profiles(Embedded):
    """n functions h, one a replica: h' continuous, linear between the knots j w, constant slope 1 outside them; L = 1.

    slope (n,) at 0, width (n,) of a piece, pieces (n, knots) the second derivatives. For a method's step, not `run`.
    """

    smoothness = 1.0
    start = torch.zeros(1)
    steepest = float("inf")

    def __init__(self, slope: Tensor, width: Tensor, pieces: Tensor):
        super().__init__(dimension=1)
        self.slope, self.width, self.pieces = slope, width, pieces
        rise = torch.cumsum(pieces * width[:, None], -1)
        self.slopes = torch.cat([slope[:, None], slope[:, None] + rise], -1)  # h' at the knots
        area = (self.slopes[:, 1:] + self.slopes[:, :-1]) / 2 * width[:, None]
        self.values = torch.cat([torch.zeros_like(area[:, :1]), torch.cumsum(area, -1)], -1)  # h at the knots

    def _at(self, x: Tensor) -> _Piece:
        """The piece that x (n, ...) lies in."""
        flat = x.reshape(len(x), -1)
        end = self.width * self.pieces.shape[-1]
        cell = (flat / self.width[:, None]).floor().long().clamp(0, self.pieces.shape[-1] - 1)
        curvature = self.pieces.gather(-1, cell)
        knot = cell
        outside = (flat < 0, flat > end[:, None])
        knot = torch.where(outside[1], self.pieces.shape[-1], knot)
        curvature = torch.where(outside[0] | outside[1], 1.0, curvature)
        away = flat - knot * self.width[:, None]
        found = (self.values.gather(-1, knot), self.slopes.gather(-1, knot), curvature, away)
        return _Piece(*(each.reshape(x.shape) for each in found))

    def objective(self, x: Tensor) -> Tensor:
        """h(x)."""
        value, slope, curvature, away = self._at(x[..., 0])
        return value + slope * away + curvature * away.square() / 2

    def objective_gradient(self, x: Tensor) -> Tensor:
        """h'(x)."""
        _, slope, curvature, away = self._at(x)
        return slope + curvature * away

    @property
    def minimum(self) -> Tensor:
        """inf h, (n,): at a knot, at a zero of h' within a piece, or on either of the outer parabolas."""
        inner = self.slopes[:, :-1] / -torch.where(self.pieces.abs() < 1e-12, torch.inf, self.pieces)
        inner = inner.clamp(min=torch.zeros_like(inner), max=self.width[:, None].expand_as(inner))
        within = self.values[:, :-1] + self.slopes[:, :-1] * inner + self.pieces * inner.square() / 2
        left = self.values[:, 0] - self.slopes[:, 0].clamp(min=0).square() / 2
        right = self.values[:, -1] - self.slopes[:, -1].clamp(max=0).square() / 2
        return torch.cat([self.values, within, left[:, None], right[:, None]], -1).amin(-1)


def _profiles(x: Array, kind: str) -> tuple[Profiles, Array]:
    """h' at the left end, the width of a piece in steps, the curvatures, where phi starts."""
    low, high = _SLOPES[kind]
    slope, width = torch.as_tensor(2 * x[:, 0] - 1), torch.as_tensor(0.05 + 0.95 * x[:, 1])
    pieces = torch.as_tensor(low + (high - low) * x[:, 2 : 2 + _KNOTS])
    return Profiles(slope, width, pieces), (x[:, -1:] * 1.2 - 0.1) * _KNOTS * numbers(width)[:, None]


def _smallest(kind: str) -> Any:
    def ratios(method: Method, cell: Cell, x: Array) -> Array:
        """min_{t<=N} |grad Phi_t|^2 over L Delta w(N, h); h is the same for all instances."""
        problem, start = _profiles(x, kind)
        h = cell["h_percent"] / 100
        law = WorstCase(KINDS.index(kind), h, cell["N"]).law
        oracle, phi = Oracle(problem, replicas=len(x)), parameters(start)
        solver = method(lower_steps=1, lower_step_size=1.0, cg_steps=1, upper_step_size=h, warm_start=True)
        state = solver.start(oracle, phi)
        gap = numbers(problem.objective(phi["phi"]) - problem.minimum)
        squares = []
        for _ in range(cell["N"] + 1):
            squares.append(numbers(problem.objective_gradient(phi["phi"]))[:, 0] ** 2)
            step = solver.step(oracle, phi, oracle.pool, state)
            phi, state = step.phi, step.state
        return np.asarray(np.min(squares, 0) / (gap * law + 1e-12))

    return ratios


def _instance(kind: str) -> Any:
    def arrays(cell: Cell, x: Array) -> dict[str, Array]:
        problem, start = _profiles(x[None], kind)
        found = {"slope": problem.slope, "width": problem.width, "second derivatives": problem.pieces}
        return {name: numbers(tensor[0]) for name, tensor in found.items()} | {"phi": start[0]}

    return arrays


_CELLS = ({"N": 1, "h_percent": 100}, {"N": 3, "h_percent": 50}, {"N": 5, "h_percent": 100})
BOUNDS = {
    "sublinear_rate": tuple(
        Bound(
            f"min |grad Phi|^2 over L Delta w(N, h), {kind}",
            lambda cell: _KNOTS + 3,
            _CELLS,
            _smallest(kind),
            _instance(kind),
        )
        for kind in _SLOPES
    )
}
