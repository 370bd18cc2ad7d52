"""Six failures, one a panel, each with its prediction: what the assumptions of the theorems are for."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, dotted, groups, guide, legend, measured, panels, predicted
from figures.style import BLUE, GREEN, VERMILION, Evidence, Series, paper_style

MEASURED = Series(BLUE, "o", "measured")
INDICES = ((VERMILION, "^"), (BLUE, "o"), (GREEN, "s"))  # in ascending order; with a finite variance the last


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a, b: the inner error; c: one CG step on a singular system; d: heavy tails; e, f: growing upper iterates."""
    e = evidence
    figure, (diverging, quartic, singular, heavy, noisy, coupled) = panels(2, 3, height=5.2)
    _one(diverging, e["diverging_K"], e["diverging"], e["diverging_law"])
    describe(diverging, x="lower steps $K$", y=r"$|\theta_K - \theta^*|$ along $L$", logarithmic="y")
    legend(diverging, dashed(r"$1.2^K$: $\alpha = 2.2 / L$"))
    _one(quartic, e["quartic_K"], e["quartic"], e["quartic_law"])
    describe(quartic, x="lower steps $K$", y=r"$|\theta_K - \theta^*|$, quartic $g$", logarithmic="xy")
    legend(quartic, dashed(r"$(2 \alpha K + \ldots)^{-1/2}$"))
    _one(singular, e["singular_phi"], e["singular"], e["singular_law"])
    describe(singular, x=r"$\phi$", y="$d$ after one CG step", logarithmic="xy")
    legend(singular, dashed(r"$(\phi^2 + 1) / \phi$"))
    _heavy(heavy, evidence)
    _noisy(noisy, evidence)
    t = np.arange(len(e["coupled_moves"]))[::6]
    _one(coupled, t, e["coupled_moves"][t], e["coupled_moves_law"][t])
    describe(coupled, x="upper iteration $t$", y=r"$|\phi_{t+1} - \phi_t|$, $\beta = 1 / L_\Phi$", logarithmic="y")
    legend(coupled, dashed("exact"))
    return figure


def _one(axes: Axes, x: np.ndarray, y: np.ndarray, law: np.ndarray) -> None:
    measured(axes, x, y, MEASURED)
    predicted(axes, x, law, MEASURED.colour)


def _heavy(axes: Axes, evidence: Evidence) -> None:
    """Squared medians over the batch, one series an index, beside the slope of a finite variance."""
    for k, ((index,), own) in enumerate(groups(evidence["heavy_index"])):
        series = Series(*INDICES[k], f"$s = {index:g}$")
        batch = evidence["heavy_batch"][own]
        measured(axes, batch, evidence["heavy_median"][own] ** 2, series)
        predicted(axes, batch, evidence["heavy_law"][own] ** 2, series.colour)
    batches = np.unique(evidence["heavy_batch"])
    guide(axes, batches, evidence["heavy_median"].max() ** 2 * batches[0] / batches)
    describe(axes, x="tasks a batch $b$", y=r"median $|d - \nabla\Phi|^2$", logarithmic="xy")
    legend(axes, dashed("exact"), dotted("$1 / b$"))


def _noisy(axes: Axes, evidence: Evidence) -> None:
    """The second moment of single tasks grows while the mean, the run on all tasks, vanishes."""
    t = evidence["noisy_t"]
    second, mean = Series(VERMILION, "^", r"$\mathrm{E}\,\phi_t^2$"), Series(BLUE, "o", r"$(\mathrm{E}\,\phi_t)^2$")
    measured(axes, t, np.square(evidence["noisy"]).mean(-1), second)
    predicted(axes, t, evidence["noisy_law"], second.colour)
    measured(axes, t, evidence["mean"] ** 2, mean)
    predicted(axes, t, evidence["mean_law"] ** 2, mean.colour)
    describe(axes, x="upper iteration $t$", y=r"moments of $\phi_t$", logarithmic="y", counts="x")
    legend(axes, dashed("exact"))
