"""The error floor of cold starts, over lower steps K and over CG steps N."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import by_condition_number, by_fill, dashed, describe, legend, measured, panels, predicted
from figures.style import LOWER_STARTS, Evidence, condition_number, paper_style


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: floors over K with exact v, one dashed law an instance; b: floors over N with exact theta."""
    e = evidence
    figure, (lower, conjugate) = panels(1, 2, height=3.0)
    _over_lower_steps(lower, evidence)
    by_condition_number(conjugate, e["N_kappa"], e["N"], e["N_floor"], e["N_law"])
    describe(conjugate, x="CG steps $N$", y=r"floor of $\|\nabla\Phi\|^2$", logarithmic="y", counts="x")
    legend(conjugate, dashed("exact floor"), columns=3)
    return figure


def _over_lower_steps(axes: Axes, evidence: Evidence) -> None:
    K, gain, kappa = evidence["K"], evidence["K_gain"], evidence["K_kappa"]
    # The cells come instance by instance; neighbouring instances differ in their start or in kappa
    cuts = np.flatnonzero((np.diff(gain) != 0) | (np.diff(kappa) != 0)) + 1
    for own in np.split(np.arange(len(K)), cuts):
        series = condition_number(kappa[own[0]])
        measured(axes, K[own], evidence["K_floor"][own], series, label="", filled=bool(gain[own[0]]))
        predicted(axes, K[own], evidence["K_law"][own], series.colour)
    describe(axes, x="lower steps $K$", y=r"floor of $\|\nabla\Phi\|^2$", logarithmic="y", counts="x")
    legend(axes, *by_fill(LOWER_STARTS, *map(condition_number, np.unique(kappa))), dashed("exact floor"), columns=3)
