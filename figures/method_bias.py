"""How far each estimator of the hypergradient is off: over lower steps, over steps for v, and in the mean."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, legend, measured, panels, predicted
from figures.style import BIASES, Evidence, paper_style

NOISE = 1e-15  # of the relative error: what rounding leaves


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: relative error over K; b: over N; c: the mean of n random directions over n."""
    figure, (over_K, over_N, random) = panels(1, 3, height=2.9)
    _over(over_K, evidence, "K", "lower steps $K$", ("first order", "truncated", "unrolled", "heavy ball", "implicit"))
    _over(over_N, evidence, "N", "steps for $v$, $N$", ("Richardson", "Neumann", "CG"))
    _random(random, evidence)
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
    describe(axes, x=label, y=r"$|d - \nabla\Phi|\,/\,|\nabla\Phi|$", logarithmic="y", counts="x")
    legend(axes, dashed("formula"), columns=2)


def _random(axes: Axes, e: Evidence) -> None:
    counts = np.unique(np.geomspace(4, e["random_d"].shape[1], 20).astype(int))
    for name, d, law in zip(e["random_names"], e["random_d"], e["random_law"], strict=True):
        if name not in BIASES:  # a method by name: one of these estimators
            continue
        series, size = BIASES[str(name)], np.linalg.norm(law)
        # disjoint groups of n directions: the root mean square of their mean's error
        error = [np.sqrt(_groups(d - law, n).mean()) / size for n in counts]
        measured(axes, counts, np.array(error), series)
        spread = np.sqrt(np.square(d - law).sum(1).mean()) / size
        predicted(axes, counts, spread / np.sqrt(counts), series.colour)
    describe(axes, x="directions averaged", y="error of the mean, relative", logarithmic="xy")
    legend(axes, dashed(r"$n^{-1/2}$"), columns=1)


def _groups(samples: np.ndarray, n: int) -> np.ndarray:
    """|mean|^2 of disjoint groups of n samples."""
    count = len(samples) // n
    return np.square(samples[: count * n].reshape(count, n, -1).mean(1)).sum(1)
