"""Means of symmetric Pareto variables, P(|xi| > x) = x^-index for x >= 1: their exact medians (docs/theory.md S7f)."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import gamma

from paper_checks.claim import Array

_END = 10.0  # of the integral over u: where |characteristic|^16 < 1e-9
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def characteristic(u: Array, index: float) -> Array:
    """E cos(u xi) = index int_1^oo x^(-index-1) cos(u x) dx, for 0 <= u <= 10 and an index that is no even integer.

    |u|^s Gamma(-s) cos(pi s / 2) + sum_j (-1)^j u^2j / ((2j)! (s - 2j)), all times s; the first product is
    -pi / (2 Gamma(s + 1) sin(pi s / 2)) by reflection, which is finite at odd s.
    """
    s = index
    total = -np.pi / (2 * gamma(s + 1) * math.sin(np.pi * s / 2)) * np.abs(u) ** s
    term = np.ones_like(u)
    for j in range(40):
        total = total + term / (s - 2 * j)
        term = -term * u**2 / ((2 * j + 1) * (2 * j + 2))
    return np.asarray(s * total)


def median_of_mean(batch: int, index: float) -> float:
    """The median of |mean of `batch` variables|, batch >= 16, by inverting the distribution function.

    P(|sum| <= y) = 2/pi int_0^oo sin(y u) / u characteristic(u)^batch du.
    """
    edges = np.concatenate([[0.0], np.geomspace(1e-8, _END, 120)])  # the integrand lives near u = batch^(-1/index)
    half = np.diff(edges)[:, None] / 2
    u = edges[:-1, None] + half * (1 + _NODES)
    weights = 2 / np.pi * half * _WEIGHTS * characteristic(u, index) ** batch / u

    def excess(y: float) -> float:
        return float((weights * np.sin(y * u)).sum()) - 0.5

    scale = batch ** max(1 / index, 0.5)
    return float(brentq(excess, 1e-2 * scale, 10 * scale, xtol=1e-12 * scale)) / batch


def exponent(index: float) -> float:
    """Of the squared median in the batch size, as it grows: -2 (1 - 1 / index), and -1 where the variance is finite."""
    return -2 * (1 - 1 / min(index, 2.0))
