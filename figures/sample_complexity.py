"""Samples and iterations that bring the averaged error below epsilon, and a batch that cannot."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import (
    band,
    dashed,
    describe,
    dotted,
    guide,
    key,
    legend,
    measured,
    panels,
    predicted,
    shaded,
    shared_legend,
    trace,
)
from figures.style import SAMPLINGS, Evidence, paper_style

NAMED = {"pool": SAMPLINGS[0]._replace(label="pool of 16"), "iid": SAMPLINGS[1]}


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: fewest samples over 1 / epsilon; b: iterations with b by the rule; c: the running average with b = 4."""
    figure, (samples, iterations, fixed) = panels(1, 3, height=3.1)
    _samples(samples, evidence)
    _iterations(iterations, evidence)
    _fixed_batch(fixed, evidence)
    spread = shaded("a: 10–90 % over resampled seeds, often within a marker")
    shared_legend(figure, *map(key, NAMED.values()), spread, dashed("exact"), columns=4)
    return figure


def _samples(axes: Axes, evidence: Evidence) -> None:
    e = evidence
    for name, series in NAMED.items():
        x = e["sigma_sq"] / e[f"{name}_eps"]
        band(axes, x, e[f"{name}_samples_resampled"].T, series.colour)
        measured(axes, x, e[f"{name}_samples"], series, label="")
        predicted(axes, x, e[f"{name}_samples_law"], series.colour)
        order = {"iid": 2, "pool": 1}[name]
        guide(axes, x, e[f"{name}_samples_law"][-1] * (x / x[-1]) ** order)
    describe(axes, x=r"$\sigma^2 / \epsilon$", y="samples $b\\,T$, best $b$", logarithmic="xy")
    legend(axes, dotted("slopes 2 and 1"))


def _iterations(axes: Axes, evidence: Evidence) -> None:
    e = evidence
    for name, series in NAMED.items():
        own = e[f"{name}_capped"] == 0
        x = e["sigma_sq"] / e[f"{name}_rule_eps"][own]
        measured(axes, x, e[f"{name}_hit"][own], series, label="")
        predicted(axes, x, e[f"{name}_hit_law"][own], series.colour)
    ends = e["sigma_sq"] / np.array([e["iid_rule_eps"].max(), e["iid_rule_eps"].min()])
    guide(axes, ends, 6 * e["gap"] * ends)
    describe(axes, x=r"$\sigma^2 / \epsilon$, $b$ by the rule", y="iterations until $\\epsilon$", logarithmic="xy")
    legend(axes, dotted(r"rule $6 L_\Phi \Delta / \epsilon$"))


def _fixed_batch(axes: Axes, evidence: Evidence) -> None:
    average, floor = evidence["fixed_average"], evidence["fixed_law"]
    T = np.arange(1, len(average) + 1)
    trace(axes, T, average / floor, NAMED["iid"])
    predicted(axes, T, evidence["fixed_average_law"] / floor, NAMED["iid"].colour)
    guide(axes, [1, len(T)], [0.5, 0.5])
    describe(axes, x="$T$ (upper iterations), $b = 4$", y="running average / its floor", logarithmic="xy")
    legend(axes, dotted(r"$\epsilon = F(4) / 2$"))
