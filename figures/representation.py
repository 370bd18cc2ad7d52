"""A shared representation: Phi over upper iterations, warm and cold, and the trap of unshrunken targets."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import band, dashed, describe, dotted, guide, legend, level, measured, panels, predicted, shaded
from figures.style import BLUE, CYCLE, VERMILION, Array, Evidence, Series, paper_style

LEARNT = 1e-25  # Phi that counts as zero, as in the claim
SMALLEST = 1e-33  # on the axis: rounding may leave exactly zero
WARM, TRAP = Series(BLUE, "o", "warm"), Series(VERMILION, "^", "measured")


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: Phi from random starts; b: |grad Phi|^2 where the targets are not shrunken, with its law."""
    figure, (starts, trap) = panels(1, 2, height=3.1)
    _from_random_starts(starts, evidence)
    t = evidence["trap_t"][1:]
    places = np.unique(np.geomspace(1, len(t), 8).astype(int)) - 1
    measured(trap, t[places], evidence["trap_square"][1:][places], TRAP)
    predicted(trap, t, evidence["trap_law"][1:], TRAP.colour)
    guide(trap, t, evidence["trap_law"][-1] * (t / t[-1]) ** (-5 / 3))
    describe(trap, x="upper iteration $t$", y=r"$\|\nabla\Phi(\phi_t)\|^2$", logarithmic="xy")
    legend(trap, dashed("law of the trap"), dotted("$t^{-5/3}$"), columns=3)
    return figure


def _from_random_starts(axes: Axes, evidence: Evidence) -> None:
    t = evidence["t"]
    warm = np.maximum(evidence["warm"], SMALLEST)
    band(axes, t, warm, WARM.colour)
    places = _spread(len(t))
    measured(axes, t[places], np.median(warm, axis=-1)[places], WARM)
    for k, K in enumerate(evidence["cold_K"]):
        values = np.maximum(evidence["cold"][k], SMALLEST)
        series = Series(CYCLE[k + 2][0], CYCLE[k + 2][1], f"cold, $K = {K:g}$")
        t = evidence["cold_t"]
        places = _spread(len(t))
        measured(axes, t[places], np.median(values, axis=-1)[places], series)
        predicted(axes, t[[0, -1]], evidence["cold_law"][[k, k]], series.colour)
    level(axes, LEARNT)
    describe(axes, x="upper iteration $t$", y=r"$\Phi(\phi_t)$", logarithmic="y")
    starts = shaded(f"10–90 % of {warm.shape[-1]} starts", WARM.colour)
    legend(axes, starts, dashed(r"cold end, and $10^{-25}$"), columns=3)


def _spread(count: int) -> Array:
    """Some eight places out of count."""
    return np.unique(np.linspace(0, count - 1, 8).astype(int))
