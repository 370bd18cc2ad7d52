"""The unrolled method: its floors over K, those where implicit differentiation has none, the error of its direction."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import below_bound, by_fill, dashed, describe, dotted, guide, legend, measured, panels, predicted
from figures.style import FAMILIES, LOWER_STARTS, METHODS, Evidence, condition_number, paper_style

ROUNDING = 1e-12  # of |grad Phi|: what the claim allows


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: floors over K on random instances; b: on the instance of Proposition 2c; c: measured / bound."""
    figure, (random, cancelling, ratio) = panels(1, 3, height=2.9)
    _random(random, evidence)
    _cancelling(cancelling, evidence)
    _ratio(ratio, evidence)
    return figure


def _random(axes: Axes, evidence: Evidence) -> None:
    e = evidence
    chosen = e["instance"] >= 0
    rows = np.stack([e["instance"], e["gain"]], axis=1)
    for instance, gain in np.unique(rows[chosen], axis=0):
        own = (rows == (instance, gain)).all(axis=1)
        series = condition_number(e["kappa"][own][0])
        measured(axes, e["K"][own], e["floor"][own], series, label="", filled=bool(gain))
        predicted(axes, e["K"][own], e["law"][own], series.colour)
    describe(axes, x="lower steps $K$", y=r"floor of $\|\nabla\Phi\|^2$, unrolled", logarithmic="y", counts="x")
    series = map(condition_number, np.unique(e["kappa"][chosen]))
    legend(axes, *by_fill(LOWER_STARTS, *series), dashed("exact floor"))


def _cancelling(axes: Axes, evidence: Evidence) -> None:
    own = evidence["instance"] < 0
    K, series = evidence["K"][own], METHODS["unrolled"]
    measured(axes, K, evidence["floor"][own], series)
    predicted(axes, K, evidence["law"][own], series.colour)
    first = float(evidence["implicit_from"])
    guide(axes, [first, first], [evidence["law"][own].min(), evidence["law"][own].max()])
    describe(axes, x="lower steps $K$", y=r"floor of $\|\nabla\Phi\|^2$, Prop. 2c", logarithmic="y", counts="x")
    legend(axes, dashed("exact floor", series.colour), dotted("left: cold implicit diverges"), columns=1)


def _ratio(axes: Axes, evidence: Evidence) -> None:
    excess = evidence["bound_error"] - ROUNDING * evidence["bound_gradient"]
    families = (FAMILIES["quadratic"], FAMILIES["logistic"])
    below_bound(axes, families, evidence["bound_logistic"], excess / evidence["bound"])
    legend(axes, dashed("bound"), columns=1)
