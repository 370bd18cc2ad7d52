"""Lower steps that grow like log t: the gradient on its way to zero, its sum, the error of the direction."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, dotted, guide, key, panels, predicted, shared_legend, trace
from figures.style import BLUE, GREEN, GREY, VERMILION, Evidence, Series, paper_style

EXACT_V = Series(BLUE, "o", "$K_t$ grows, exact $v$")
FAMILIES = (EXACT_V, Series(GREEN, "^", "$K_t$ and $N_t$ grow"))
FIXED = Series(VERMILION, "s", "$K$ fixed")


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: |grad Phi|^2 over t; b: its sum beside the bound; c: |d - grad Phi| beside its bound."""
    figure, (gradient, total, error) = panels(1, 3, height=3.0)
    _gradient(gradient, evidence)
    for k, series in enumerate(FAMILIES):
        squares, delta = evidence[f"grad_norm_sq_{k}"], evidence[f"delta_{k}"]
        t = np.arange(len(squares)) + 2
        trace(total, t, np.cumsum(squares), series)
        predicted(total, t, evidence["first"][k] + np.cumsum(delta**2), series.colour)
        trace(error, t, evidence[f"error_{k}"], series)
        predicted(error, t, delta, series.colour)
    describe(total, x="$t + 2$", y=r"$\sum_{s \leq t} \|\nabla\Phi(\phi_s)\|^2$", logarithmic="xy")
    describe(error, x="$t + 2$", y=r"$\|d_t - \nabla\Phi(\phi_t)\|$", logarithmic="xy")
    lines = dotted("$(t + 2)^{-2}$"), dashed("recursion or floor (a), bound (b, c)", GREY)
    shared_legend(figure, *map(key, (*FAMILIES, FIXED)), *lines, columns=3)
    return figure


def _gradient(axes: Axes, evidence: Evidence) -> None:
    for k, series in enumerate(FAMILIES):
        squares = evidence[f"grad_norm_sq_{k}"]
        t = np.arange(len(squares)) + 2
        trace(axes, t, squares, series)
        predicted(axes, t, evidence[f"law_{k}"], series.colour)
    fixed = evidence["fixed"]
    t = np.arange(len(fixed)) + 2
    trace(axes, t, fixed, FIXED)
    predicted(axes, [2, t[-1]], 2 * [float(evidence["fixed_law"])], FIXED.colour)
    guide(axes, t, evidence["law_0"][0] * (t / 2.0) ** -2)
    describe(axes, x="$t + 2$", y=r"$\|\nabla\Phi(\phi_t)\|^2$", logarithmic="xy")
