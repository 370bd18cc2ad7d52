"""Memory, time and passes through the network of a few-shot iteration over the lower steps K."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from figures.marks import band, dashed, describe, key, level, measured, panels, predicted, shaded, shared_legend
from figures.style import FEW_SHOT_COSTS, Evidence, paper_style

MIB = 2**20


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: peak memory; b: CPU seconds beside the plain network's, over rounds; c: passes, forward and backward."""
    figure, (memory, time, passes) = panels(1, 3, height=3.0)
    K, plain = evidence["K"], evidence["plain_seconds"].min(0)
    every = np.arange(K[0], K[-1] + 1)  # on logarithmic axes an affine law is a curve
    for name, series in FEW_SHOT_COSTS.items():
        peak = evidence[f"{name}_peak"] / MIB
        slope = evidence[f"{name}_law"][0] / MIB if f"{name}_law" in evidence else 0.0
        measured(memory, K, peak, series)
        predicted(memory, every, peak[0] + slope * (every - K[0]), series.colour)
        ratio = evidence[f"{name}_seconds"] / plain
        band(time, K, ratio, series.colour)
        measured(time, K, np.median(ratio, axis=-1), series)
        measured(passes, K, evidence[f"{name}_passes"].sum(-1), series)
        predicted(passes, every, np.interp(every, K, evidence[f"{name}_passes_law"].sum(-1)), series.colour)
    level(time, 1.0)
    where = "CUDA" if evidence["cuda"] else "CPU"
    describe(memory, x="lower steps $K$", y="peak memory (MiB)", logarithmic="xy")
    describe(time, x="lower steps $K$", y=f"{where} seconds / plain network", logarithmic="xy")
    describe(passes, x="lower steps $K$", y="passes of the images, both ways", logarithmic="xy")
    keys = [key(series) for series in FEW_SHOT_COSTS.values()]
    shared_legend(figure, *keys, dashed("predicted; b: plain network"), shaded("10–90 % of rounds"), columns=3)
    return figure
