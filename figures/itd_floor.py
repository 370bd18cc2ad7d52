"""The unrolled method: its floors over K, those where implicit differentiation has none, the error of its direction."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, dotted, guide, key, legend, level, measured, panels, predicted
from figures.style import FAMILIES, LOWER_STARTS, METHODS, Evidence, condition_number, paper_style

ROUNDING = 1e-12  # of |grad Phi|: what the claim allows
SMALLEST_RATIO = 1e-6  # where the axis begins


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
        colour = condition_number(e["kappa"][own][0]).colour
        measured(axes, e["K"][own], e["floor"][own], LOWER_STARTS[int(gain)]._replace(colour=colour), label="")
        predicted(axes, e["K"][own], e["law"][own], colour)
    describe(axes, x="lower steps $K$", y=r"floor of $\|\nabla\Phi\|^2$, unrolled", logarithmic="y", counts="x")
    colours = [condition_number(kappa)._replace(marker="") for kappa in np.unique(e["kappa"][chosen])]
    legend(axes, *map(key, (*colours, *LOWER_STARTS)), dashed("exact floor"))


def _cancelling(axes: Axes, evidence: Evidence) -> None:
    own = evidence["instance"] < 0
    K, series = evidence["K"][own], METHODS["unrolled"]
    measured(axes, K, evidence["floor"][own], series)
    predicted(axes, K, evidence["law"][own], series.colour)
    first = float(evidence["implicit_from"])
    guide(axes, [first, first], [evidence["law"][own].min(), evidence["law"][own].max()])
    describe(axes, x="lower steps $K$", y=r"floor of $\|\nabla\Phi\|^2$, Prop. 2c", logarithmic="y", counts="x")
    legend(axes, dashed("exact floor", series.colour), dotted("left of it implicit, cold, grows"), columns=1)


def _ratio(axes: Axes, evidence: Evidence) -> None:
    excess = evidence["bound_error"] - ROUNDING * evidence["bound_gradient"]
    ratio = np.maximum(excess / evidence["bound"], SMALLEST_RATIO / 10)
    for code, family in enumerate((FAMILIES["quadratic"], FAMILIES["logistic"])):
        own = np.sort(ratio[evidence["bound_logistic"] == code])
        if own.size:
            label = f"{family.label}, largest {own[-1]:.2g}"
            axes.step(own, np.arange(1, own.size + 1) / own.size, where="post", color=family.colour, label=label)
    level(axes, 1.0, vertical=True)
    describe(axes, x="measured error / bound", y="fraction of cells below", logarithmic="x")
    axes.set_xlim(left=SMALLEST_RATIO)
    legend(axes, dashed("bound"), columns=1)
