"""Exact convergence with all tasks and a warm start, its Lyapunov function, and the floor that a cold v leaves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import (
    by_condition_number,
    dashed,
    describe,
    key,
    legend,
    level,
    measured,
    panels,
    predicted,
    shared_legend,
    trace,
)
from figures.style import BLACK, CYCLE, EXACT, GREY, Evidence, Series, paper_style

ROUNDING = 1e-18  # of V_t: below it the claim does not judge a decrease
SHOWN = 0.1  # of the guaranteed decrease: the least that panel c shows


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: |grad Phi|^2, also on logistic heads; b: V_t; c: its decrease over the guaranteed; d: the floor of cold v."""
    figure, (gradient, potential, decrease, floor) = panels(2, 2, height=5.4)
    cells = [_cell(k, *numbers) for k, numbers in enumerate(evidence["cells"])]
    heads = [
        Series(BLACK, marker, f"heads, $K = {K:g},\\ N = {N:g}$")
        for marker, (K, N) in zip("ox", evidence["curved_cells"], strict=True)
    ]
    _gradient(gradient, evidence, cells, heads)
    _potential(potential, evidence, cells)
    _decrease(decrease, evidence, cells)
    _floor(floor, evidence)
    shared_legend(figure, *map(key, [*cells, *heads]), columns=4)
    return figure


def _cell(number: int, kappa: float, K: float, N: float) -> Series:
    return Series(*CYCLE[number % len(CYCLE)], rf"$\kappa = {kappa:g},\ K = {K:g},\ N = {N:g}$")


def _gradient(axes: Axes, evidence: Evidence, cells: list[Series], heads: list[Series]) -> None:
    for k, series in enumerate(cells):
        squares = evidence[f"grad_norm_sq_{k}"]
        T = np.arange(1, len(squares) + 1)
        trace(axes, T, squares, series)
        predicted(axes, T, 2 * evidence[f"V_{k}"][0] / (evidence["beta"][k] * T), series.colour)
    for k, series in enumerate(heads):
        measured(axes, evidence[f"curved_t_{k}"] + 1, evidence[f"curved_grad_norm_sq_{k}"], series, label="")
    level(axes, EXACT)
    describe(axes, x="$T = t + 1$ (upper iterations)", y=r"$\|\nabla\Phi(\phi_t)\|^2$", logarithmic="xy")
    bound = dashed(r"bound $2 V_0 / (\beta T)$ on the mean", GREY)
    legend(axes, bound, dashed("exact: $10^{-20}$"))


def _potential(axes: Axes, evidence: Evidence, cells: list[Series]) -> None:
    for k, series in enumerate(cells):
        V = evidence[f"V_{k}"]
        trace(axes, np.arange(1, len(V) + 1), V, series)
    level(axes, ROUNDING)
    describe(axes, x="$t + 1$ (upper iterations)", y="potential $V_t$", logarithmic="xy")
    legend(axes, dashed("decrease judged down to $10^{-18}$"))


def _decrease(axes: Axes, evidence: Evidence, cells: list[Series]) -> None:
    for k, series in enumerate(cells):
        V, squares = evidence[f"V_{k}"], evidence[f"grad_norm_sq_{k}"]
        last = int(np.argmax(V < ROUNDING)) or len(V)
        promised = evidence["beta"][k] / 2 * squares[: last - 1]
        # A growth of V has no logarithm: it is drawn at SHOWN, below the line that it misses
        trace(axes, np.arange(1, last), np.maximum(-np.diff(V[:last]) / promised, SHOWN), series)
    longest = max(len(evidence[f"V_{k}"]) for k in range(len(cells)))
    predicted(axes, [1, longest], [1, 1])
    quantity = r"$V_t - V_{t+1}$ over $\beta \|\nabla\Phi(\phi_t)\|^2 / 2$"
    describe(axes, x="$t + 1$ (upper iterations)", y=quantity, logarithmic="xy")
    legend(axes, dashed("guaranteed decrease"))


def _floor(axes: Axes, evidence: Evidence) -> None:
    e = evidence
    by_condition_number(axes, e["floor_kappa"], e["floor_N"], e["floor"], e["floor_law"])
    describe(axes, x="CG steps $N$", y=r"floor of $\|\nabla\Phi\|^2$, $v$ cold", logarithmic="y", counts="x")
    legend(axes, dashed("exact floor"), columns=3)
