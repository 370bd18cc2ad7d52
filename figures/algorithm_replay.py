"""The iterates of the algorithm beside those of its lines written out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, key, level, measured, panels, predicted, shared_legend
from figures.style import FAMILIES, Array, Evidence, Series, paper_style

NAMES = {"quadratic": "quadratic", "heads": "softmax", "representation": "representation"}  # of evidence, of style
ALLOWED = 1e-12  # relative, by the claim
SMALLEST = 1e-17  # where a difference of nothing is drawn


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: how far the first cell of each family has moved; b: the largest difference from the replay of all cells."""
    figure, (path, difference) = panels(1, 2, height=2.9)
    series = {name: FAMILIES[style] for name, style in NAMES.items()}
    for name, look in series.items():
        phi, law = evidence[f"{name}_phi"], evidence[f"{name}_law"]
        times = np.arange(phi.shape[2])
        measured(path, times, _moved(phi), look)
        predicted(path, times, _moved(law), look.colour)
        _differences(difference, times, phi, law, look)
    describe(path, x="upper iteration $t$", y=r"$\|\phi_t - \phi_0\|$", counts="x")
    level(difference, ALLOWED)
    describe(difference, x="upper iteration $t$", y="largest relative difference", logarithmic="y", counts="x")
    difference.set_ylim(SMALLEST / 3, 1e-9)
    shared_legend(figure, *map(key, series.values()), dashed("written out; what is allowed"), columns=4)
    return figure


def _moved(iterates: Array) -> Array:
    """|phi_t - phi_0| of the first replica in the first cell, (T + 1,)."""
    first = iterates[0, 0]
    return np.linalg.norm(first - first[0], axis=-1)


def _differences(axes: Axes, times: Array, phi: Array, law: Array, series: Series) -> None:
    relative = np.linalg.norm(phi - law, axis=-1) / np.linalg.norm(law, axis=-1)
    measured(axes, times, np.maximum(relative.max((0, 1)), SMALLEST), series)
