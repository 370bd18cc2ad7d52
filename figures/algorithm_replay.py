"""The iterates of the algorithm beside those of its lines written out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import (
    dashed,
    describe,
    dotted,
    guide,
    key,
    legend,
    level,
    measured,
    panels,
    predicted,
    shared_legend,
)
from figures.style import FAMILIES, Array, Evidence, Series, paper_style, power_of_ten

# Of the evidence, of the style
NAMES = {"quadratic": "quadratic", "heads": "softmax", "representation": "representation", "two_tensors": "two_tensors"}
ALLOWED = 1e-12  # relative, by the claim
SMALLEST = 1e-17  # where iterates that are equal to the last bit are drawn


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: how far the first run of each family has moved; b: the largest difference from the replay in all its runs."""
    figure, (path, difference) = panels(1, 2, height=2.9)
    series = {name: FAMILIES[style] for name, style in NAMES.items()}
    for name, look in series.items():
        phi, law = evidence[f"{name}_phi"], evidence[f"{name}_law"]
        times = np.arange(phi.shape[2])
        measured(path, times, _moved(phi), look, label="")
        predicted(path, times, _moved(law), look.colour)
        _differences(difference, times, phi, law, look)
    describe(path, x="upper iteration $t$", y=r"$\|\phi_t - \phi_0\|$", counts="x")
    level(difference, ALLOWED)
    nothing = f"equal to the last bit: drawn at ${power_of_ten(SMALLEST)}$"
    guide(difference, [0, times[-1]], [SMALLEST, SMALLEST])
    describe(difference, x="upper iteration $t$", y="largest relative difference", logarithmic="y", counts="x")
    difference.set_ylim(SMALLEST / 3, max(1e-9, 3 * difference.dataLim.y1))
    legend(path, dashed("written out"))
    legend(difference, dashed(f"allowed: ${power_of_ten(ALLOWED)}$"), dotted(nothing), columns=1)
    shared_legend(figure, *map(key, series.values()))
    return figure


def _moved(iterates: Array) -> Array:
    """|phi_t - phi_0| of the first run in the first cell, (T + 1,)."""
    first = iterates[0, 0]
    return np.linalg.norm(first - first[0], axis=-1)


def _differences(axes: Axes, times: Array, phi: Array, law: Array, series: Series) -> None:
    relative = np.linalg.norm(phi - law, axis=-1) / np.linalg.norm(law, axis=-1)
    measured(axes, times, np.maximum(relative.max((0, 1)), SMALLEST), series, label="")
