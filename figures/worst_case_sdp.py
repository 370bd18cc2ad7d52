"""Worst cases of gradient descent by semidefinite programming, the runs that attain them, the runs that obey them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, groups, key, legend, level, measured, panels, predicted
from figures.style import BLACK, BLUE, FAMILIES, VERMILION, Evidence, Series, paper_style

KINDS = (Series(BLUE, "o", "convex"), Series(VERMILION, "s", "nonconvex"))
NAMES = ("huber", "plateau", "quadratic")  # of the codes in evidence["run_family"]
STEPS = {0.5: "v", 1.0: "o", 1.2: "^"}  # beta L_Phi -> marker


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: exact directions, over N; b: relative error eps at beta = 1 / L, over eps; c: certified runs over it."""
    figure, (exact, inexact, obeyed) = panels(1, 3, height=3.0)
    _exact(exact, evidence)
    _inexact(inexact, evidence)
    _obeyed(obeyed, evidence)
    return figure


def _exact(axes: Axes, evidence: Evidence) -> None:
    e = evidence
    plain = e["sdp_eps"] == 0
    for (kind, h), own in groups(e["sdp_kind"], e["sdp_h"]):
        rows = np.flatnonzero(own & plain)
        rows = rows[np.argsort(e["sdp_N"][rows])]
        series = KINDS[int(kind)]._replace(marker=STEPS.get(h, "D"))
        measured(axes, e["sdp_N"][rows], e["sdp"][rows], series, label="", filled=bool(kind))
        predicted(axes, e["sdp_N"][rows], e["sdp_law"][rows], series.colour)
    describe(axes, x="steps $N$", y=r"worst $\min \|\nabla\Phi\|^2 / (L \Delta)$", logarithmic="y", counts="x")
    kinds = [key(kind._replace(marker="o"), filled=bool(code)) for code, kind in enumerate(KINDS)]
    markers = [Series(BLACK, STEPS.get(h, "D"), rf"$\beta L = {h:g}$") for h in np.unique(e["sdp_h"][plain])]
    legend(axes, *kinds, *map(key, markers), dashed("formula"))


def _inexact(axes: Axes, evidence: Evidence) -> None:
    """The programme's values as markers, the runs with truncated CG as crosses in them."""
    e = evidence
    N = e["tight_N"].max()
    for kind, series in enumerate(KINDS):
        own = np.flatnonzero((e["sdp_kind"] == kind) & (e["sdp_h"] == 1) & (e["sdp_N"] == N))
        own = own[np.argsort(e["sdp_eps"][own])]
        measured(axes, e["sdp_eps"][own], e["sdp"][own], series, label="")
        runs = (e["tight_kind"] == kind) & (e["tight_h"] == 1) & (e["tight_N"] == N)
        measured(axes, e["tight_eps"][runs], e["tight_min"][runs], series._replace(marker="x"), label="")
        predicted(axes, e["sdp_eps"][own], e["sdp_law"][own], series.colour)
    describe(axes, x=r"relative error $\epsilon$ of the direction", y=rf"worst case at $N = {N:g}$", logarithmic="y")
    marks = (*KINDS, Series(BLACK, "x", "truncated CG"))
    legend(axes, *map(key, marks), dashed(r"$w(N, (1 - \epsilon) h)$"), columns=2)


def _obeyed(axes: Axes, evidence: Evidence) -> None:
    for code, name in enumerate(NAMES):
        own = evidence["run_family"] == code
        if own.any():
            share = (evidence["run_min"] / evidence["run_law"])[own]
            measured(axes, (evidence["run_error"] / evidence["run_eps"])[own], share, FAMILIES[name])
    level(axes, 1.0)
    describe(axes, x=r"measured relative error / $\epsilon$", y=r"$\min \|\nabla\Phi\|^2$ / worst case")
    axes.set_ylim(bottom=0)
    legend(axes, dashed("worst case"))
