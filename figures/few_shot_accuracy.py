"""Accuracy of few-shot recipes: on validation episodes during training, on test episodes after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.marks import band, dashed, describe, key, legend, measured, panels, predicted, shaded, trace
from figures.style import GREY, RECIPES, Array, Evidence, Series, paper_style

CHANCE = 20.0  # per cent, of five classes
DATA_SETS = {
    "cifar-fs": "CIFAR-FS",
    "fc100": "FC100",
    "mini-imagenet": "miniImageNet",
    "tiered-imagenet": "tieredImageNet",
}
_ROW = 0.19  # inches


class Row(NamedTuple):
    """One line of panel b: its name, samples of the accuracy in per cent, what it was to reach, how it is drawn."""

    name: str
    samples: Array
    reference: float
    series: Series


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: accuracy on validation episodes over iterations; b: on test episodes, with its interval and its bar."""
    rows = [*_glyphs(evidence), *_benchmarks(evidence)]
    figure, (curves, table) = panels(1, 2, height=max(3.2, 1.1 + _ROW * len(rows)), ratios=(1, 0.8))
    _curves(curves, evidence)
    _table(table, rows)
    return figure


def _curves(axes: Axes, evidence: Evidence) -> None:
    names, several = [str(name) for name in evidence["recipes"]], False
    for name in names:
        iterations, accuracies = evidence[f"{name}_iterations"], 100 * evidence[f"{name}_validation"]
        if len(iterations):
            trace(axes, iterations, np.median(accuracies, axis=1), RECIPES[name])
            band(axes, iterations, accuracies, RECIPES[name].colour)
            several = several or accuracies.shape[1] > 1
    axes.set_xlim(left=0)
    predicted(axes, axes.get_xlim(), (CHANCE, CHANCE))
    describe(axes, x="upper iterations", y="accuracy on validation episodes (%)", counts="x")
    seeds = [shaded("10–90 % of the seeds")] if several else []
    legend(axes, *(key(RECIPES[name]) for name in names), dashed("chance"), *seeds, columns=2)


def _table(axes: Axes, rows: list[Row]) -> None:
    """From top to bottom; the interval is Student's, over seeds where there are several, else over episodes."""
    for place, row in enumerate(rows):
        mean, half = float(row.samples.mean()), _half_width(row.samples)
        measured(axes, [mean], [place], row.series, label="")
        axes.plot([mean - half, mean + half], [place, place], color=row.series.colour, linewidth=1.2)
        if np.isfinite(row.reference):
            predicted(axes, [row.reference] * 2, [place - 0.4, place + 0.4], row.series.colour)
    predicted(axes, [CHANCE] * 2, [-0.5, len(rows) - 0.5])
    describe(axes, x="accuracy on test episodes (%)", y="recipe, upper iterations")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    interval = Line2D([], [], color=GREY, linewidth=1.2, label="95 % interval")
    legend(axes, interval, dashed("chance, to reach"), columns=1)


def _glyphs(evidence: Evidence) -> Iterator[Row]:
    columns = (evidence[f"bar_{name}"].tolist() for name in ("recipe", "iterations", "least"))
    bars = {(recipe, iterations): 100 * least for recipe, iterations, least in zip(*columns, strict=True)}
    for name in map(str, evidence["recipes"]):
        for iterations, accuracies in zip(evidence[f"{name}_tested"].tolist(), evidence[f"{name}_test"], strict=True):
            reference = bars.get((name, iterations), np.nan)
            yield Row(f"{_short(name)}, {iterations}", 100 * _samples(accuracies), reference, RECIPES[name])


def _benchmarks(evidence: Evidence) -> Iterator[Row]:
    for data in map(str, evidence.get("found", np.array([], str))):
        for name in ("memory_reduced", "published", "itd_bio", "anil", "maml"):
            reference = 100 * float(evidence[f"{data}_{name}_reported"])
            yield Row(f"{DATA_SETS[data]}, {_short(name)}", 100 * evidence[f"{data}_{name}"], reference, RECIPES[name])


def _short(name: str) -> str:
    return RECIPES[name].label.replace("memory-reduced, ", "").replace("first-order", "FO")


def _samples(accuracies: Array) -> Array:
    """Means of the seeds, or the episodes of a single one."""
    return accuracies.mean(axis=-1) if len(accuracies) > 1 else accuracies[0]


def _half_width(samples: Array) -> float:
    return float(scipy.stats.t.ppf(0.975, len(samples) - 1) * scipy.stats.sem(samples)) if len(samples) > 1 else 0.0
