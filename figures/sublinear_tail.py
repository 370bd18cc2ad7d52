"""How fast the squared gradient falls on fixed functions: its law over t, and the exponents of t."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, dotted, groups, guide, key, measured, panels, predicted, shared_legend
from figures.style import TAILS, Array, Evidence, darker, paper_style

LABEL_ROOM = 0.065  # of the panel's height for one exponent


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: the squared derivatives, their laws and a or m; b: exponents between t and 4t; c: the last ones over a, m."""
    figure, (square, local, last) = panels(1, 3, height=3.0)
    t, times = evidence["t"][1:], evidence["local_t"]
    places = _spread(t)
    for j, kind in enumerate(evidence["kind"].astype(int)):
        series = TAILS[kind]
        measured(square, t[places], evidence["square"][1:, j][places], series)
        predicted(square, t, evidence["law"][1:, j], series.colour)
        measured(local, times, evidence["local"][:, j], series)
        predicted(local, times[[0, -1]], evidence["e"][[j, j]], series.colour)
    for (kind,), own in groups(evidence["kind"]):
        series = TAILS[int(kind)]
        measured(last, evidence["exponent"][own], evidence["local"][-1][own], series)
        predicted(last, evidence["exponent"][own], evidence["e"][own], series.colour)
    guide(square, t[[0, -1]], evidence["square"][1].max() * t[0] / t[[0, -1]])
    for axes in (local, last):
        guide(axes, axes.dataLim.intervalx, [1, 1])
    describe(square, x="upper iteration $t$; $a$, $m$ beside", y=r"$(\partial_j \Phi(\phi_t))^2$", logarithmic="xy")
    _name_ends(square, t, evidence)
    describe(local, x="upper iteration $t$", y="exponent $e$ between $t$ and $4t$", logarithmic="x")
    describe(last, x="exponent $a$ or $m$ of the function", y="last exponent $e$", logarithmic="x")
    shared_legend(figure, *map(key, TAILS), dashed("law"), dotted("$1/t$"), columns=5)
    return figure


def _name_ends(axes: Axes, t: Array, evidence: Evidence) -> None:
    """The exponent of each function right of its curve's end, with a line to it where the ends lie too close."""
    ends = evidence["law"][-1]
    low, high = np.log10(axes.get_ylim())
    room = LABEL_ROOM * (high - low) * np.arange(len(ends))
    order = np.argsort(-ends)
    heights = np.log10(ends[order])
    # Pushed apart downwards and upwards: the mean of both keeps the room between neighbours
    down = np.minimum.accumulate(heights + room) - room
    up = np.maximum.accumulate((heights + room)[::-1])[::-1] - room
    right = t[-1] * (t[-1] / t[0]) ** 0.2
    for j, height in zip(order, (down + up) / 2, strict=True):
        colour = TAILS[int(evidence["kind"][j])].colour
        axes.annotate(
            f"{evidence['exponent'][j]:g}",
            xy=(t[-1], ends[j]),
            xytext=(right, 10**height),
            va="center",
            color=darker(colour),
            fontsize=7,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": colour, "shrinkA": 1, "shrinkB": 3},
        )
    axes.set_xlim(right=t[-1] * (t[-1] / t[0]) ** 0.45)
    axes.set_ylim(10**low, 10**high)


def _spread(t: Array) -> Array:
    """Some six places, evenly spread on a logarithmic axis."""
    return np.unique(np.geomspace(1, len(t), 6).astype(int)) - 1
