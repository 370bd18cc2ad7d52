"""How far each estimator of the hypergradient is off: over lower steps, over steps for v, in the mean, by name."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, dotted, guide, legend, measured, panels, predicted
from figures.style import BIASES, METHODS, Evidence, method, paper_style, power_of_ten

ALLOWED = 1e-9  # relative, by the claim
LEAST = 1e-17  # where directions that are equal to the last bit are drawn
NOISE = 1e-15  # of the relative error: what rounding leaves


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: relative error over K; b: over N; c: the mean of n random directions over n; d: methods by name."""
    figure, (over_K, over_N, random, by_name) = panels(2, 2, height=6.4)
    _over(over_K, evidence, "K", "lower steps $K$", ("first order", "truncated", "unrolled", "heavy ball", "implicit"))
    _over(over_N, evidence, "N", "steps for $v$, $N$", ("Richardson", "Neumann", "CG"))
    _random(random, evidence)
    _by_name(by_name, evidence)
    return figure


def _over(axes: Axes, e: Evidence, kind: str, label: str, names: tuple[str, ...]) -> None:
    size = np.linalg.norm(e["gradient"])
    for name in names:
        own, series = e[f"{kind}_names"] == name, BIASES[name]
        counts = e[f"{kind}_counts"][own]
        error, law = (np.linalg.norm(e[f"{kind}_{d}"][own] - e["gradient"], axis=1) / size for d in ("d", "law"))
        seen = law > NOISE
        measured(axes, counts[seen], error[seen], series)
        predicted(axes, counts[seen], law[seen], series.colour)
    describe(axes, x=label, y=r"$\|d - \nabla\Phi\|\,/\,\|\nabla\Phi\|$", logarithmic="y", counts="x")
    legend(axes, dashed("formula"), columns=2)


def _random(axes: Axes, e: Evidence) -> None:
    counts = np.unique(np.geomspace(4, e["random_d"].shape[1], 20).astype(int))
    for name, d, law in zip(e["random_names"], e["random_d"], e["random_law"], strict=True):
        if name in METHODS:  # one of these estimators
            continue
        series, size = BIASES.get(str(name), method(name)), np.linalg.norm(law)
        # disjoint groups of n directions: the root mean square of their mean's error
        error = [np.sqrt(_groups(d - law, n).mean()) / size for n in counts]
        measured(axes, counts, np.array(error), series)
        spread = np.sqrt(np.square(d - law).sum(1).mean()) / size
        predicted(axes, counts, spread / np.sqrt(counts), series.colour)
    describe(axes, x="directions averaged", y="error of the mean, relative", logarithmic="xy")
    legend(axes, dashed(r"$n^{-1/2}$"), columns=1)


def _by_name(axes: Axes, e: Evidence) -> None:
    """A row for each method: how far its direction is off its formula."""
    looks, law = [method(name) for name in e["methods_names"]], e["methods_law"]
    off = np.linalg.norm(e["methods_d"] - law, axis=1) / np.linalg.norm(law, axis=1)
    for place, (series, value) in enumerate(zip(looks, off, strict=True)):
        measured(axes, [max(value, LEAST)], [place], series, label="")
    places = [-0.5, len(looks) - 0.5]
    predicted(axes, [ALLOWED] * 2, places)
    guide(axes, [LEAST] * 2, places)
    describe(axes, x="direction off its formula, relative", y="method", logarithmic="x")
    axes.set(xlim=(LEAST / 3, max(10 * ALLOWED, 3 * off[np.isfinite(off)].max(initial=0))), ylim=places[::-1])
    axes.set_yticks(range(len(looks)), [series.label for series in looks])
    nothing = f"equal to the last bit: at ${power_of_ten(LEAST)}$"
    legend(axes, dashed(f"allowed: ${power_of_ten(ALLOWED)}$"), dotted(nothing), columns=1)


def _groups(samples: np.ndarray, n: int) -> np.ndarray:
    """|mean|^2 of disjoint groups of n samples."""
    count = len(samples) // n
    return np.square(samples[: count * n].reshape(count, n, -1).mean(1)).sum(1)
