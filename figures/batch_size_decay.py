"""The stationary error floor over the task batch, and its absence with all tasks."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from figures.marks import band, dashed, describe, key, level, measured, panels, predicted, shaded, shared_legend
from figures.style import BLACK, EXACT, GREY, SAMPLINGS, Array, Evidence, paper_style

GROUPS = 20  # of n batches each, at least, over which panel d averages


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: F over b; b: F over zeta_b, both samplings on one line; c: all tasks; d: the mean direction at a fixed phi."""
    figure, (batch, collapse, full, mean) = panels(2, 2, height=5.2)
    _over_batch(batch, evidence)
    _collapse(collapse, evidence)
    _all_tasks(full, evidence["all_tasks_trace"])
    _mean_direction(mean, evidence)
    seeds = f"{evidence['moment'].shape[-1]} seeds"
    middle = Line2D([], [], color=GREY, linewidth=0.6, label=f"median of {seeds}")
    spread = shaded(f"10–90 % of {seeds}")
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


def _mean_direction(axes: Axes, evidence: Evidence) -> None:
    """The samples in groups of n: a mean that is off would end the decay in 1/n."""
    for code, sampling in enumerate(SAMPLINGS):
        place = 1 - code  # the evidence begins with the i.i.d. batches
        gap = evidence["direction"][place] - evidence["direction_mean"]
        sizes = 4 ** np.arange(1 + max(0, int(np.log(len(gap) / GROUPS) / np.log(4))))
        whole = [gap[: len(gap) // n * n].reshape(-1, n, gap.shape[-1]) for n in sizes]
        measured(axes, sizes, [np.square(each.mean(1)).sum(-1).mean() for each in whole], sampling)
        predicted(axes, sizes, evidence["direction_law"][place] / sizes, sampling.colour)
    y = r"$\mathrm{E}\,\|\bar d_n - \nabla\Phi(\phi)\|^2$"
    describe(axes, x="batches averaged $n$, $\\phi$ fixed", y=y, logarithmic="xy")
