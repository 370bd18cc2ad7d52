"""The stationary error floor over the task batch, and its absence with all tasks."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from figures.marks import band, dashed, describe, key, level, measured, panels, predicted, shared_legend
from figures.style import BLACK, EXACT, GREY, SAMPLINGS, Array, Evidence, paper_style


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: F over b; b: F over zeta_b, where both samplings fall on one line; c: |grad Phi|^2 with all tasks."""
    figure, (batch, collapse, full) = panels(1, 3, height=2.9)
    _over_batch(batch, evidence)
    _collapse(collapse, evidence)
    _all_tasks(full, evidence["all_tasks_trace"])
    seeds = f"{evidence['moment'].shape[-1]} seeds"
    middle = Line2D([], [], color=GREY, linewidth=0.6, label=f"median of {seeds}")
    spread = Patch(color=GREY, alpha=0.3, linewidth=0, label=f"10–90 % of {seeds}")
    means = (sampling._replace(label=f"{sampling.label}, mean") for sampling in SAMPLINGS)
    shared_legend(figure, *map(key, means), middle, spread, dashed("exact law; $10^{-20}$ in c"), columns=5)
    return figure


def _over_batch(axes: Axes, evidence: Evidence) -> None:
    batch, law = evidence["batch"], evidence["law"]
    _samplings(axes, evidence, batch)
    for code, sampling in enumerate(SAMPLINGS):
        own = evidence["iid"] == code
        predicted(axes, batch[own], law[own], sampling.colour)
    describe(axes, x="task batch $b$", y=r"floor $F(b) = \mathrm{E}\,\|\nabla\Phi\|^2$", logarithmic="xy")
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def _collapse(axes: Axes, evidence: Evidence) -> None:
    zeta = evidence["zeta"]
    _samplings(axes, evidence, zeta)
    order = np.argsort(zeta)
    predicted(axes, zeta[order], evidence["law"][order])
    describe(axes, x=r"variance factor $\zeta_b$", y="floor $F(b)$", logarithmic="xy")


def _samplings(axes: Axes, evidence: Evidence, x: Array) -> None:
    for code, sampling in enumerate(SAMPLINGS):
        own = evidence["iid"] == code
        if own.any():
            band(axes, x[own], evidence["moment"][own], sampling.colour)
            measured(axes, x[own], evidence["moment"][own].mean(-1), sampling)


def _all_tasks(axes: Axes, squares: Array) -> None:
    axes.plot(np.arange(len(squares)), squares, color=BLACK)
    level(axes, EXACT)
    describe(axes, x="upper iteration $t$", y=r"$\|\nabla\Phi(\phi_t)\|^2$, all tasks", logarithmic="y")
