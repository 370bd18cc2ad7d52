"""Peak memory of one upper iteration over lower steps K and CG steps N."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, legend, measured, panels, predicted
from figures.style import METHODS, Array, Evidence, paper_style

KIB = 1024


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: over K, memory-reduced and unrolled; b: over N."""
    figure, (lower, conjugate) = panels(1, 2, height=2.9, ratios=(1.6, 1), sharey=True)
    _flat(lower, evidence["counts"], evidence["over_K"])
    _unrolled(lower, evidence)
    _flat(conjugate, evidence["counts"], evidence["over_N"])
    where = "CUDA memory" if evidence["cuda"] else "memory"
    describe(lower, x="lower steps $K$", y=f"peak {where} (KiB)", counts="x")
    describe(conjugate, x="CG steps $N$", y=f"peak {where} (KiB)", counts="x")
    lower.set_ylim(bottom=0)
    conjugate.tick_params(labelleft=True)
    legend(lower, dashed("predicted"))
    legend(conjugate, dashed("predicted"))
    return figure


def _flat(axes: Axes, counts: Array, peak: Array) -> None:
    series = METHODS["memory_reduced"]
    measured(axes, counts, peak / KIB, series, size=3)
    predicted(axes, counts, np.full(len(counts), peak[0] / KIB), series.colour)


def _unrolled(axes: Axes, evidence: Evidence) -> None:
    """Both sizes: the slope is predicted, the line starts at the first measurement."""
    K, series = evidence["unrolled_K"], METHODS["unrolled"]
    sizes = sorted(name.removeprefix("law_") for name in evidence if name.startswith("law_"))
    for size, marker in zip(sizes, "s^Dv", strict=False):
        peak, law = evidence[f"unrolled_{size}"], float(evidence[f"law_{size}"])
        label = f"{series.label}, {law:.0f} bytes a step"
        measured(axes, K, peak / KIB, series._replace(marker=marker), label=label)
        predicted(axes, K, (peak[0] + law * (K - K[0])) / KIB, series.colour)
