"""The Lyapunov function of the warm algorithm: its fall, beside the guaranteed one, and the drift that is allowed."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, key, legend, measured, panels, predicted, shared_legend, trace
from figures.style import BLUE, CYCLE, GREY, VERMILION, Evidence, Series, paper_style

FAMILIES = ("quadratic", "prox-logistic", "Lemma 2")
LEAST = (1e-18, 1e-3, 1e-3)  # V below which the claim does not judge
BEYOND = 2.5  # times the lemma's step size, as in the claim


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: V_t / V_0; b: the fall of V over the guaranteed one; c: sum of squares over its bound; d: the drift.

    a-c show the first and the last cell of each family, as the title of the legend says; d all cells with a drift.
    """
    figure, (potential, fall, total, drift) = panels(2, 2, height=5.6)
    shown = _shown(evidence)
    for k, series in shown.items():
        V, squares = evidence[f"V_{k}"], evidence[f"grad_norm_sq_{k}"]
        below = np.flatnonzero(LEAST[int(evidence["cells"][k, 0])] > V)
        V = V[: max(below[0], 1)] if len(below) else V
        T, beta = np.arange(1, len(V)), evidence["beta"][k]
        trace(potential, T, V[1:] / V[0], series)
        promised = beta / 2 * squares[: len(V) - 1]
        predicted(potential, T, 1 - np.cumsum(promised) / V[0], series.colour)
        # A growth of V has no logarithm: it is drawn at 0.1, below the line that it misses
        trace(fall, T, np.maximum(-np.diff(V) / promised, 0.1), series)
        trace(total, T, np.cumsum(promised) / (V[0] - V[1:]), series)
    for axes in (fall, total):
        predicted(axes, [1, max(len(evidence[f"V_{k}"]) for k in shown)], [1, 1])
    describe(potential, x="$t$ (upper iterations)", y="$V_t / V_0$", logarithmic="xy")
    legend(potential, dashed(r"bound: $V_0$ less the guaranteed decrease", GREY))
    quantity = r"$V_t - V_{t+1}$ over $\beta \|\nabla\Phi(\phi_t)\|^2 / 2$"
    describe(fall, x="$t + 1$ (upper iterations)", y=quantity, logarithmic="xy")
    legend(fall, dashed("guaranteed decrease"))
    describe(total, x="$T$ (upper iterations)", y=r"$\sum_{t<T} \|\nabla\Phi\|^2$ over its bound", logarithmic="xy")
    legend(total, dashed("bound"))
    _drift(drift, evidence)
    shared_legend(figure, *map(key, shown.values()), columns=2)
    figure.legends[0].set_title(f"a–c: first and last cell of each family, {len(shown)} of {len(evidence['cells'])}")
    return figure


def _shown(evidence: Evidence) -> dict[int, Series]:
    """Of the many cells the first and last of each family, as far as there are colours."""
    family = evidence["cells"][:, 0]
    chosen = [k for code in np.unique(family) for k in (np.flatnonzero(family == code)[[0, -1]])]
    cells = dict.fromkeys(int(k) for k in chosen)
    return {k: Series(*CYCLE[number % len(CYCLE)], _label(*evidence["cells"][k])) for number, k in enumerate(cells)}


def _label(family: float, kappa: float, K: float, N: float) -> str:
    return rf"{FAMILIES[int(family)]}, $\kappa = {kappa:.3g},\ K = {K:g},\ N = {N:g}$"


def _drift(axes: Axes, evidence: Evidence) -> None:
    """A row for each cell with a curved lower level: the largest drift over what is allowed."""
    own = np.flatnonzero(evidence["cells"][:, 0] > 0)
    share = (evidence["drift"] / evidence["allowed_drift"])[own]
    places = np.arange(len(own))
    measured(axes, share, places, Series(BLUE, "o", "measured"))
    # Where f pulls phi the lemma is nearly sharp, and was run beyond its step size too
    lemma = places[evidence["cells"][own, 0] == 2][evidence["pull"] > 0]
    beyond = Series(VERMILION, "D", rf"${BEYOND:g}\,\beta$ of Lemma 2")
    measured(axes, evidence["drift_beyond"][evidence["pull"] > 0], lemma, beyond)
    labels = [
        rf"{'Lemma 2: ' if family == 2 else ''}${kappa:.3g},\ {K:g},\ {N:g}$"
        for family, kappa, K, N in evidence["cells"][own]
    ]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    predicted(axes, [1, 1], [-0.5, len(own) - 0.5])
    describe(axes, x=r"largest drift / $\bar s$", y=r"cell: $\kappa$, $K$, $N$", logarithmic="x")
    legend(axes, dashed(r"allowed drift $\bar s$"))
