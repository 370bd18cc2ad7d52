"""A training run: loss, and accuracy on the validation episodes, against upper iterations.

Drawn by `python -m convergence train` from the metrics of the run (no claim, and so none of `python -m figures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.marks import dashed, describe, legend, panels, predicted
from figures.style import BLUE, GREY, VERMILION, Array, Evidence, paper_style

MIB = 2**20
_WINDOW = 1 / 20  # of all iterations, over which the loss is averaged


def evidence(metrics: Sequence[Mapping[str, Any]], *, way: int, label: str = "") -> Evidence:
    """The arrays of `draw` from what was recorded of each iteration, as in metrics.jsonl.

    way    classes of an episode, from which chance follows
    label  names the run
    """
    validated = [row for row in metrics if "validation_accuracy" in row]
    return {
        "iteration": np.array([row["iteration"] for row in metrics]),
        "loss": _numbers(row["loss"] for row in metrics),
        "validated": np.array([row["iteration"] for row in validated], int),
        "accuracy": _numbers(row["validation_accuracy"] for row in validated),
        "ci95": _numbers(row["validation_ci95"] for row in validated),
        "seconds": np.array(metrics[-1]["seconds"]),
        "peak_bytes": _numbers([metrics[0].get("peak_bytes")])[0],
        "chance": np.array(1 / way),
        "label": np.array(label),
    }


def _numbers(values: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], float)


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: loss and its moving mean; b: accuracy with its 95 % interval, the best marked, and chance."""
    figure, (losses, accuracies) = panels(1, 2, height=2.9)
    _losses(losses, evidence)
    _accuracies(accuracies, evidence)
    peak = evidence["peak_bytes"]
    memory = "" if np.isnan(peak) else f", peak {peak / MIB:.1f} MiB"
    label = f"{evidence['label']}: " if str(evidence["label"]) else ""
    figure.suptitle(f"{label}{len(evidence['iteration'])} iterations, {evidence['seconds']:.0f} s{memory}")
    return figure


def _losses(axes: Axes, evidence: Evidence) -> None:
    t, loss = evidence["iteration"], evidence["loss"]
    window = min(len(t), max(5, int(_WINDOW * len(t))))
    mean = np.convolve(loss, np.full(window, 1 / window), "valid")
    axes.plot(t, loss, color=BLUE, alpha=0.35, linewidth=0.6, label="of an iteration")
    axes.plot(t[window - 1 :], mean, color=BLUE, label=f"mean of the last {window}")
    describe(axes, x="upper iteration", y="loss on the query images", counts="x")
    legend(axes)


def _accuracies(axes: Axes, evidence: Evidence) -> None:
    t, accuracy, half = evidence["validated"], 100 * evidence["accuracy"], 100 * evidence["ci95"]
    axes.plot(t, accuracy, "o-", color=BLUE, markerfacecolor="white", label="validation, 95 % interval")
    axes.fill_between(t, accuracy - half, accuracy + half, color=BLUE, alpha=0.25, linewidth=0)
    keys: list[Line2D] = []
    if len(t):
        best = int(np.argmax(accuracy))
        label = f"best: {accuracy[best]:.1f} % at {t[best]}"
        axes.plot(t[best], accuracy[best], "D", color=VERMILION, markersize=6, label=label, zorder=3)
        chance = 100 * float(evidence["chance"])
        predicted(axes, evidence["iteration"][[0, -1]], [chance, chance], GREY)
        keys.append(dashed("chance", GREY))
    describe(axes, x="upper iteration", y="accuracy (%)", counts="x")
    legend(axes, *keys)
