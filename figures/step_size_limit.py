"""The step size limit: growth factors, critical steps, what a cold start makes of the curvature, floors."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import (
    by_fill,
    dashed,
    describe,
    dotted,
    groups,
    guide,
    key,
    legend,
    level,
    measured,
    panels,
    predicted,
    trace,
)
from figures.style import (
    BLUE,
    CYCLE,
    EXACT,
    VERMILION,
    Evidence,
    Series,
    condition_number,
    paper_style,
)

MODES = (Series(VERMILION, "o", "slow mode opposed"), Series(BLUE, "s", "fast mode opposed"))


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: growth factor over beta; b: critical beta over 1 - s; c: the curvature seen cold, over K; d: traces."""
    figure, (growth, critical, curvature, traces) = panels(2, 2, height=6.0)
    _growth(growth, evidence)
    _critical(critical, evidence)
    _curvature(curvature, evidence)
    _traces(traces, evidence)
    return figure


def _growth(axes: Axes, evidence: Evidence) -> None:
    beta, opposed = evidence["growth_beta"], evidence["growth_opposed"]
    order = np.argsort(beta)
    for (code,), own in groups(opposed):
        rows = order[own[order]]
        measured(axes, beta[rows], evidence["growth"][rows], MODES[int(code)])
        predicted(axes, beta[rows], evidence["growth_law"][rows], MODES[int(code)].colour)
    guide(axes, [beta.min(), beta.max()], [1, 1])
    describe(axes, x=r"$\beta L_\Phi$", y="growth of an iteration", logarithmic="xy")
    legend(axes, dashed("spectral radius"), dotted("stable below"))


def _critical(axes: Axes, evidence: Evidence) -> None:
    gap = 1 - evidence["critical_s"]
    for (kappa, code), own in groups(evidence["critical_kappa"], evidence["critical_opposed"]):
        series = condition_number(kappa)
        rows = np.flatnonzero(own)[np.argsort(gap[own])]
        measured(axes, gap[rows], evidence["critical"][rows], series, label="", filled=bool(code))
        predicted(axes, gap[rows], evidence["critical_law"][rows], series.colour)
    describe(axes, x="$1 - s$, what is left of the upper gradient", y=r"critical $\beta L_\Phi$", logarithmic="xy")
    series = map(condition_number, np.unique(evidence["critical_kappa"]))
    modes = [mode.label.removesuffix(" opposed") for mode in MODES]
    legend(axes, *by_fill(modes, *series), dashed("Prop. 2c"), columns=3)


def _curvature(axes: Axes, evidence: Evidence) -> None:
    K, beta = evidence["cold_K"], evidence["cold_beta"]
    L_Phi = np.square(1 - evidence["cold_s"])
    for (kappa, s), own in groups(evidence["cold_kappa"], evidence["cold_s"]):
        series = condition_number(kappa)._replace(label=rf"$\kappa = {kappa:g}$, $s = {s:g}$")
        measured(axes, K[own], (evidence["cold_H"] / L_Phi)[own], series)
        once = own & (beta == beta.min())
        predicted(axes, K[once], (evidence["cold_law"] / L_Phi)[once], series.colour)
    guide(axes, [0, K.max()], [0, 0])
    describe(axes, x="lower steps $K$, cold", y=r"curvature seen, $\tilde H_K / L_\Phi$", counts="x")
    legend(axes, dashed("exact"), dotted("grows below, for every step size"))


def _traces(axes: Axes, evidence: Evidence) -> None:
    """Cold runs end at their floors, warm ones at zero."""
    cold = [Series(*CYCLE[k], f"cold, $K = {K:g}$") for k, K in enumerate(evidence["floor_K"])]
    for series, squares, law in zip(cold, evidence["floor_trace"], evidence["floor_law"], strict=True):
        trace(axes, np.arange(1, len(squares) + 1), squares, series)
        predicted(axes, [1, len(squares)], [law, law], series.colour)
    instances = enumerate(zip(evidence["warm_kappa"], evidence["warm_s"], strict=True), len(cold))
    warm = [Series(*CYCLE[k], rf"warm, $\kappa = {kappa:g}$, $s = {s:g}$") for k, (kappa, s) in instances]
    for k, series in enumerate(warm):
        squares = evidence[f"warm_trace_{k}"]
        trace(axes, np.arange(1, len(squares) + 1), squares, series)
    level(axes, EXACT)
    describe(axes, x="$t + 1$ (upper iterations)", y=r"$\|\nabla\Phi(\phi_t)\|^2$", logarithmic="xy")
    legend(axes, *map(key, (*cold, *warm)), dashed("exact floor, or $10^{-20}$"), columns=2)
