"""What a ridge does to the linear solve of few-shot heads, to its reproducibility, and to the accuracy."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import (
    band,
    by_fill,
    dashed,
    describe,
    groups,
    key,
    legend,
    level,
    measured,
    panels,
    predicted,
    shaded,
    shared_legend,
)
from figures.style import BLUE, CYCLE, ORANGE, VERMILION, Array, Evidence, Series, paper_style

_COLOURS = {0.0: (VERMILION, "v"), **dict(zip((0.01, 0.1, 1.0), (CYCLE[0], CYCLE[1], CYCLE[2]), strict=True))}
_COMPARED = {"precision": "float32", "order": "other order"}  # hollow, filled
_FLOOR = 1e-16  # below it lies no difference of two float64 numbers
_CHANCE = 20.0  # per cent


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: |v_N|; b: its residual; c: two computations compared; d: the lower steps; e, f: accuracies, where trained."""
    trained = "grid_test" in evidence
    figure, axes = panels(3 if trained else 2, 2, height=8.4 if trained else 5.8)
    _lengths(axes[0], evidence)
    _residuals(axes[1], evidence)
    _differences(axes[2], evidence)
    _lower_steps(axes[3], evidence)
    if trained:
        _validation(axes[4], evidence)
        _tests(axes[5], evidence)
    keys = [key(_series(ridge)) for ridge in np.unique(evidence["ridge"])]
    band_of = shaded("10–90 % of the tasks" + (", e: of the seeds" if trained else ""))
    shared_legend(figure, *keys, band_of, columns=5)
    return figure


def _series(ridge: float) -> Series:
    colour, marker = _COLOURS[min(_COLOURS, key=lambda known: abs(known - ridge))]
    return Series(colour, marker, f"ridge {ridge:g}" if ridge else "no ridge")


def _over_steps(evidence: Evidence, ridge: float, name: str) -> tuple[Array, Array]:
    """N, and the quantity of all tasks and seeds, (N, tasks)."""
    own = evidence["ridge"] == ridge
    N = np.unique(evidence["N"][own])
    return N, np.stack([evidence[name][own & (evidence["N"] == n)] for n in N])


def _lengths(axes: Axes, evidence: Evidence) -> None:
    for ridge in np.unique(evidence["ridge"]):
        series = _series(ridge)
        N, v = _over_steps(evidence, ridge, "v")
        law = np.median(_over_steps(evidence, ridge, "v_law")[1], axis=1)
        shown = np.isfinite(law)
        measured(axes, N[shown], np.median(v, axis=1)[shown], series, label="")
        band(axes, N[shown], v[shown], series.colour)
        predicted(axes, N[shown], law[shown], series.colour)
    describe(axes, x="CG steps $N$", y=r"$\|v_N\|$", logarithmic="y", counts="x")
    legend(axes, dashed("exact arithmetic"))


def _residuals(axes: Axes, evidence: Evidence) -> None:
    for ridge in np.unique(evidence["ridge"]):
        series = _series(ridge)
        N, residual = _over_steps(evidence, ridge, "residual")
        shown = np.isfinite(_over_steps(evidence, ridge, "v_law")[1]).all(axis=1)
        law = np.median(_over_steps(evidence, ridge, "bound")[1], axis=1)
        measured(axes, N[shown], np.median(residual, axis=1)[shown], series, label="")
        band(axes, N[shown], residual[shown], series.colour)
        predicted(axes, N[shown], law[shown], series.colour)
    describe(axes, x="CG steps $N$", y=r"$\|b - Hv_N\|\,/\,\|b\|$", logarithmic="y", counts="x")
    legend(axes, dashed(r"$\leq \sqrt{\kappa}\,\chi_N$; no ridge: $\geq$ part out of range"), columns=1)


def _differences(axes: Axes, evidence: Evidence) -> None:
    """Of d: by float32 and float64, and by two orders of summation in float64."""
    for ridge in np.unique(evidence["ridge"]):
        series = _series(ridge)
        for filled, name in enumerate(_COMPARED):
            N, difference = _over_steps(evidence, ridge, f"d_{name}")
            median = np.maximum(np.median(difference, axis=1), _FLOOR)
            measured(axes, N, median, series, label="", filled=bool(filled))
            axes.plot(N, median, color=series.colour, linewidth=0.6)
    for unit in (np.finfo(np.float32).eps / 2, np.finfo(float).eps / 2):
        level(axes, unit)
    describe(axes, x="CG steps $N$", y="relative difference of $d$", logarithmic="xy")
    legend(axes, *by_fill(list(_COMPARED.values())), dashed("rounding units"), columns=3)


def _lower_steps(axes: Axes, evidence: Evidence) -> None:
    """With the scales of batch norm at 1, the larger ones."""
    columns = (evidence[f"lower_{name}"] for name in ("cells", "ratio", "contraction"))
    for (unit_scales, centred, alpha), ratio, contraction in zip(*columns, strict=True):
        if not unit_scales:
            continue
        colour = BLUE if centred else ORANGE
        step = f"{alpha:g}" if alpha else r"2/(L+\mu)"
        label = rf"{'centred' if centred else 'as they are'}, $\alpha = {step}$"
        k = np.arange(ratio.shape[-1])
        measured(axes, k, np.median(ratio, axis=0), Series(colour, "x" if alpha else "o", label))
        if not alpha:
            predicted(axes, k, np.median(contraction) ** k, colour)
    describe(axes, x="lower steps $k$", y=r"$\|\nabla_\theta g\|$ relative to the start", logarithmic="y", counts="x")
    legend(axes, dashed(r"$\leq \varrho^k$"), columns=2)


def _validation(axes: Axes, evidence: Evidence) -> None:
    for (ridge,), own in groups(evidence["grid_ridge"]):
        series, N, accuracy = _series(ridge), evidence["grid_N"][own], 100 * evidence["grid_validation"][own]
        measured(axes, N, np.median(accuracy, axis=1), series, label="")
        band(axes, N, accuracy, series.colour)
    level(axes, _CHANCE)
    describe(axes, x="CG steps $N$", y="accuracy on validation (%)", counts="x")
    legend(axes, dashed("chance"), columns=3)


def _tests(axes: Axes, evidence: Evidence) -> None:
    """Of the best cell, the best without a ridge, and no ridge with N = 20: a marker for each seed."""
    chosen = evidence["grid_chosen"]
    for place, (ridge, _) in enumerate(chosen):
        accuracy = 100 * evidence["grid_test"][place]
        series = _series(ridge)._replace(label="each seed" if place == 0 else "")
        measured(axes, np.full(len(accuracy), place), accuracy, series)
    axes.set_xlim(-0.5, len(chosen) - 0.5)
    predicted(axes, axes.get_xlim(), (_CHANCE, _CHANCE))
    describe(axes, x="chosen by validation; the published N", y="accuracy on test (%)")
    N = [f"$N = {count:.0f}$" for count in chosen[:, 1]]
    names = [f"best:\n{_series(chosen[0, 0]).label}, {N[0]}", f"best without:\n{N[1]}", f"no ridge:\n{N[2]}"]
    axes.set_xticks(range(len(chosen)), names)
    legend(axes, dashed("chance"), columns=2)
