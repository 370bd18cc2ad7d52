"""Throughput against the number of replicas: overhead, knee, and what the caches hold.

Drawn by `python -m tests.benchmarks.throughput` (no claim, and so none of `python -m figures`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.marks import band, dashed, describe, legend, level, measured, panels, predicted, shaded
from figures.style import BLACK, BLUE, GREEN, PURPLE, VERMILION, Array, Evidence, Series, paper_style

MIB = 2**20
PROBLEMS = {
    "small": Series(VERMILION, "^", "p 3, q 2"),
    "quadratic": Series(BLUE, "o", "p 10, q 20"),
    "wide": Series(PURPLE, "D", "p 20, q 100"),
    "heads": Series(GREEN, "s", "softmax heads"),
}
_KNEE = Line2D([], [], linestyle="none", color=BLACK, marker="|", markersize=9, label="knee $R = a/b$")


class Law(NamedTuple):
    """t(R) = n a + b R seconds an upper iteration of R replicas, in n chunks: overhead a, cost b of a replica."""

    overhead: float
    cost: float

    @property
    def knee(self) -> float:
        """a / b replicas: below, more of them cost nothing."""
        return self.overhead / self.cost

    def seconds(self, replicas: Array, chunks: Array) -> Array:
        """t(R)."""
        return np.asarray(chunks * self.overhead + self.cost * replicas)


def fit(replicas: Array, chunks: Array, seconds: Array) -> Law:
    """a and b by least squares of relative residuals, t / (n a + b R) = 1, of the medians over rounds (last axis)."""
    t = np.median(seconds, axis=-1)
    (a, b), *_ = np.linalg.lstsq(np.stack([chunks, replicas], -1) / t[:, None], np.ones(len(t)), rcond=None)
    return Law(float(a), float(b))


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: tasks a second over replicas, the law of overhead and cost; b: at once against chunks, over bytes touched."""
    figure, (rates, ratios) = panels(1, 2, height=2.9)
    for name, series in PROBLEMS.items():
        if f"{name}_replicas" in evidence:
            _rates(rates, evidence, name, series)
            _ratios(ratios, evidence, name, series)
    describe(rates, x="replicas $R$", y="task-iterations per CPU second", logarithmic="xy")
    describe(ratios, x="a step at once touches (MiB)", y="seconds at once / in chunks", logarithmic="x")
    ratios.set_ylim(bottom=0)
    ratios.axvline(float(evidence["cache"]) / MIB, color=BLACK, linewidth=0.6)
    level(ratios, 1.0)
    legend(rates, _KNEE, dashed("$n a + b R$, fitted"), shaded("10–90 % of rounds"))
    legend(ratios, Line2D([], [], color=BLACK, linewidth=0.6, label="size of a chunk"), dashed("no difference"))
    return figure


def _rates(axes: Axes, evidence: Evidence, name: str, series: Series) -> None:
    replicas, seconds = evidence[f"{name}_replicas"], evidence[f"{name}_seconds"]
    law = fit(replicas, evidence[f"{name}_chunks"], seconds)
    tasks = replicas * float(evidence[f"{name}_batch"])
    band(axes, replicas, tasks[:, None] / seconds, series.colour)
    label = f"{series.label}: knee at {law.knee:.0f}"
    measured(axes, replicas, tasks / np.median(seconds, axis=-1), series, label=label)
    predicted(axes, replicas, tasks / law.seconds(replicas, evidence[f"{name}_chunks"]), series.colour)
    knee = law.knee * float(evidence[f"{name}_batch"])
    axes.plot([law.knee], [knee / law.seconds(np.array(law.knee), np.array(1))], "|", color=BLACK, markersize=9)


def _ratios(axes: Axes, evidence: Evidence, name: str, series: Series) -> None:
    bytes_of, at_once = evidence[f"{name}_bytes"] / MIB, evidence[f"{name}_seconds_at_once"]
    cut = evidence[f"{name}_chunks"] > 1
    ratio = (at_once / evidence[f"{name}_seconds"])[cut]
    if cut.any():
        band(axes, bytes_of[cut], ratio, series.colour)
        measured(axes, bytes_of[cut], np.median(ratio, axis=-1), series)
