"""Contraction of N conjugate-gradient steps: the bound attained on one spectrum, obeyed on random ones."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, diagonal, groups, key, legend, measured, panels, predicted
from figures.style import BLACK, BLUE, Evidence, Series, condition_number, paper_style


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: ratio of energy norms over N; b: the ratio on random spectra over its bound chi_N."""
    figure, (chebyshev, random) = panels(1, 2, height=3.0)
    _chebyshev(chebyshev, evidence)
    bound = evidence["random_chi"]
    measured(random, bound, evidence["random_ratio"], Series(BLUE, ".", f"{len(bound)} random spectra"))
    diagonal(random, bound)
    describe(random, x=r"bound $\chi_N$", y="measured ratio", logarithmic="xy")
    legend(random, dashed("ratio = bound"))
    return figure


def _chebyshev(axes: Axes, evidence: Evidence) -> None:
    for (kappa, warm), own in groups(evidence["kappa"], evidence["warm"]):
        series, N = condition_number(kappa), evidence["N"][own]
        # The outline for cold and a dot for warm: both show where they coincide
        shown = series._replace(marker=".") if warm else series
        measured(axes, N, evidence["ratio"][own], shown, label="", filled=bool(warm))
        predicted(axes, N, evidence["chi"][own], series.colour)
    describe(
        axes, x="CG steps $N$", y=r"$\|v_N - v^\star\|_H \, / \, \|v_0 - v^\star\|_H$", logarithmic="y", counts="x"
    )
    outlines = map(condition_number, np.unique(evidence["kappa"]))
    dot = key(Series(BLACK, ".", "dot: warm"), filled=True)
    legend(axes, *map(key, outlines), dot, dashed(r"$\chi_N$"), columns=4)
