"""Stale warm iterates on batches: the bound, the exact moments, and the open question of few CG steps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import (
    band,
    dashed,
    describe,
    diagonal,
    dotted,
    groups,
    guide,
    legend,
    level,
    measured,
    panels,
    predicted,
    shaded,
    trace,
)
from figures.style import BLUE, CYCLE, EXACT, VERMILION, Evidence, Series, condition_number, paper_style

STEPS = {1: Series(VERMILION, "s", "$K = 1$"), 5: Series(BLUE, "o", "$K = 5$")}
BATCHES = {1: Series(VERMILION, "s", "$b = 1$"), 2: Series(BLUE, "o", "$b = 2$")}


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: averages over their bounds; b: the floor over b; c: the floor over N, open; d: no floor on all tasks."""
    figure, (bound, floor, few, full) = panels(2, 2, height=5.2)
    _bound(bound, evidence)
    _floor(floor, evidence)
    _few_steps(few, evidence)
    _all_tasks(full, evidence)
    return figure


def _bound(axes: Axes, evidence: Evidence) -> None:
    kappas = evidence["instance"][:, 0]
    for kappa in np.unique(kappas):
        own = kappas == kappa
        measured(axes, evidence["bound"][own], evidence["average"][own], condition_number(kappa))
    diagonal(axes, evidence["bound"])
    quantity = r"average of $\mathrm{E}\,\|\nabla\Phi\|^2$ over $T$"
    describe(axes, x="bound of Theorem 4b", y=quantity, logarithmic="xy")
    legend(axes, dashed("bound"), columns=4)


def _floor(axes: Axes, evidence: Evidence) -> None:
    for (K,), own in groups(evidence["K"]):
        batch, series = evidence["batch"][own], STEPS[int(K)]
        band(axes, batch, evidence["moment"][own], series.colour)
        measured(axes, batch, evidence["moment"][own].mean(-1), series)
        predicted(axes, batch, evidence["law"][own], series.colour)
        guide(axes, batch, evidence["exact_theta_law"][own])
    describe(axes, x="task batch $b$ of 5", y=r"stationary $\mathrm{E}\,\|\nabla\Phi\|^2$", logarithmic="y", counts="x")
    seeds = shaded(f"10–90 % of {evidence['moment'].shape[-1]} seeds")
    legend(axes, dashed("exact"), dotted(r"with exact $\theta$"), seeds, columns=3)


def _few_steps(axes: Axes, evidence: Evidence) -> None:
    for (batch,), own in groups(evidence["N_batch"]):
        N, series = evidence["N"][own], BATCHES[int(batch)]
        ratio = evidence["N_moment"][own] / evidence["N_law"][own, None]
        mean, error = ratio.mean(-1), ratio.std(-1, ddof=1) / np.sqrt(ratio.shape[-1])
        axes.fill_between(N, mean - 2 * error, mean + 2 * error, color=series.colour, alpha=0.3, linewidth=0, zorder=1)
        measured(axes, N, mean, series)
    level(axes, 1.0)
    describe(axes, x="CG steps $N$ (open for $N < 4$)", y="floor over that of exact $v$", counts="x")
    legend(axes, dashed("exact $v$"), shaded("2 standard errors"), columns=2)


def _all_tasks(axes: Axes, evidence: Evidence) -> None:
    for (colour, marker), N in zip(CYCLE, evidence["counts"], strict=False):
        squares = evidence[f"all_tasks_{N}"]
        trace(axes, np.arange(1, len(squares) + 1), squares, Series(colour, marker, ""))
        measured(axes, [], [], Series(colour, marker, f"$N = {N}$"))
    level(axes, EXACT)
    describe(axes, x="$t + 1$ (upper iterations)", y=r"$\|\nabla\Phi(\phi_t)\|^2$, all tasks", logarithmic="xy")
    legend(axes, dashed("$10^{-20}$"), columns=3)
