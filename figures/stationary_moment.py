"""Exact moments of the stochastic algorithm: stationary, over time, and where the second one ceases to exist."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import (
    band,
    dashed,
    describe,
    dotted,
    guide,
    key,
    legend,
    measured,
    panels,
    predicted,
    shaded,
    shared_legend,
)
from figures.style import BLUE, GREEN, ORANGE, VERMILION, Evidence, Series, paper_style

FAMILIES = (
    Series(BLUE, "o", "additive noise"),
    Series(GREEN, "^", r"task-dependent, $\beta L_\Phi = 0.5$"),
    Series(VERMILION, "s", r"task-dependent, $\beta L_\Phi = 1$"),
    Series(ORANGE, "D", "cold start, $K = 3$"),
)
MEAN, SQUARE = Series(BLUE, "o", r"$(\mathrm{E}\,\phi_t)^2$"), Series(VERMILION, "s", r"$\mathrm{E}\,\phi_t^2$")


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: F over zeta_b; b: E |grad Phi|^2 over time; c: the step size limit; d: moments beyond it."""
    figure, (stationary, curves, limit, beyond) = panels(2, 2, height=5.4)
    _stationary(stationary, evidence)
    _curves(curves, evidence)
    _limit(limit, evidence)
    _beyond(beyond, evidence)
    spread = shaded(f"10–90 % of {evidence['moment'].shape[-1]} seeds")
    shared_legend(figure, *map(key, FAMILIES), spread, dashed("exact moment"), columns=3)
    return figure


def _stationary(axes: Axes, evidence: Evidence) -> None:
    for number, family in enumerate(FAMILIES):
        own = np.flatnonzero(evidence["family"] == number)
        own = own[np.argsort(evidence["zeta"][own])]
        zeta, moments = evidence["zeta"][own], evidence["moment"][own]
        band(axes, zeta, moments, family.colour)
        measured(axes, zeta, moments.mean(-1), family)
        predicted(axes, zeta, evidence["law"][own], family.colour)
    quantity = r"stationary $\mathrm{E}\,\|\nabla\Phi\|^2$"
    describe(axes, x=r"variance factor $\zeta_b$ (both samplings)", y=quantity, logarithmic="xy")


def _curves(axes: Axes, evidence: Evidence) -> None:
    for number, (mean, law) in enumerate(zip(evidence["curve"], evidence["curve_law"], strict=True)):
        t = np.arange(len(law))
        measured(axes, t, mean, FAMILIES[number])
        predicted(axes, t, law, FAMILIES[number].colour)
    describe(axes, x="upper iteration $t$", y=r"$\mathrm{E}\,\|\nabla\Phi(\phi_t)\|^2$", logarithmic="y", counts="x")


def _limit(axes: Axes, evidence: Evidence) -> None:
    noise = evidence["limit_zeta"] * evidence["limit_s"] ** 2
    order = np.argsort(noise)
    measured(axes, noise, evidence["limit"], Series(VERMILION, "s", r"$\mathrm{E}\,\phi_t^2$ grows"))
    predicted(axes, noise[order], evidence["limit_law"][order], VERMILION)
    guide(axes, [0, noise.max()], [2, 2])
    describe(axes, x=r"$\zeta_b s^2$ of curvatures $1 \pm s$", y=r"step size limit $\beta$")
    legend(axes, dotted(r"$\mathrm{E}\,\phi_t$ grows: 2"), dashed(r"$2 / (1 + \zeta_b s^2)$", VERMILION), columns=3)


def _beyond(axes: Axes, evidence: Evidence) -> None:
    t = np.arange(len(evidence["path_square_law"]))
    measured(axes, t[1:], evidence["sample_square"], SQUARE._replace(label=SQUARE.label + ", runs"))
    measured(axes, t, evidence["path_square"], SQUARE._replace(marker="x", label=SQUARE.label + ", all paths"))
    predicted(axes, t, evidence["path_square_law"], SQUARE.colour)
    measured(axes, t, evidence["path_mean"] ** 2, MEAN._replace(label=MEAN.label + ", all paths"))
    predicted(axes, t, evidence["path_mean_law"] ** 2, MEAN.colour)
    describe(axes, x=r"upper iteration $t$ ($\beta = 1.3$)", y="moments of $\\phi_t$", logarithmic="y", counts="x")
    legend(axes, columns=2)
